/*
 * Import the nuclei that `muse` found into the open image, or into every image of the project.
 *
 * The files are read line by line, one nucleus at a time: a million nuclei need about 2 GB of memory, where drag and drop
 * of the same file needs more than 7 GB. 322,719 nuclei took 27 s (QuPath 0.5.1 on two cores).
 *
 * In QuPath 0.4 to 0.7: Automate > Script editor, open this file, set the three variables below, press Run.
 * Without a window, for every image: QuPath script --project P.qpproj --save --args RESULTS import_nuclei.groovy
 *
 * It reads nuclei.geojson.gz and needs no parts (nuclei.part-001.geojson.gz). Parts are for drag and drop, one at a time: QuPath
 * imports only the first of several files that are dropped together, and if no image is open, it shows the file as text.
 *
 * The open image is changed but not saved: File > Save keeps the nuclei. The other images of a project are saved.
 *
 * Two ways to undo an import: Ctrl+Z, if the image then has no more objects than the preference "Max undo hierarchy size"
 * allows (10,000 unless changed); and action "remove" for any number, because every nucleus keeps its id.
 */
import static qupath.lib.gui.scripting.QPEx.*

import java.util.concurrent.FutureTask
import java.util.zip.GZIPInputStream
import javafx.application.Platform
import javafx.scene.Scene
import javafx.scene.control.Button
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.layout.VBox
import javafx.stage.DirectoryChooser
import javafx.stage.Stage
import qupath.lib.common.ColorTools
import qupath.lib.common.GeneralTools
import qupath.lib.gui.QuPathGUI
import qupath.lib.io.GsonTools
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass

def results = null          // folder with one folder per slide, such as "/data/results"; null to be asked for it
def action = "add"          // nuclei that are not there yet; or "remove" those of an earlier import; or "replace" ALL detections
def wholeProject = false    // true: every image of the project that has results

try {
    results = args ? args[0] : results
    action = args && args.length > 1 ? args[1] : action
} catch (MissingPropertyException notFromTheCommandLine) {
    // the script editor of some versions defines no args
}
if (!(action in ["replace", "add", "remove"]))
    throw new IllegalArgumentException("action is '" + action + "'; choose add, remove or replace")
if (wholeProject && getProject() == null)
    throw new IllegalArgumentException("No project is open; open one, or set wholeProject to false for one image")
if (!wholeProject && getCurrentImageData() == null)
    throw new IllegalArgumentException("No image is open; open one, or set wholeProject to true for a whole project")
def folder = results ? new File(results) : askForFolder()
if (folder == null)
    return
def allResults = findResults(folder)
if (allResults.isEmpty())
    throw new IllegalArgumentException("No */nuclei.provenance.json in " + folder + "; choose the folder of all results")

if (wholeProject) {
    getProject().getImageList().each { entry ->
        if (entry == getProjectEntry()) {
            importIntoOpenImage(entry.getImageName(), allResults, action)
            return
        }
        def found = resultsOf(entry.getImageName(), entry.getURIs(), allResults)
        if (found.size() != 1) {
            println(entry.getImageName() + ": " + whyNone(found))
            return
        }
        def imageData = entry.readImageData()
        if (importNuclei(imageData, entry.getImageName(), allResults, action))
            entry.saveImageData(imageData)
        imageData.getServer().close()
    }
} else {
    importIntoOpenImage(getCurrentImageData().getServer().getMetadata().getName(), allResults, action)
}

/** Change the open image, which is left to the user to save. */
void importIntoOpenImage(String imageName, List allResults, String action) {
    def isChanged = importNuclei(getCurrentImageData(), imageName, allResults, action)
    if (isChanged && QuPathGUI.getInstance() != null)
        println(imageName + ": is open and not saved yet; File > Save keeps the change")
}

/** Import the nuclei of one image as a single change, and remove those with the ids `replaced`; true if anything changed. */
boolean importNuclei(imageData, String imageName, List allResults, String action, Set replaced = []) {
    def server = imageData.getServer()
    def results = resultsOf(imageName, server.getURIs(), allResults)
    if (results.size() != 1) {
        println(imageName + ": " + whyNone(results))
        return false
    }
    def found = results[0]
    if (found.sidecar.frame != "qupath")
        throw new IllegalArgumentException(found.file.toString() + " is in the frame '" + found.sidecar.frame
            + "'; write it again with --frame qupath")
    def size = [server.getWidth(), server.getHeight()]
    def expected = found.sidecar.size_px?.collect { it as int }
    if (expected && size != expected) {
        println(imageName + ": has " + size.join(" x ") + " pixels, but " + found.file + " was made from a slide of "
            + expected.join(" x ") + "; nothing was imported")
        return false
    }
    found.sidecar.provenance.card.classes.each { model ->  // before derived classes, which would give them their own color
        PathClass.fromString(model.name, ColorTools.packRGB(*model.color.collect { it as int }))
    }
    def progress = openProgress("Importing nuclei", imageName)
    try {
        def leftOut = found.sidecar.provenance.quality?.n_nuclei ?: 0  // in the file, but not in totals
        def nuclei = readNuclei(found.file, (found.sidecar.provenance.n_nuclei + leftOut) as long, progress)
        def hierarchy = imageData.getHierarchy()
        def present = hierarchy.getDetectionObjects()
        def ids = new HashSet(nuclei.collect { it.getID() })
        def old = action == "remove" ? ids : replaced
        def gone = action == "replace" ? present : present.findAll { it.getID() in old }
        if (action == "add") {
            def known = present.collect { it.getID() } as HashSet
            known.removeAll(old)
            nuclei = nuclei.findAll { !(it.getID() in known) }
        }
        if (action == "remove")
            nuclei = []
        gone.groupBy { it.getParent() }.each { parent, children -> parent.removeChildObjects(new HashSet(children)) }
        hierarchy.getRootObject().addChildObjects(nuclei)
        def changed = gone.isEmpty() ? nuclei : gone
        if (!changed.isEmpty())
            fireChange(hierarchy, changed.iterator().next())
        println(imageName + ": " + gone.size() + " detections removed, " + nuclei.size() + " nuclei added from " + found.file)
        return !changed.isEmpty()
    } finally {
        progress(null)
    }
}

/**
 * Report a change of many objects as one step for Ctrl+Z.
 *
 * QuPath 0.4 and 0.5 do not record events that name no object, such as that of the hierarchy; a second event names one.
 */
void fireChange(hierarchy, PathObject oneOfThem) {
    hierarchy.fireHierarchyChangedEvent(this)
    if (GeneralTools.getVersion() ==~ /v?0\.[45]\..*/)
        hierarchy.fireObjectsChangedEvent(this, [oneOfThem])
}

/** Read the nuclei of a file that `muse` wrote, in which every feature has its own line. */
List<PathObject> readNuclei(File file, long expected, Closure progress) {
    def gson = GsonTools.getInstance()
    def nuclei = new ArrayList<PathObject>((int) expected)
    def text = new InputStreamReader(new GZIPInputStream(new FileInputStream(file), 1 << 16), "UTF-8")
    new BufferedReader(text, 1 << 16).withCloseable { reader ->
        def line
        while ((line = reader.readLine()) != null) {
            if (!line.startsWith('{"type":"Feature",'))
                continue
            nuclei.add(gson.fromJson(line.endsWith(",") ? line.substring(0, line.length() - 1) : line, PathObject.class))
            if (nuclei.size() % 10000 == 0)
                progress(nuclei.size() / expected)
        }
    }
    if (nuclei.size() != expected)
        throw new IOException(file.toString() + " holds " + nuclei.size() + " nuclei, not " + expected + "; it is not complete")
    return nuclei
}

/** Every result in the folder, with the names its image may have: the slide's file, with and without its ending, and its id. */
List findResults(File folder) {
    def found = []
    def candidates = [folder] + (folder.listFiles()?.findAll { it.isDirectory() }?.sort() ?: [])
    candidates.each { slide ->
        def sidecarFile = new File(slide, "nuclei.provenance.json")
        def file = new File(slide, "nuclei.geojson.gz")
        if (sidecarFile.isFile() && file.isFile()) {
            def sidecar = GsonTools.getInstance().fromJson(sidecarFile.getText("UTF-8"), Map.class)
            def names = [sidecar.slide_file, withoutEnding(sidecar.slide_file), sidecar.slide_id]
            found.add([file: file, sidecar: sidecar, names: names.collect { it.toLowerCase() }])
        }
    }
    return found
}

/** The results of the image's own file or, if there are none, those with the image's name; normally one. */
List resultsOf(String imageName, uris, List allResults) {
    def files = uris.findAll { it.getPath() }.collect { new File(it.getPath()) }
    def sameFile = allResults.findAll { result ->
        def path = result.sidecar.slide_path  // missing in results of earlier versions
        path && files.any { isSame(it, new File(path)) }
    }
    if (!sameFile.isEmpty())
        return sameFile
    def names = [imageName] + files.collect { it.getName() }
    names += names.collect { it.split(" - ")[0] }  // image names may have a suffix, as in "slide.scn - Series 0"
    def known = (names + names.collect { withoutEnding(it) }).collect { it.toLowerCase() }
    def name = known.find { each -> allResults.any { each in it.names } }
    return allResults.findAll { name in it.names }
}

boolean isSame(File one, File other) {
    return one.isFile() && other.isFile() && one.getCanonicalPath() == other.getCanonicalPath()
}

String whyNone(List results) {
    if (results.isEmpty())
        return "no results"
    def folders = results.collect { it.file.getParentFile().getName() }.join(", ")
    return "the results " + folders + " have its name, so nothing was imported; choose the folder of the right one"
}

String withoutEnding(String name) {
    return name.replaceFirst(/(\.ome)?\.[A-Za-z0-9]+$/, "")
}

File askForFolder() {
    if (QuPathGUI.getInstance() == null)
        throw new IllegalArgumentException("Give the folder of results: --args RESULTS")
    def ask = new FutureTask<File>({
        new DirectoryChooser(title: "Folder of results").showDialog(QuPathGUI.getInstance().getStage())
    })
    Platform.runLater(ask)
    return ask.get()
}

/**
 * Open a progress bar; the closure sets its fraction, of which -1 means unknown, and its text, and closes it with null.
 *
 * With `cancel`, the window has a button that calls it. Without QuPath's window, nothing is shown.
 */
Closure openProgress(String title, String imageName, Closure cancel = null) {
    if (QuPathGUI.getInstance() == null)
        return { fraction, text = "" -> }
    def bar = new ProgressBar(prefWidth: 400)
    def label = new Label(imageName)
    def window = new FutureTask<Stage>({
        def stage = new Stage(title: title)
        stage.initOwner(QuPathGUI.getInstance().getStage())
        def button = new Button("Cancel")
        button.setOnAction { cancel() }
        stage.setScene(new Scene(cancel == null ? new VBox(8, label, bar) : new VBox(8, label, bar, button)))
        if (cancel != null)
            stage.setOnCloseRequest { cancel() }
        stage.show()
        return stage
    })
    Platform.runLater(window)
    return { fraction, text = "" ->
        Platform.runLater {
            if (fraction == null) {
                window.get().close()
                return
            }
            bar.setProgress(fraction as double)
            label.setText(text ? imageName + "\n" + text : imageName)
        }
    }
}
