import numpy as np
import pyarrow.parquet as pq
import pytest
from finished_slide import draw_tissue, write_nuclei, write_slide
from PIL import Image

from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.report.slide_summary import summarise_slide


def files_of(folder):
    return {
        path.name: path.stat().st_mtime_ns
        for path in [folder / "summary.json", *sorted(folder.rglob("*.png"))]
    }


def test_summary_counts_and_draws(slide_folder):
    summary = summarise_slide(slide_folder)
    _, xy, label = draw_tissue()
    assert summary["n_nuclei"] == len(xy)
    assert [each["n_nuclei"] for each in summary["classes"]] == np.bincount(label).tolist()
    area = pq.read_table(slide_folder / "nuclei.parquet", columns=["area_um2"])[
        "area_um2"
    ].to_numpy()
    assert np.isclose(summary["features"]["area_um2"], np.median(area), rtol=1e-4)
    assert [field["picture"] for field in summary["fields"]] == [
        f"overlays/{i}.png" for i in (1, 2, 3)
    ]
    assert summary == read_json(slide_folder / "summary.json")
    assert max(Image.open(slide_folder / "density.png").size) <= 900
    for field in summary["fields"]:
        assert Image.open(slide_folder / field["picture"]).size[0] == 1024


def test_what_is_current_is_kept_and_what_is_not_is_made_again(slide_folder):
    summarise_slide(slide_folder)
    before = files_of(slide_folder)
    summarise_slide(slide_folder)
    assert files_of(slide_folder) == before
    _, xy, label = draw_tissue()
    info = SlideInfo.from_dict(read_json(slide_folder / "slide.json"))
    write_nuclei(slide_folder, info, 2 * xy[:100], label[:100])
    assert summarise_slide(slide_folder)["n_nuclei"] == 100


def test_a_missing_picture_is_drawn_again_with_the_same_bytes(slide_folder):
    summarise_slide(slide_folder)
    picture = slide_folder / "overlays/2.png"
    before = picture.read_bytes()
    picture.unlink()
    summarise_slide(slide_folder)
    assert picture.read_bytes() == before


def test_without_a_store_known_pictures_stay(slide_folder):
    known = summarise_slide(slide_folder)
    (slide_folder / "image-500nm.zarr").rename(slide_folder / "away")
    assert summarise_slide(slide_folder) == known


def test_without_a_store_the_density_is_drawn_on_the_mask(slide_folder):
    (slide_folder / "image-500nm.zarr").rename(slide_folder / "away")
    summary = summarise_slide(slide_folder)
    assert (summary["fields"], summary["has_pixels"]) == ([], False)
    assert (slide_folder / "density.png").is_file()
    (slide_folder / "away").rename(slide_folder / "image-500nm.zarr")
    assert len(summarise_slide(slide_folder)["fields"]) == 3


@pytest.mark.parametrize("positive", [None, np.arange(819) % 2 == 0])
def test_no_field_shows_nuclei_that_totals_leave_out(tmp_path, positive):
    facts = {"mpp": 0.5, "cell_um": 16.0, "model_sha256": "", "area_mm2": {"fold": 0.1}}
    facts |= {"asked": ["fold"], "subtract": ["fold"]}
    folder = write_slide(tmp_path, "folded", positive=positive, quality=facts)
    assert summarise_slide(folder)["fields"] == []


def test_dense_positions_are_darker(slide_folder):
    """Nuclei are denser on the right, so the heat map must be darker there."""
    summarise_slide(slide_folder)
    picture = np.asarray(Image.open(slide_folder / "density.png").convert("L")).astype(float)
    height, width = picture.shape
    band = picture[height // 3 : height // 2]
    assert (
        band[:, width * 3 // 4 : width * 7 // 8].mean()
        < band[:, width // 8 : width // 4].mean() - 40
    )


def test_full_windows_are_named_in_level0_pixels(slide_folder):
    """A core is 640 - 2 * 64 = 512 work px or 1,024 level-0 px wide, and a row of the grid has
    three cores.
    """
    info = SlideInfo.from_dict(read_json(slide_folder / "slide.json"))
    _, xy, label = draw_tissue()
    write_nuclei(slide_folder, info, 2 * xy, label, full_windows=[4])
    assert summarise_slide(slide_folder)["full_windows_level0"] == [[1024, 1024, 1024, 1024]]
