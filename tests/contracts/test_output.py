"""The contract of an output: it writes the files that it names, only if requested, and always with
the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from workflow_runs import draw_stained_slide

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import remove
from muse_pipeline.core.setting import Setting
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.outputs.base import FinishedSlide, list_outputs
from muse_pipeline.pipeline import Models, plan_slides, run_slide
from muse_pipeline.settings import RunSettings, list_settings

ELSEWHERE = {
    "tma": "needs a grid of cores: tests/report/test_tma_rows.py",
}
OUTPUTS = [output for output in list_outputs() if output.name not in ELSEWHERE]


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> FinishedSlide:
    """A slide for which every output was requested."""
    pytest.importorskip("h5py", reason="h5py, the extra `spatial`, is not installed")
    folder, path = tmp_path_factory.mktemp("outputs"), find_model("compact")
    draw_stained_slide(folder / "a.tif", size_px=500, n_nuclei=60)
    switches = {output.switch.name: True for output in OUTPUTS if output.switch}
    settings = RunSettings({**switches, "output": str(folder / "results")})
    models = Models(Predictor(path), embedder=Embedder(path))
    run(folder, models, settings)
    return FinishedSlide(SlideFiles(folder / "results/a"), settings, embedder=models.embedder)


def run(folder: Path, models: Models, settings: RunSettings) -> None:
    row = SheetRow("a", str(folder / "a.tif"))
    run_slide(row, plan_slides([row], models, settings).records("a"), models, settings)


def files_of(output, slide: FinishedSlide) -> list[Path]:
    names = output.file_names(slide.embedder.card.name)
    return [slide.files.folder / name.rstrip("/") for name in names]


def contents(paths: list[Path]) -> dict[Path, bytes]:
    files = {file for path in paths for file in [path, *path.rglob("*")] if file.is_file()}
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize("output", list_outputs(), ids=lambda output: output.name)
def test_settings_and_files_are_declared(output):
    assert output.__doc__ and (output.files or output.patterns)
    assert all(isinstance(setting, Setting) and setting.job for setting in output.all_settings())
    assert all(list_settings()[setting.name] == setting for setting in output.all_settings())
    assert not any(
        Path(name).is_absolute() or ".." in name for name in (*output.files, *output.patterns)
    )
    assert output.is_requested({}) == (output.switch is None or bool(output.switch.default))
    assert output.removed_patterns() and not any(
        name.endswith("/") for name in output.removed_patterns()
    )


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
def test_every_file_is_written_again_with_the_same_bytes(output, slide):
    paths = files_of(output, slide)
    before = contents(paths)
    assert before and all(path.exists() for path in paths)
    if output.step == "stitch":  # it is written with the table of nuclei
        return
    for pattern in output.removed_patterns():
        for path in list(slide.files.folder.glob(pattern)):
            remove(path)
    assert not contents(paths)  # so that no file of earlier nuclei is left
    output.write(slide)
    assert contents(paths) == before


def test_files_that_are_not_requested_are_not_written(slide, tmp_path):
    settings = RunSettings({"output": str(tmp_path)})
    models = Models(Predictor(find_model("compact")))
    run(slide.files.folder.parents[1], models, settings)
    found = {path.name for path in (tmp_path / "a").iterdir()}
    for output in OUTPUTS:
        names = {path.name for path in files_of(output, slide)}
        assert names & found == (names if output.is_requested(settings) else set()), output.name
