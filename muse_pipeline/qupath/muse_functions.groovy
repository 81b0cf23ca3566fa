// Functions shared by the scripts in QuPath's menu.

import java.util.concurrent.CancellationException
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicBoolean
import java.util.prefs.Preferences
import javafx.application.Platform
import javafx.scene.control.Alert
import javafx.scene.control.ButtonType
import javafx.stage.FileChooser
import qupath.lib.gui.QuPathGUI

/** Run a task in a thread of its own, since QuPath's window freezes while its thread waits. */
void inBackground(Closure task) {
    if (QuPathGUI.getInstance() == null || !Platform.isFxApplicationThread()) {
        task()
        return
    }
    Thread.start {
        try {
            task()
        } catch (CancellationException cancelled) {
            println(cancelled.getMessage())
        } catch (Exception error) {
            Platform.runLater { new Alert(Alert.AlertType.ERROR, error.getMessage()).show() }
        }
    }
}

/** Run a command to its end and return the lines that it printed; a window shows its progress and can cancel it.
 *
 * `fraction` returns, for these lines, how much is done, or -1 if that is not known.
 */
List runMuse(List command, String title, String name, Closure fraction) {
    println(command.join(" "))
    def process = new ProcessBuilder(command).redirectErrorStream(true).start()
    def lines = Collections.synchronizedList([])
    def reader = Thread.start { process.getInputStream().eachLine("UTF-8") { println(it); lines.add(it) } }
    def isCancelled = new AtomicBoolean()
    def progress = openProgress(title, name) { isCancelled.set(true) }
    try {
        while (!isCancelled.get() && !process.waitFor(500, TimeUnit.MILLISECONDS))
            progress(fraction(lines) as double, lines.isEmpty() ? "" : lines.last())
        if (isCancelled.get())
            throw new CancellationException(title + " was cancelled; the same command continues it")
        reader.join()
    } finally {
        progress(null)
        process.descendants().forEach { it.destroy() }
        process.destroy()
    }
    if (process.exitValue() != 0)
        throw new IOException("muse ended with status " + process.exitValue() + ":\n" + lines.takeRight(6).join("\n"))
    return lines
}

/** Show the last lines of a command and return true if the user accepts; without a window, lines are in the log only. */
boolean showEnd(String title, List lines, String accept) {
    if (QuPathGUI.getInstance() == null)
        return false
    def ask = new FutureTask<Boolean>({
        def answer = new ButtonType(accept)
        def alert = new Alert(Alert.AlertType.INFORMATION, lines.join("\n"), answer, ButtonType.CLOSE)
        alert.setHeaderText(title)
        alert.showAndWait().orElse(null) == answer
    })
    Platform.runLater(ask)
    return ask.get()
}

/** The path of the `muse` that wrote this script, was chosen before, or is on the PATH; if none exists, the user chooses one. */
String findMuse() {
    def saved = Preferences.userRoot().node("muse")
    def onPath = (System.getenv("PATH") ?: "").split(File.pathSeparator).collectMany { folder ->
        ["muse", "muse.exe"].collect { new File(folder, it).getPath() }
    }
    def found = ([@MUSE@, saved.get("path", "")] + onPath).find { new File(it).isFile() }
    if (found == null) {
        found = askForMuse().getPath()
        saved.put("path", found)
    }
    return found
}

File askForMuse() {
    def message = "muse was not found; install muse-pipeline, and run `muse qupath-script` again"
    if (QuPathGUI.getInstance() == null)
        throw new IllegalArgumentException(message)
    def ask = new FutureTask<File>({
        new FileChooser(title: "Where is muse (muse.exe on Windows)?").showOpenDialog(QuPathGUI.getInstance().getStage())
    })
    Platform.runLater(ask)
    if (ask.get() == null)
        throw new IllegalArgumentException(message)
    return ask.get()
}

/** Path or URL of the slide of an image. */
String slideOf(Collection uris) {
    def slides = uris.collect { locationOf(it, File.separator == "\\") }.findAll { it != null }.unique()
    if (slides.isEmpty())
        throw new IllegalArgumentException("The image is neither a file nor at a URL that muse reads; open the slide's own file")
    return slides[0]
}

/** Path of the file that a URI names, without QuPath's arguments; URLs are unchanged, and other schemes give null. */
String locationOf(URI uri, boolean isWindows) {
    if (uri.getScheme() in ["http", "https", "s3"])
        return uri.toString()
    if (uri.getScheme() != "file")
        return null
    def path = uri.getAuthority() ? "//" + uri.getAuthority() + uri.getPath() : uri.getPath()
    return isWindows ? path.replaceFirst("^/(?=[A-Za-z]:)", "").replace("/", "\\") : path
}

/** The size of an image's pixels in um if the user set it in the Image tab; null if it is that of the file. */
Double changedPixelSize(server) {
    def mpp = server.getPixelCalibration().getAveragedPixelSizeMicrons() as double
    if (Double.isNaN(mpp))
        throw new IllegalArgumentException(server.getMetadata().getName() + " has no pixel size; set it in QuPath's Image tab")
    return mpp == server.getOriginalMetadata().getPixelCalibration().getAveragedPixelSizeMicrons() ? null : mpp
}

/** The file in which a project keeps a choice of the user, such as its organ. */
File choiceOf(File folder, String name) {
    def file = new File(new File(folder, "qupath"), name + ".txt")
    file.getParentFile().mkdirs()
    return file
}

/** The folder of results: in the project's folder or, without a project, in the slide's; in the user's home if not writable. */
File folderOfResults(project, Collection uris) {
    def home = new File(System.getProperty("user.home"))
    def beside = project != null ? project.getPath().toFile() : new File(slideOf(uris))
    def folder = beside.getAbsoluteFile().getParentFile()
    return new File(folder != null && folder.isDirectory() && folder.canWrite() ? folder : home, "muse-results")
}

boolean isArea(object) {
    return object.isAnnotation() && object.getROI() != null && object.getROI().isArea()
}

/** True if the class of an annotation is `word`, with or without QuPath's *, or derived from it. */
boolean isCalled(annotation, String word) {
    def pathClass = annotation.getPathClass()
    return pathClass != null && pathClass.toString().split(":")[0].replace("*", "") == word
}
