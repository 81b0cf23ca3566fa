/*
 * Train a model on the regions that you corrected, with `muse finetune`.
 *
 * In QuPath 0.4 to 0.7: draw annotations of the class Region*, correct all nuclei in them, then Automate > User scripts > muse >
 * Train muse. It exports every image of the project that has such a region, or without a project the open image. The run
 * and the model are in "muse-results/training" in the folder of the project, or of the image. At the end, a window shows what the
 * training changed on held-out labels, and asks whether Run muse shall use the model for this project.
 */
import static qupath.lib.gui.scripting.QPEx.*

import groovy.transform.Field

@Field final STEP = /^step (\d+) of (\d+)/
def config = @CONFIG@  // settings of the training; edit a copy for other classes

def open = getCurrentImageData()
def project = getProject()
if (open == null && project == null)
    throw new IllegalArgumentException("No image is open; open one, or a project")
def images = project == null ? [describeImage(open.getHierarchy(), open.getServer().getURIs(), open.getServer())] :
    project.getImageList().collect { entry ->
        def isOpen = entry == getProjectEntry()
        describeImage(isOpen ? open.getHierarchy() : entry.readHierarchy(), entry.getURIs(), isOpen ? open.getServer() : null)
    }
def folder = new File(folderOfResults(project, project == null ? images[0].uris : []), "training")
inBackground { train(images, folder, config) }

Map describeImage(hierarchy, uris, server) {
    return [hierarchy: hierarchy, uris: uris, mpp: server == null ? "" : changedPixelSize(server) ?: ""]
}

/** Export the corrected images, train and export the model. */
void train(List images, File folder, String config) {
    def corrected = images.findAll { each -> each.hierarchy.getAnnotationObjects().any { isCalled(it, "Region") } }
    if (corrected.isEmpty())
        throw new IllegalArgumentException("No annotation has the class Region*; draw one around the nuclei that you corrected")
    def annotations = new File(folder, "annotations")
    annotations.mkdirs()
    def ids = slideIds(corrected.collect { slideOf(it.uris) })
    def rows = ["slide_id\tpath\tmpp"]
    def before = textsIn(folder)
    corrected.eachWithIndex { each, number ->
        def objects = each.hierarchy.getAnnotationObjects() + each.hierarchy.getDetectionObjects()
        exportObjectsToGeoJson(objects, new File(annotations, ids[number] + ".geojson").getPath(), "FEATURE_COLLECTION")
        rows.add([ids[number], slideOf(each.uris), each.mpp].join("\t"))
    }
    new File(folder, "slides.tsv").setText(rows.join("\n") + "\n", "UTF-8")
    def muse = findMuse()
    def run = folderOfRun(folder, textsIn(folder) == before)
    def command = trainCommand(muse, config, folder, run, corrected.size()) + organSetting(choiceOf(folder.getParentFile(), "organ"))
    def lines = runMuse(command, "Training", run.getName()) { doneSteps(it) }
    def model = new File(run, "corrected.onnx")
    runMuse([muse, "export", new File(run, "checkpoint.pt").getPath(), "--output", model.getPath()], "Exporting", run.getName()) { -1 }
    println("The model is " + model + "; give it to Run muse: options = ['--model', '" + model + "']")
    if (showEnd("Training ended", lines.findAll { !(it =~ STEP) }.takeRight(15), "Use this model for the project"))
        choiceOf(folder.getParentFile(), "model").setText(model.getPath(), "UTF-8")
}

/** The fraction of the steps of the current training that are done, from the lines it printed; -1 before the first. */
double doneSteps(List lines) {
    def done = lines.reverse().findResult { line ->
        def step = line =~ STEP
        step.find() ? (step.group(1) as int) / (step.group(2) as int) : null
    }
    return done == null ? -1 : done
}

/** The command that trains on the exported slides. */
List trainCommand(String muse, String config, File folder, File run, int slides) {
    def about = "training_data=" + slides + " slides corrected in QuPath"
    return [muse, "finetune", config, "--data", folder.getPath(), "--output", run.getPath(), "--set", "name=corrected", about]
}

/** The setting that states the organ of the project, which Run muse keeps in a file, for the model's card. */
List organSetting(File file) {
    def organ = file.isFile() ? file.getText("UTF-8").replace('"', "").trim() : ""
    return organ ? ['organ="' + organ + '"'] : []
}

/** Unique names of slides: the name of the file without its ending, and a number if several files have the same. */
List slideIds(List slides) {
    def stems = slides.collect { withoutEnding(it.split("[/\\\\]").last()).replaceAll("[^A-Za-z0-9._-]", "_") }
    return stems.withIndex().collect { stem, index ->
        def n = stems.take(index).count { it == stem }
        n ? stem + "-" + (n + 1) : stem
    }
}

/** The texts of the exported files, keyed by path. */
Map textsIn(File folder) {
    def files = [new File(folder, "slides.tsv")] + ((new File(folder, "annotations").listFiles() ?: []) as List)
    return files.findAll { it.isFile() }.collectEntries { [it.getPath(), it.getText("UTF-8")] }
}

/** The folder of the last run, if it was cancelled and its labels are the same; otherwise the next of run-1, run-2 and so on. */
File folderOfRun(File folder, boolean isSame) {
    def number = 1
    while (new File(folder, "run-" + number).exists())
        number++
    def last = new File(folder, "run-" + (number - 1))
    def isCancelled = last.exists() && !new File(last, "checkpoint.pt").exists()
    return isSame && isCancelled ? last : new File(folder, "run-" + number)
}
