"""Groovy stubs, without windows, of the QuPath and JavaFX classes that the menu scripts use."""

from __future__ import annotations

from pathlib import Path

_EMPTY = [
    *(f"javafx.stage.{name}" for name in ("DirectoryChooser", "FileChooser")),
]
_CLASSES = {
    "javafx.application.Platform": (
        """
    static void runLater(Runnable task) { task.run() }
    static boolean isFxApplicationThread() { false }
    """
    ),
    "javafx.scene.Scene": "Scene(Object content) {}",
    "javafx.scene.layout.VBox": "VBox(Object... content) {}",
    "javafx.scene.control.Label": "String text = ''; Label(String text) {}",
    "javafx.scene.control.ProgressBar": "double prefWidth; double progress",
    "javafx.scene.control.Button": (
        """
    Button(String text) {}
    void setOnAction(Closure action) {
        if (System.getProperty("cancel")) Thread.start { sleep(1000); action() }
    }
    """
    ),
    "javafx.scene.control.ButtonType": (
        "static CLOSE = new ButtonType(''); ButtonType(String text) {}"
    ),
    "javafx.scene.control.Alert": (
        """
    enum AlertType { INFORMATION, ERROR }
    ButtonType accept
    Alert(AlertType type, String text, ButtonType... buttons) {
        println("ALERT " + text)
        accept = buttons ? buttons[0] : null
    }
    void setHeaderText(String text) {}
    void show() {}
    Optional showAndWait() { Optional.of(accept) }
    """
    ),
    "javafx.stage.Stage": (
        """
    String title
    void initOwner(Object owner) {}
    void setScene(Object scene) {}
    void setOnCloseRequest(Closure action) {}
    void show() {}
    void close() { println("CLOSED " + title) }
    """
    ),
    "javafx.scene.control.TextInputDialog": (
        """
    static int shown = 0
    void setTitle(String text) {}
    void setHeaderText(String text) {}
    Optional showAndWait() { shown += 1; Optional.ofNullable(System.getProperty("organ")) }
    """
    ),
    "qupath.lib.common.ColorTools": (
        "static int packRGB(int r, int g, int b) { (r << 16) | (g << 8) | b }"
    ),
    "qupath.lib.common.GeneralTools": 'static String getVersion() { "0.6.0" }',
    "qupath.lib.gui.QuPathGUI": (
        """
    static getInstance() { System.getProperty("window") ? new QuPathGUI() : null }
    def getStage() { null }
    def getImageData() { System.getProperty("batch") ? null : qupath.lib.gui.scripting.QPEx.image }
    """
    ),
    "qupath.lib.objects.classes.PathClass": (
        "static PathClass fromString(String name, Integer color) { null }"
    ),
    "qupath.lib.objects.PathObject": (
        """
    Map json
    UUID getID() { UUID.fromString(json.id) }
    def getParent() { qupath.lib.gui.scripting.QPEx.image.getHierarchy().getRootObject() }
    boolean isAnnotation() { json.properties.objectType == "annotation" }
    def getROI() { new Expando(isArea: { -> json.geometry.type == "Polygon" }) }
    def getPathClass() { json.properties.classification?.name }
    """
    ),
    "qupath.lib.gui.tools.GuiTools": (
        'static boolean browseURI(URI uri) { println("BROWSED " + uri) }'
    ),
    "qupath.lib.io.GsonTools": (
        """
    static GsonTools getInstance() { new GsonTools() }
    def fromJson(String text, Class type) {
        def json = new groovy.json.JsonSlurper().parseText(text)
        type == Map ? json : new qupath.lib.objects.PathObject(json: json)
    }
    """
    ),
    "qupath.lib.gui.scripting.QPEx": (
        """
    static image = makeImage()
    static getCurrentImageData() { image }
    static getProject() { null }
    static getProjectEntry() { null }
    static void exportObjectsToGeoJson(Collection objects, String path, String option) {
        assert option == "FEATURE_COLLECTION"
        def all = [type: "FeatureCollection", features: objects.collect { it.json }]
        new File(path).setText(groovy.json.JsonOutput.toJson(all), "UTF-8")
    }
    static makeImage() {
        def state = new groovy.json.JsonSlurper().parse(new File(System.getenv("QUPATH_STATE")))
        def objects = state.objects.collect { new qupath.lib.objects.PathObject(json: it) }
        def selected = objects.findAll { it.json.id in state.selected }
        def detections = state.detections.collect { new qupath.lib.objects.PathObject(json: it) }
        def hierarchy = new Expando(detections: detections)
        hierarchy.getSelectionModel = { -> new Expando(getSelectedObjects: { -> selected }) }
        hierarchy.getAnnotationObjects = { -> objects }
        hierarchy.getDetectionObjects = { -> hierarchy.detections }
        def root = new Expando()
        root.addChildObjects = { detections.addAll(it) }
        root.removeChildObjects = { detections.removeAll(it) }
        hierarchy.getRootObject = { -> root }
        hierarchy.fireHierarchyChangedEvent = { println("IMPORTED " + hierarchy.detections.size()) }
        def sized = { mpp ->
            new Expando(getAveragedPixelSizeMicrons: { -> mpp == null ? Double.NaN : mpp })
        }
        def original = new Expando(getPixelCalibration: { -> sized(state.file_mpp) })
        def server = new Expando(getURIs: { -> [new URI(state.uri)] },
            getWidth: { -> state.size[0] }, getHeight: { -> state.size[1] },
            getMetadata: { -> new Expando(getName: { -> state.name }) },
            getPixelCalibration: { -> sized(state.mpp) }, getOriginalMetadata: { -> original })
        new Expando(getServer: { -> server }, getHierarchy: { -> hierarchy },
            getImageType: { -> state.type })
    }
    """
    ),
}


def write_stubs(folder: Path) -> Path:
    """Write the stubs to a folder that can be on Groovy's class path, and return it."""
    for name, body in {**dict.fromkeys(_EMPTY, ""), **_CLASSES}.items():
        package, _, word = name.rpartition(".")
        path = folder / package.replace(".", "/") / f"{word}.groovy"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"package {package}\nclass {word} {{\n {body}\n}}\n", encoding="utf-8")
    return folder
