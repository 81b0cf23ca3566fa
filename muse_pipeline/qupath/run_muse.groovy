/*
 * Find the nuclei of the open image with `muse run`, and import them.
 *
 * In QuPath 0.4 to 0.7: Automate > User scripts > muse > Run muse. It asks once for the organ, which decides which of the model's
 * classes were measured in it, and keeps the answer for the project in muse-results/qupath/organ.txt. An image of the type
 * Brightfield (H-DAB) in QuPath's Image tab is scored as immunohistochemistry; otherwise the colours decide.
 *
 * Selected annotations are the region of interest; if none is selected, it is the whole image. Annotations of a class other than
 * Ignore*, Region* and Tissue are tissue regions, and every nucleus gets its region. A pixel size that you set in QuPath's Image
 * tab counts; otherwise it is that of the file. Results are in "muse-results" in the folder of the project, or of the image. Nuclei
 * of an earlier run are replaced. At the end, a window shows the counts and everything that should be checked before use.
 */
import static qupath.lib.gui.scripting.QPEx.*

import javafx.scene.control.TextInputDialog
import qupath.lib.gui.tools.GuiTools

def options = []  // further options of `muse run`, such as ["--model", "/models/mine.onnx"]

if (getCurrentImageData() == null)
    throw new IllegalArgumentException("No image is open; open one")
def open = getCurrentImageData()
def selection = open.getHierarchy().getSelectionModel().getSelectedObjects().findAll { isArea(it) }
def results = folderOfResults(getProject(), open.getServer().getURIs())
inBackground { findNuclei(open, selection, results, options) }

/** Run `muse run` on an image, and import its nuclei. */
void findNuclei(imageData, Collection selection, File folder, List options) {
    def server = imageData.getServer()
    def name = server.getMetadata().getName()
    def areas = imageData.getHierarchy().getAnnotationObjects().findAll { isArea(it) }
    def ignored = areas.findAll { isCalled(it, "Ignore") }
    def classed = areas.findAll { it.getPathClass() != null && !["Ignore", "Region", "Tissue"].any { word -> isCalled(it, word) } }
    def roi = selection.isEmpty() ? null : writeAreas((selection + ignored).unique(), folder, "roi.geojson")
    def regions = classed.isEmpty() ? null : writeAreas(classed, folder, "regions.geojson")
    def command = runCommand(findMuse(), slideOf(server.getURIs()), changedPixelSize(server), roi, regions, folder)
    command += chosenOptions("${imageData.getImageType()}", folder, options) + options
    def earlier = idsOf(resultsOf(name, server.getURIs(), findResults(folder)))
    def started = System.currentTimeMillis()
    def lines
    try {
        lines = runMuse(command, "Finding nuclei", name) { finishedSteps(folder, started) / 7 }
    } catch (IOException error) {
        if (error.getMessage().contains("organ '"))
            choiceOf(folder, "organ").delete()  // ask again
        throw error
    }
    importNuclei(imageData, name, findResults(folder), "add", earlier)
    // "Run for project" has an image of its own for each run; a window would stop it until it is closed.
    def isOpen = imageData == QuPathGUI.getInstance()?.getImageData()
    if (isOpen && showEnd(name, summaryOf(lines), "Open report"))
        GuiTools.browseURI(new File(folder, "report.html").toURI())
}

/** The last lines of `muse run`: the slide's count, then warnings. */
List summaryOf(List lines) {
    return lines.dropWhile { !(it =~ /: [\d,]+ nuclei|^1 slide: /) }
}

/** The command that finds the nuclei of a slide. */
List runCommand(String muse, String slide, Double mpp, File roi, File regions, File folder) {
    def command = [muse, "run", slide, "--output", folder.getPath()] + (mpp ? ["--mpp", mpp.toString()] : [])
    return command + (roi ? ["--roi", roi.getPath()] : []) + (regions ? ["--regions", regions.getPath()] : [])
}

/** Organ, stain and the project's own model as options of `muse run`, unless `options` state them. */
List chosenOptions(String imageType, File folder, List options) {
    def organ = "--organ" in options ? "" : organOf(folder)
    def isIhc = imageType.contains("DAB") && !("--stain" in options)
    def model = "--model" in options ? "" : textOf(choiceOf(folder, "model"))
    return (organ ? ["--organ", organ] : []) + (isIhc ? ["--stain", "IHC"] : []) + (model ? ["--model", model] : [])
}

String textOf(File file) {
    return file.isFile() ? file.getText("UTF-8").trim() : ""
}

/** The organ of the images whose results are in a folder, or ""; the user is asked for it once. */
String organOf(File folder) {
    def file = choiceOf(folder, "organ")
    if (!file.isFile() && QuPathGUI.getInstance() != null)
        file.setText(askForOrgan(), "UTF-8")
    return textOf(file)
}

String askForOrgan() {
    def ask = new FutureTask<String>({
        def dialog = new TextInputDialog()
        dialog.setTitle("muse")
        dialog.setHeaderText("Which organ do the images show, such as breast or colon? Leave this empty if it is unknown or differs.")
        dialog.showAndWait().orElse(null)
    })
    Platform.runLater(ask)
    if (ask.get() == null)
        throw new CancellationException("Nothing was run: the question for the organ was cancelled")
    return ask.get()
}

/** Write areas to a file for `muse run`. */
File writeAreas(Collection areas, File folder, String name) {
    def file = new File(new File(folder, "qupath"), name)
    file.getParentFile().mkdirs()
    exportObjectsToGeoJson(areas, file.getPath(), "FEATURE_COLLECTION")
    return file
}

/** The number of steps that ended after a time in ms, at most 7. */
int finishedSteps(File folder, long since) {
    def ledgers = (folder.listFiles() ?: []).collectMany { (new File(it, "ledger").listFiles() ?: []) as List }
    return Math.min(ledgers.count { it.lastModified() >= since }, 7) as int
}

/** Ids of the nuclei in earlier results of an image. */
Set idsOf(List results) {
    def ids = new HashSet<UUID>()
    results.each { result ->
        def text = new InputStreamReader(new GZIPInputStream(new FileInputStream(result.file), 1 << 16), "UTF-8")
        new BufferedReader(text, 1 << 16).withCloseable { reader ->
            def line
            while ((line = reader.readLine()) != null) {
                def found = line =~ /^\{"type":"Feature","id":"([^"]+)"/
                if (found.find())
                    ids.add(UUID.fromString(found.group(1)))
            }
        }
    }
    return ids
}
