"""The Python API finds the same nuclei as `muse run`, including in a box of a slide or in an
array.
"""

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import cv2
import geopandas
import numpy as np
import psutil
import pytest
import shapely
from drawn import ArraySlide
from geopandas.testing import assert_geodataframe_equal
from PIL import Image

import muse_pipeline as muse
from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import ArgumentError, MppError, MuseWarning
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Slide
from muse_pipeline.inference.outlines import MODEL

MPP = 0.5
# x, y, width, height: tissue on both sides of seams, which lie at multiples of 960 px
CROP = (1100, 900, 1300, 700)


def run(slide: Path, output: Path, *arguments: object) -> Path:
    """Run `muse run` and return the slide's folder."""
    words = f"run {slide} --features none --no-quality -o {output}".split()
    assert main([*words, *map(str, arguments)]) == 0
    return output / slide.stem


@pytest.fixture(scope="module")
def drawn(coarse_slide) -> Path:
    return coarse_slide / "demo.svs"


@pytest.fixture(scope="module")
def results(drawn, tmp_path_factory) -> Path:
    return run(drawn, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def slide(drawn):
    with muse.open_slide(drawn) as slide:
        yield slide


@pytest.fixture(scope="module")
def tissue(slide):
    with warnings.catch_warnings(action="ignore"):  # about the pen mark
        return muse.find_tissue(slide)


@pytest.fixture(scope="module")
def whole(slide, tissue) -> geopandas.GeoDataFrame:
    return muse.find_nuclei(slide, tissue=tissue)


@pytest.fixture(scope="module")
def pixels(slide) -> np.ndarray:
    x, y, width, height = CROP
    return slide.read_region((x, y), 0, (width, height))


def within(nuclei: geopandas.GeoDataFrame, box) -> geopandas.GeoDataFrame:
    x, y, width, height = box
    inside = nuclei.x.ge(x) & nuclei.x.lt(x + width) & nuclei.y.ge(y) & nuclei.y.lt(y + height)
    return nuclei[inside].reset_index(drop=True)


def test_a_slide_has_the_nuclei_of_muse_run(whole, results, tmp_path):
    of_run = muse.read_nuclei(results / "nuclei.parquet")
    assert len(whole) > 1000
    assert_geodataframe_equal(whole, of_run)
    assert whole.attrs == of_run.attrs
    muse.write_geojson(whole, tmp_path / "nuclei.geojson.gz")
    assert (tmp_path / "nuclei.geojson.gz").read_bytes() == (
        results / "nuclei.geojson.gz"
    ).read_bytes()


def test_the_example_of_the_readme_finds_them(whole, drawn, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "slide.svs").symlink_to(drawn)
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings(action="ignore"):  # about the pen mark
        exec(code, names)
    assert_geodataframe_equal(names["nuclei"], whole)


def test_a_class_is_that_of_the_largest_probability(whole, slide):
    assert list(whole["class"].cat.categories) == ["Lymphocyte", "Epithelial", "Stroma"]
    prob = whole[[f"prob_{name}" for name in whole["class"].cat.categories]].to_numpy()
    np.testing.assert_array_equal(whole["class"].cat.codes, prob.argmax(1))
    assert whole.attrs["provenance"]["fingerprint"] == slide.info.fingerprint
    assert whole.attrs["provenance"]["refiner_sha256"] == sha256_of(MODEL)


@pytest.mark.parametrize(
    "box", [CROP, (1900, 950, 60, 1000.5), (-500, 1200, 1700, 400), (1919.5, 0, 5, 9000)]
)
def test_a_box_has_the_nuclei_of_the_slide_within_it(whole, slide, tissue, box):
    found, expected = muse.find_nuclei(slide, box, tissue=tissue), within(whole, box)
    assert_geodataframe_equal(found, expected)
    assert len(expected) > 0
    assert found.attrs["provenance"]["n_windows"] < whole.attrs["provenance"]["n_windows"]


def test_without_a_given_tissue_a_box_has_that_of_the_whole_slide(whole, slide):
    with pytest.warns(MuseWarning, match="pen marks"):
        found = muse.find_nuclei(slide, CROP, threads=1)
    assert_geodataframe_equal(found, within(whole, CROP))


def test_an_array_has_the_nuclei_of_its_picture(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    folder = run(tmp_path / "picture.png", tmp_path / "results", "--mpp", MPP)
    of_run = muse.read_nuclei(folder / "nuclei.parquet")
    of_array = muse.find_nuclei(pixels, mpp=MPP)
    assert len(of_array) > 100
    assert_geodataframe_equal(of_array, of_run)
    with muse.SlideImage.from_array(pixels, MPP, "picture") as image:
        tissue = muse.find_tissue(image)
        assert_geodataframe_equal(muse.find_nuclei(image, tissue=tissue), of_run)
        view = pixels[::-1].copy()[::-1]
        assert_geodataframe_equal(muse.find_nuclei(view, mpp=MPP, tissue=tissue), of_run)


def test_another_model_by_its_name(pixels):
    nuclei = muse.find_nuclei(pixels, (0, 0, 300, 300), mpp=MPP, model="label_free")
    assert set(nuclei["class"]) == {"Nucleus"}
    assert nuclei.attrs["model"] == "label_free"
    assert "cluster" in nuclei


def test_a_region_of_interest_as_polygon_or_file_is_that_of_muse_run(slide, drawn, tmp_path):
    x, y, width, height = CROP
    area = shapely.box(x, y, x + width, y + height).difference(
        shapely.box(x + 200, y, x + 500, y + 300)
    )
    (tmp_path / "roi.geojson").write_text(shapely.to_geojson(area), encoding="utf-8")
    of_run = muse.read_nuclei(
        run(drawn, tmp_path / "results", "--roi", tmp_path / "roi.geojson") / "nuclei.parquet"
    )
    with warnings.catch_warnings(action="ignore"):  # about the pen mark
        tissue, by_polygon = (
            muse.find_tissue(slide, roi) for roi in (tmp_path / "roi.geojson", area)
        )
    found = muse.find_nuclei(slide, tissue=tissue)
    assert_geodataframe_equal(found, of_run)
    assert found.attrs == of_run.attrs
    assert_geodataframe_equal(muse.find_nuclei(slide, tissue=by_polygon), of_run)
    assert shapely.contains_xy(area, found.x, found.y).all()
    assert tissue.area_mm2 == by_polygon.area_mm2 <= area.area * MPP**2 / 1e6


def test_tissue_and_its_outline(tissue, whole, slide):
    assert repr(tissue).startswith("<Tissue of 'demo', 0.")
    assert tissue.mask.dtype == bool
    assert tissue.mask.shape == tuple(
        np.ceil(np.multiply(slide.info.size_px, MPP) / tissue.mask_mpp).astype(int)[::-1]
    )
    outline = tissue.to_geodataframe()
    assert outline.crs is None
    assert set(outline.geom_type) == {"Polygon"}
    np.testing.assert_allclose(outline.area_mm2.sum(), tissue.area_mm2, rtol=1e-3)
    np.testing.assert_allclose(outline.area_mm2, outline.geometry.area * MPP**2 / 1e6)
    assert outline.attrs == {"slide_id": "demo", "mpp": [MPP, MPP]}
    near = outline.geometry.buffer(32 / MPP).union_all()
    assert shapely.contains_xy(near, whole.x, whole.y).all()


def test_a_slide_is_read_and_closed(drawn, gradient):
    with muse.open_slide(drawn) as slide:
        assert isinstance(slide, Slide)
        assert repr(slide).startswith("<SlideImage 'demo', ")
        assert slide.info.mpp == (MPP, MPP)
        assert slide.read_region((0, 0), 1, (30, 20)).shape == (20, 30, 3)
    with pytest.raises(ArgumentError, match="slide 'demo' is closed"):
        slide.read_region((0, 0), 0, (1, 1))
    with pytest.raises(ArgumentError, match="slide 'demo' is closed"):
        muse.find_nuclei(slide)
    image = muse.SlideImage.from_array(gradient, 0.25, "gradient")
    np.testing.assert_array_equal(image.read_region((10, 20), 0, (40, 30)), gradient[20:50, 10:50])


def test_a_picture_without_the_size_of_a_pixel(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    with pytest.raises(MppError, match=r"picture.png: .*in Python: mpp="):
        muse.open_slide(tmp_path / "picture.png")
    with muse.open_slide(tmp_path / "picture.png", mpp=MPP) as slide:
        assert slide.info.mpp == (MPP, MPP)


def test_no_tissue_is_no_nuclei_and_a_warning(whole):
    with pytest.warns(MuseWarning, match="no tissue found"):
        nuclei = muse.find_nuclei(np.full((300, 400, 3), 240, np.uint8), mpp=MPP)
    assert len(nuclei) == 0
    assert nuclei.dtypes.equals(whole.dtypes)
    with pytest.warns(MuseWarning, match="no tissue found"):
        outline = muse.find_tissue(np.full((300, 400, 3), 240, np.uint8), mpp=MPP).to_geodataframe()
    assert list(outline.columns) == ["area_mm2", "geometry"]


def test_what_an_image_is_not_is_warned_of(slide, pixels):
    with pytest.warns(MuseWarning) as caught:
        muse.find_nuclei(255 - slide.read_region((0, 0), 0, (2000, 1500)), mpp=MPP)
    assert "array: dark background: not bright-field" in [
        str(warning.message) for warning in caught
    ]
    with pytest.warns(MuseWarning, match="implausible") as caught:
        muse.SlideImage.from_array(pixels, 3.0)
    assert [Path(warning.filename).name for warning in caught] == ["test_pipeline.py"]
    with pytest.warns(MuseWarning) as caught:
        muse.find_nuclei(pixels[:300, :300], mpp=0.1)
    assert sum("implausible" in str(warning.message) for warning in caught) == 1


def test_nuclei_of_an_implausible_size_are_warned_of(pixels):
    enlarged = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    with pytest.warns(MuseWarning, match="pixel size"):
        assert len(muse.find_nuclei(enlarged, mpp=MPP)) > 100


def test_tissue_that_cannot_be_decoded_is_warned_of(pixels):
    levels = [np.tile(pixels, (6, 5, 1))]
    levels.append(levels[0][::16, ::16].copy())
    drawn = ArraySlide(levels)
    image = muse.SlideImage(drawn, drawn.info((MPP, MPP)))
    with warnings.catch_warnings(action="ignore"):
        tissue = muse.find_tissue(image)
    drawn.corrupt = [(1100, 1100, 10, 10)]
    with pytest.warns(MuseWarning, match="tissue cannot"):
        muse.find_nuclei(image, (1000, 1000, 200, 200), tissue=tissue)


def test_an_open_slide_has_its_own_mpp_and_tissue(pixels, slide, tissue):
    with pytest.raises(ArgumentError, match="give it to open_slide"):
        muse.find_nuclei(slide, mpp=MPP)
    with pytest.raises(ArgumentError, match="tissue belongs"):
        muse.find_nuclei(pixels, mpp=MPP, tissue=tissue)


def test_nothing_is_left_behind(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    n_threads = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        muse.find_nuclei(pixels, (0, 0, 50, 50), mpp=MPP)
        assert cv2.getNumThreads() == 3
        assert not [
            file
            for file in psutil.Process().open_files()
            if Path(file.path).is_relative_to(tmp_path)
        ]
    finally:
        cv2.setNumThreads(n_threads)
    assert list(tmp_path.iterdir()) == []


def loaded_after(program: str, packages: set[str]) -> set[str]:
    program += f"\nimport sys; print(*({packages} & sys.modules.keys()))"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


def test_importing_the_package_loads_nothing_and_using_it_no_torch():
    libraries = {"torch", "numpy", "pandas", "geopandas", "onnxruntime", "cv2", "zarr"}
    assert loaded_after("import muse_pipeline", libraries) == set()
    every = "import muse_pipeline as muse\nfor name in muse.__all__: getattr(muse, name)"
    assert loaded_after(every, {"torch", "geopandas"}) == {"geopandas"}
