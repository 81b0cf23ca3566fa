"""The loop in the browser: detect, mark 30 nuclei in the viewer, train on the downloaded file, and detect again."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from browsers import launched_chromium
from drawn_tissue import CLASSES, DrawnTissue, draw_other_tissue
from scipy.spatial import cKDTree
from slide_files import write_leica
from test_qupath_loop import (
    CORNER_PX,
    FIRST_LABELS,
    MARGIN_PX,
    SLIDE_MPP,
    muse,
    write_config,
    write_first_labels,
    write_points,
)
from viewer_tab import Tab

from muse_pipeline.core.files import read_json
from muse_pipeline.nuclei.parquet import read_nuclei

SLIDE_PX = (1900, 900)
MARKED_TO_PX = 600  # all marks lie left of this x, in the pixels that QuPath shows
FAR_PX = round(200 / SLIDE_MPP)
N_MARKS = 30
SAME_UM = 3.0
LYMPHOCYTE, TUMOUR = range(2)
MARKS = {"slides": "slides.tsv", "labels": "annotations", "format": "geojson", "outside": "leave out", "weight": 9}


def draw_slide(name: str, seed: int) -> DrawnTissue:
    tissue = draw_other_tissue(SLIDE_PX, SLIDE_MPP, MARGIN_PX, seed)
    write_leica(Path(f"{name}.scn"), tissue.pixels, SLIDE_MPP, CORNER_PX)
    write_points(Path(f"{name}.csv"), tissue.xy + CORNER_PX, tissue.label)
    return tissue


def train(name: str, steps: int, **settings) -> None:
    write_config(name, steps, 0, **settings)
    muse(f"finetune {name}.yaml --output {name} --accelerator cpu")
    muse(f"export {name}/checkpoint.pt --output {name}.onnx")
    muse(f"run S.scn T.scn --mpp {SLIDE_MPP} --model {name}.onnx --output {name}/found")


def class_f1(name: str, slide: str, region: str = "") -> np.ndarray:
    """F1 of both classes in percent on a slide, or on the part that ``region``, an option of `evaluate`, selects."""
    found = f"{name}/found/{slide}/nuclei.parquet"
    muse(f"evaluate {found} --truth {slide}.csv {region} --json {name}-{slide}.json")
    counts = np.array(read_json(Path(f"{name}-{slide}.json"))["confusion"]["counts"])
    return 200 * np.diag(counts)[:2] / (counts.sum(0) + counts.sum(1))[:2]


def choose_marks(truth: DrawnTissue) -> list[tuple[np.ndarray, str]]:
    """Positions in QuPath px and true classes of the nuclei to mark: the same number per class, errors first."""
    nuclei = read_nuclei(Path("first/found/S/nuclei.parquet"))
    xy = nuclei.xy - CORNER_PX
    distance, nearest = cKDTree(truth.xy).query(xy)
    sound = np.flatnonzero((distance * SLIDE_MPP < SAME_UM) & (xy[:, 0] < MARKED_TO_PX))
    marks = []
    for label, name in enumerate(CLASSES):
        own = sound[truth.label[nearest[sound]] == label]
        own = own[np.argsort(nuclei.label[own] == label, kind="stable")][: N_MARKS // 2]
        marks += [(xy[i], name) for i in own]
    return marks


def mark_in_browser(marks: list[tuple[np.ndarray, str]]) -> None:
    """Do what a person does: choose a class, click the nuclei, and download."""
    with launched_chromium() as browser:
        tab = Tab(browser, Path("first/found/S/viewer").resolve())
        tab.page.get_by_role("button", name="Correct nuclei").click()
        stage = tab.page.locator("#stage").bounding_box()
        for (x, y), name in marks:
            tab.page.get_by_role("radio", name=name).check()
            tab.page.evaluate("([x, y]) => muse.goTo(...muse.fromQuPath(x, y), 0.2)", [float(x), float(y)])
            tab.wait()
            tab.page.mouse.click(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
        assert tab.page.inner_text("#touched") == f"{N_MARKS} marked, 0 added, 0 areas checked"
        with tab.page.expect_download() as download:
            tab.page.get_by_role("button", name="Download").click()
        Path("annotations").mkdir()
        download.value.save_as(Path("annotations") / download.value.suggested_filename)
        assert tab.errors == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_marks_teach_a_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth = draw_slide("S", seed=0)
    draw_slide("T", seed=1)
    Path("slides.tsv").write_text(f"slide_id\tpath\tmpp\nS\tS.scn\t{SLIDE_MPP}\n")
    far = shapely.box(MARKED_TO_PX + FAR_PX, 0, *SLIDE_PX)
    Path("far.geojson").write_text(shapely.to_geojson(far))
    write_first_labels()
    train("first", 60, sources=[FIRST_LABELS])
    mark_in_browser(choose_marks(truth))
    marks = {**MARKS, "results": "first/found"}
    train("second", 200, sources=[FIRST_LABELS, marks], checkpoint="first/checkpoint.pt")
    changes = {}
    for slide, region in (("S", "--region far.geojson"), ("T", "")):
        before, after = (class_f1(name, slide, region) for name in ("first", "second"))
        changes[slide] = after - before
        print(f"{slide}: class F1 {before.round(1)} before, {after.round(1)} after {N_MARKS} marks")
    assert all(change[TUMOUR] >= 20 for change in changes.values())
    assert all(change[LYMPHOCYTE] >= -2 for change in changes.values())
