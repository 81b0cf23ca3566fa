/*
 * Import the nuclei that `muse` found into the open image, or into every image of the project.
 *
 * The files are read line by line, one nucleus at a time: a million nuclei need about 2 GB of memory and less than half a
 * minute, where drag and drop of the same file needs more than 7 GB.
 *
 * In QuPath 0.4 to 0.7: Automate > Script editor, open this file, set the three lines below, Run.
 * Without a window, for every image: QuPath script --project P.qpproj --save --args RESULTS import_nuclei.groovy
 *
 * An import can be taken back: Ctrl+Z for as many objects as QuPath's preferences allow ("Max undo hierarchy size"), and
 * action "remove" for any number, because every nucleus keeps its id.
 */
import static qupath.lib.gui.scripting.QPEx.*

import java.util.concurrent.FutureTask
import java.util.zip.GZIPInputStream
import javafx.application.Platform
import javafx.scene.Scene
import javafx.scene.control.Label
import javafx.scene.control.ProgressBar
import javafx.scene.layout.VBox
import javafx.stage.DirectoryChooser
import javafx.stage.Stage
import qupath.lib.gui.QuPathGUI
import qupath.lib.io.GsonTools
import qupath.lib.objects.PathObject

def results = null          // folder with one folder per slide, as "/data/results"; null: you are asked for it
def action = "add"          // what is not there yet; "remove" the nuclei of an earlier import; "replace" ALL detections
def wholeProject = false    // true: every image of the project that has results

try {
    results = args ? args[0] : results
    action = args && args.length > 1 ? args[1] : action
} catch (MissingPropertyException notFromTheCommandLine) {
    // the script editor of some versions knows no args
}
if (!(action in ["replace", "add", "remove"]))
    throw new IllegalArgumentException("action is '" + action + "'; choose add, remove or replace")
def folder = results ? new File(results) : askForFolder()
if (folder == null)
    return
def allResults = findResults(folder)
if (allResults.isEmpty())
    throw new IllegalArgumentException("No */nuclei.provenance.json in " + folder + "; choose the folder of all results")

if (wholeProject) {
    getProject().getImageList().each { entry ->
        if (entry == getProjectEntry()) {
            importNuclei(getCurrentImageData(), entry.getImageName(), allResults, action)
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
    def imageData = getCurrentImageData()
    importNuclei(imageData, imageData.getServer().getMetadata().getName(), allResults, action)
}

/** Change one image by the nuclei that belong to it, as one change that can be undone; whether there was one. */
boolean importNuclei(imageData, String imageName, List allResults, String action) {
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
        println(imageName + ": has " + size.join(" x ") + " pixels, and " + found.file + " was made from a slide of "
            + expected.join(" x ") + "; nothing was imported")
        return false
    }
    def progress = openProgress(imageName)
    try {
        def nuclei = readNuclei(found.file, found.sidecar.provenance.n_nuclei as long, progress)
        def hierarchy = imageData.getHierarchy()
        def present = hierarchy.getDetectionObjects()
        def ids = new HashSet(nuclei.collect { it.getID() })
        def gone = action == "replace" ? present : action == "remove" ? present.findAll { it.getID() in ids } : []
        if (action == "add") {
            def known = new HashSet(present.collect { it.getID() })
            nuclei = nuclei.findAll { !(it.getID() in known) }
        }
        gone.groupBy { it.getParent() }.each { parent, children -> parent.removeChildObjects(new HashSet(children)) }
        if (action != "remove")
            hierarchy.getRootObject().addChildObjects(nuclei)
        hierarchy.fireHierarchyChangedEvent(this)
        println(imageName + ": " + gone.size() + " detections removed, "
            + (action == "remove" ? 0 : nuclei.size()) + " nuclei added from " + found.file)
        return true
    } finally {
        progress(-1)
    }
}

/** The nuclei of one of our files: every line that is a feature, parsed by itself. */
List<PathObject> readNuclei(File file, long expected, Closure progress) {
    def gson = GsonTools.getInstance()
    def nuclei = new ArrayList<PathObject>((int) expected)
    new GZIPInputStream(new BufferedInputStream(new FileInputStream(file), 1 << 16), 1 << 16).withReader("UTF-8") { reader ->
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

/** Every result in the folder, with what may name its image: the slide's file, that without its ending, the slide's id. */
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

/** The results of the image's own file, or where there are none, those whose name it bears: one, if all is well. */
List resultsOf(String imageName, uris, List allResults) {
    def files = uris.findAll { it.getPath() }.collect { new File(it.getPath()) }
    def sameFile = allResults.findAll { result ->
        def path = result.sidecar.slide_path  // results of earlier versions do not say
        path && files.any { isSame(it, new File(path)) }
    }
    if (!sameFile.isEmpty())
        return sameFile
    def names = [imageName] + files.collect { it.getName() }
    names += names.collect { it.split(" - ")[0] }  // image names may go on, as in "slide.scn - Series 0"
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
    return "the results " + folders + " have its name, and nothing was imported; choose the folder of the right one"
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

/** A bar to be called with a fraction, and with -1 to close it; without a window it does nothing. */
Closure openProgress(String imageName) {
    if (QuPathGUI.getInstance() == null)
        return { fraction -> }
    def bar = new ProgressBar(prefWidth: 400)
    def window = new FutureTask<Stage>({
        def stage = new Stage(title: "Importing nuclei")
        stage.initOwner(QuPathGUI.getInstance().getStage())
        stage.setScene(new Scene(new VBox(8, new Label(imageName), bar)))
        stage.show()
        return stage
    })
    Platform.runLater(window)
    return { fraction -> Platform.runLater { fraction < 0 ? window.get().close() : bar.setProgress(fraction as double) } }
}
