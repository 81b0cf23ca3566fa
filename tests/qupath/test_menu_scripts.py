"""The scripts of QuPath's menu: their text, their Groovy functions, and runs with stubs of QuPath's
classes.
"""

import gzip
import json
import re
import sys
from pathlib import Path, PureWindowsPath

import pytest
from groovy import WITH_GROOVY, run_groovy
from qupath_stubs import write_stubs
from workflow_runs import draw_stained_slide

from muse_pipeline.cli.qupath_script import find_script_folders, write_scripts
from muse_pipeline.core.files import read_json


def square(kind, side, class_name=None, corner=0):
    ring = [[corner, corner], [side, corner], [side, side], [corner, side], [corner, corner]]
    classification = (
        {"classification": {"name": class_name, "color": [9, 9, 9]}} if class_name else {}
    )
    return {
        "type": "Feature",
        "id": f"00000000-0000-4000-8000-{side:012}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": kind, **classification},
    }


@pytest.fixture(scope="module")
def groovy(tmp_path_factory):
    """A function that runs a Groovy script with the stubs and an open image."""
    stubs = write_stubs(tmp_path_factory.mktemp("stubs"))

    def run(state, *arguments):
        (stubs / "state.json").write_text(json.dumps(state))
        return run_groovy("-cp", stubs, *arguments, QUPATH_STATE=str(stubs / "state.json"))

    return run


def test_scripts_name_the_command_and_begin_with_their_imports(tmp_path, muse):
    config = Path(__file__).parents[2] / "config/train/my_labels.yaml"
    status, shown, _ = muse("qupath-script --output", tmp_path / "with space")
    scripts = [Path(line) for line in shown.splitlines()]
    assert status == 0 and [path.name for path in scripts] == [
        "Run_muse.groovy",
        "Train_muse.groovy",
    ]
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"@[A-Z]+@", text)
        head, _, body = text.partition("\ndef ")
        assert (
            head.startswith("/*")
            and "import qupath.lib.objects.PathObject" in head
            and "\nimport " not in body
        )
        assert json.dumps(str(Path(sys.executable).with_name("muse"))) in text
    assert json.dumps(str(config)) in scripts[1].read_text(encoding="utf-8")


def test_paths_of_windows_are_strings_of_groovy(tmp_path):
    muse = PureWindowsPath(r"C:\Users\A $b\Scripts\muse.exe")
    text = write_scripts(tmp_path, muse, muse)[0].read_text(encoding="utf-8")
    assert r'"C:\\Users\\A \$b\\Scripts\\muse.exe"' in text


def test_the_folders_of_every_qupath_are_found(tmp_path, monkeypatch, muse):
    (tmp_path / "QuPath/v0.5").mkdir(parents=True)
    (tmp_path / "QuPath/v0.6").mkdir()
    assert find_script_folders(tmp_path) == [
        tmp_path / f"QuPath/v0.{n}/scripts/muse" for n in (5, 6)
    ]
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    assert (
        "has no folder of QuPath 0.4 or later; start QuPath once, or give --output"
        in muse.fails("qupath-script")
    )
    assert "give the training settings with --config" in muse.fails(
        f"qupath-script --output {tmp_path} --config {tmp_path / 'no.yaml'}"
    )


FUNCTIONS = """
def load = { new GroovyShell(getClass().getClassLoader()).parse(new File(it)) }
def run = load(args[0]), train = load(args[1])
def windows = ["file:/C:/My%20slides/a.svs?--series=1", "file://server/share/a.svs"]
println(groovy.json.JsonOutput.toJson([
    windows: windows.collect { run.locationOf(new URI(it), true) },
    linux: run.locationOf(new URI("file:/data/a%20b.svs#x"), false),
    url: run.locationOf(new URI("https://x.org/a.svs"), false),
    omero: run.locationOf(new URI("omero:iid=1"), false),
    command: run.runCommand("muse", "a.svs", 0.25d, new File("roi"), null, new File("out")),
    unchanged: run.runCommand("muse", "a.svs", null, null, null, new File("out")),
    summary: run.summaryOf(["step 1", "a: 9 nuclei, 1.0 s",
        "1 slide: 1 ok; see report.html", "9 nuclei of 1 slide"]),
    steps: [[], ["a"], ["step 30 of 40: loss 1", "step 10 of 40: loss 1", "b"]]
        .collect { train.doneSteps(it) },
    ids: train.slideIds(["C:\\\\a\\\\S 1.svs", "/b/S 1.ome.tif", "T"]),
    train: train.trainCommand("muse", "c.yaml", new File("f"), new File("f/run-1"), 2),
    organs: askOnce(run, new File(args[2])),
    runs: runAgain(train, new File(args[2])),
]))

/** The folder of the next run after a cancelled run with the same labels, with other labels, and
 * after a finished run. */
def runAgain(train, folder) {
    new File(folder, "run-1").mkdirs()
    def runs = [true, false].collect { train.folderOfRun(folder, it).getName() }
    new File(folder, "run-1/checkpoint.pt").setText("")
    return runs + train.folderOfRun(folder, true).getName()
}

/** The options for an image without a window, with one, twice, and with options of the user. */
def askOnce(run, folder) {
    def options = { List own -> run.chosenOptions("Brightfield (H-DAB)", folder, own) }
    def unasked = options([])
    System.setProperty("window", "yes")
    System.setProperty("organ", "Mamma links")
    def asked = [options([]), options([]), options(["--organ", "lung", "--stain", "HE"])]
    run.choiceOf(folder, "model").setText("my.onnx")
    def ofHe = run.chosenOptions("Brightfield (H&E)", folder, [])
    return [unasked, *asked, ofHe, javafx.scene.control.TextInputDialog.shown]
}
"""


@WITH_GROOVY
@pytest.mark.slow
def test_functions_of_the_scripts(groovy, tmp_path):
    scripts = write_scripts(tmp_path, Path("muse"), Path("c.yaml"))
    done = groovy({"objects": [], "selected": []}, "-e", FUNCTIONS, *scripts, tmp_path / "results")
    organ = ["--organ", "Mamma links"]
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "windows": [r"C:\My slides\a.svs", r"\\server\share\a.svs"],
        "linux": "/data/a b.svs",
        "url": "https://x.org/a.svs",
        "omero": None,
        "command": ["muse", "run", "a.svs", "--output", "out", "--mpp", "0.25", "--roi", "roi"],
        "unchanged": ["muse", "run", "a.svs", "--output", "out"],
        "summary": ["a: 9 nuclei, 1.0 s", "1 slide: 1 ok; see report.html", "9 nuclei of 1 slide"],
        "steps": [-1, -1, 0.25],
        "ids": ["S_1", "S_1-2", "T"],
        "train": [
            *("muse", "finetune", "c.yaml", "--data", "f", "--output", "f/run-1"),
            *("--set", "name=corrected", "training_data=2 slides corrected in QuPath"),
        ],
        "organs": [
            ["--stain", "IHC"],
            [*organ, "--stain", "IHC"],
            [*organ, "--stain", "IHC"],
            [],
            [*organ, "--model", "my.onnx"],
            1,
        ],
        "runs": ["run-1", "run-2", "run-2"],
    }


CANCEL = """
def run = new GroovyShell(getClass().getClassLoader()).parse(new File(args[0]))
try {
    def script = "echo begun; sleep 100 & echo \\$! > " + args[1] + "; wait"
    run.runMuse(["sh", "-c", script], "Training", "a.svs") { -1 }
} catch (java.util.concurrent.CancellationException cancelled) {
    println("MESSAGE " + cancelled.getMessage())
}
"""


@WITH_GROOVY
@pytest.mark.slow
def test_cancel_ends_the_command_and_its_children(groovy, tmp_path):
    scripts = write_scripts(tmp_path, Path("muse"), Path("c.yaml"))
    state = {"objects": [], "selected": []}
    done = groovy(
        state, "-Dwindow=yes", "-Dcancel=yes", "-e", CANCEL, scripts[0], tmp_path / "child.txt"
    )
    assert done.returncode == 0, done.stderr
    assert "MESSAGE Training was cancelled" in done.stdout and "CLOSED Training" in done.stdout
    child = Path("/proc", (tmp_path / "child.txt").read_text().strip())
    assert not child.exists() or "Z" in child.joinpath("stat").read_text().split()


@WITH_GROOVY
@pytest.mark.slow
def test_an_open_image_gets_its_nuclei_again_and_again(groovy, tmp_path):
    slide = tmp_path / "a slide.tif"
    draw_stained_slide(slide, size_px=500, n_nuclei=60)
    script, _ = write_scripts(tmp_path, Path(sys.executable).with_name("muse"), Path("c.yaml"))
    objects = [
        square("annotation", 400),
        square("annotation", 300, "Tumor"),
        square("annotation", 60, "Ignore*"),
    ]
    state = {
        "uri": slide.as_uri(),
        "name": slide.name,
        "size": [500, 500],
        "mpp": 0.5,
        "objects": objects,
    }
    state["detections"], state["type"] = [], "Brightfield (H&E)"
    whole = groovy(state | {"selected": []}, "-Dwindow=yes", "-Dorgan=breast", script)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    n_whole = int(re.search(r"IMPORTED (\d+)", whole.stdout)[1])
    shown = whole.stdout.partition("ALERT ")[2]
    assert shown.startswith("a slide: ") and "1 slide: 1 ok" in shown and "in no total" in shown
    assert (
        f"BROWSED {(tmp_path / 'muse-results/report.html').as_uri()}".replace("///", "/") in shown
    )
    (found,) = (tmp_path / "muse-results").glob("*/nuclei.geojson.gz")
    earlier = json.loads(gzip.decompress(found.read_bytes()))["features"]
    assert n_whole == len(earlier) > 30
    of_project = groovy(
        state | {"selected": []}, "-Dwindow=yes", "-Dbatch=yes", "-Dorgan=breast", script
    )
    assert "IMPORTED" in of_project.stdout and "ALERT" not in of_project.stdout
    foreign = square("detection", 70)
    part = groovy(
        state | {"selected": [objects[0]["id"]], "detections": [*earlier, foreign]}, script
    )
    assert 10 < int(re.search(r"IMPORTED (\d+)", part.stdout)[1]) < n_whole
    assert f"{n_whole} detections removed" in part.stdout
    roi = read_json(tmp_path / "muse-results/qupath/roi.geojson")["features"]
    regions = read_json(tmp_path / "muse-results/qupath/regions.geojson")["features"]
    assert [each["id"] for each in roi] == [objects[0]["id"], objects[2]["id"]]
    assert [each["id"] for each in regions] == [objects[1]["id"]]
    unsized = groovy(state | {"mpp": None, "selected": []}, script)
    assert (
        unsized.returncode != 0
        and "has no pixel size; set it in QuPath's Image tab" in unsized.stderr
    )


@WITH_GROOVY
@pytest.mark.slow
def test_corrected_regions_are_exported_and_trained_on(groovy, tmp_path):
    """A `muse` command that only records its arguments is called; training itself is tested
    elsewhere.
    """
    command = tmp_path / "muse"
    command.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/called.txt"\n', encoding="utf-8")
    command.chmod(0o755)
    _, script = write_scripts(tmp_path, command, Path("c.yaml"))
    nucleus = square("detection", 40, "Stroma", 30)
    state = {
        "uri": (tmp_path / "S.svs").as_uri(),
        "name": "S.svs",
        "size": [500, 500],
        "mpp": 0.5,
        "selected": [],
    }
    state["objects"], state["detections"] = [square("annotation", 400, "Region*")], [nucleus]
    done = groovy(state, script)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "muse-results/training"
    exported = read_json(folder / "annotations/S.geojson")["features"]
    assert [each["id"] for each in exported] == [state["objects"][0]["id"], nucleus["id"]]
    assert (folder / "slides.tsv").read_text().splitlines()[1] == f"S\t{tmp_path}/S.svs\t0.5"
    trained, written = (tmp_path / "called.txt").read_text().splitlines()
    assert trained.startswith(
        f"finetune c.yaml --data {folder} --output {folder}/run-1 --set name=corrected"
    )
    assert written == f"export {folder}/run-1/checkpoint.pt --output {folder}/run-1/corrected.onnx"
    state["objects"] = []
    assert "No annotation has the class Region*" in groovy(state, script).stderr
