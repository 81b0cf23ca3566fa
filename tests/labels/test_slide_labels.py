"""Labels of whole slides: each annotated region becomes a picture with context; positions are in
its pixels.
"""

from dataclasses import replace

import numpy as np
import pytest
from drawn_labels import box, disc, draw_nuclei, geojson, grid_xy, pixels_at_nuclei, point, read
from slide_files import write_pyramid

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.types import Bounds
from muse_pipeline.labels import slide_source as slide_labels
from muse_pipeline.labels.slide_source import SlideSource

SIZE, SLIDE_MPP, RADIUS = (1400, 1100), 0.25, 12
XY = grid_xy(SIZE, step_px=80, first_px=40)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A folder with S.tif, a slide with nuclei at 0.25 um/px."""
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "S.tif", draw_nuclei(SIZE, XY, RADIUS), mpp=SLIDE_MPP)
    return folder


def within(left, top, right, bottom):
    return XY[(((left, top) < XY) & ((right, bottom) > XY)).all(1)]


def make(tmp_path, slide, *features, suffix=".geojson", text=None, form="geojson", **settings):
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / f"labels/S{suffix}").write_text(text or geojson(*features))
    return SlideSource(tmp_path / "labels", form, **{"slides": slide, **settings})


REGION = (420, 300, 820, 640)


def labelled(*more):
    return (box(*REGION), "Region"), *((disc(*xy, RADIUS), "Dark") for xy in within(*REGION)), *more


def test_a_region_is_read_at_the_models_mpp_with_its_context(tmp_path, slide):
    (image,) = read(make(tmp_path, slide, *labelled()), context_px=256)
    assert image.name == "S_x420_y300"
    assert len(image.nuclei) == len(within(*REGION)) == 20
    assert image.nuclei.rays == pytest.approx(RADIUS * SLIDE_MPP, rel=0.02)
    assert image.region.sum() == 200 * 170  # at 0.5 um/px
    rows, columns = np.nonzero(image.region)
    assert 0 < columns.min() < columns.max() < image.pixels.shape[1] - 1
    assert 0 < rows.min() < rows.max() < image.pixels.shape[0] - 1
    expected = (within(*REGION) / 2) - (210 - columns.min(), 150 - rows.min())
    assert np.allclose(image.nuclei.xy, expected, atol=1e-6)
    at = pixels_at_nuclei(image)
    assert at.mean() < 110 < image.pixels.mean() - 40  # each centre lies on its dark disc
    assert image.stain is not None
    assert (image.patient, image.source) == ("S", str(slide))


def test_points_grow_and_each_nucleus_is_in_one_picture(tmp_path, slide):
    features = [
        (box(200, 200, 1300, 900), "Region*"),
        *((point(*xy), "Pale") for xy in within(200, 200, 1300, 900)),
    ]
    images = read(make(tmp_path, slide, *features), context_px=256)
    assert len(images) == 3 * 2
    assert sum(len(image.nuclei) for image in images) == len(features) - 1
    assert sum(image.region.sum() for image in images) == 550 * 350
    radii = np.concatenate([image.nuclei.rays.mean(1) for image in images])
    assert np.median(radii) == pytest.approx(RADIUS * SLIDE_MPP, rel=0.15)


def test_positions_in_qupaths_frame_begin_at_the_bounds(tmp_path, slide, monkeypatch):
    inspect = slide_labels.inspect_slide
    bounds = Bounds(80, 160, 1200, 900)
    monkeypatch.setattr(
        slide_labels, "inspect_slide", lambda *given: replace(inspect(*given), bounds=bounds)
    )
    shifted = [
        (box(340, 140, 740, 480), "Region"),
        *((disc(x - 80, y - 160), "Dark") for x, y in within(*REGION)),
    ]
    (image,) = read(make(tmp_path, slide, *shifted), context_px=256)
    assert image.name == "S_x420_y300"
    at = pixels_at_nuclei(image)
    assert at.mean() < 110


def test_text_counts_pixels_of_level_0_and_needs_regions_beside_it(tmp_path, slide):
    (tmp_path / "regions").mkdir()
    (tmp_path / "regions/S.geojson").write_text(geojson((box(*REGION), "Region")))
    text = "x,y,class\n" + "".join(f"{int(x)},{int(y)},Dark\n" for x, y in within(*REGION))
    source = make(tmp_path, slide, suffix=".csv", text=text, form="x y class")
    with pytest.raises(LabelError, match=r"S.csv: has no annotation 'Region\*'"):
        read(source)
    (image,) = read(replace(source, regions=tmp_path / "regions"), context_px=256)
    assert len(image.nuclei) == 20
    assert pixels_at_nuclei(image).mean() < 110


def test_nuclei_outside_the_regions_are_rejected_or_counted(tmp_path, slide):
    source = make(tmp_path, slide, *labelled((point(100, 100), "Dark"), (point(120, 100), "Dark")))
    with pytest.raises(
        LabelError, match=r"S.geojson, feature 22: .* outside every .* \(so do 1 more\)"
    ):
        read(source)
    images = read(replace(source, outside="leave out"), context_px=256)
    assert [(len(image.nuclei), image.n_left_out) for image in images] == [(20, 2)]


@pytest.mark.parametrize(
    "features, message",
    [
        (
            labelled((box(900, 800, 930, 840), "Region")),
            r"\(900, 800\) of slide 'S' contains no nucleus",
        ),
        (((box(3000, 3000, 3100, 3100), "Region"),), "its regions lie outside slide 'S'"),
        (labelled(*labelled()[1:]), "S.geojson: 20 of its 40 nuclei are duplicates"),
        (labelled((point(2000, 100), "Dark")), "feature 22: .* outside slide 'S' of 1400 x 1100"),
        (((disc(100, 100), "Dark"),), "no annotation 'Region\\*'"),
    ],
)
def test_what_cannot_be_meant(tmp_path, slide, features, message):
    with pytest.raises(LabelError, match=message):
        read(make(tmp_path, slide, *features))


def test_a_region_on_glass_is_rejected(tmp_path, slide):
    pixels = np.full((1100, 2800, 3), 243, np.uint8)
    pixels[:, :1400] = draw_nuclei(SIZE, XY, RADIUS)
    (tmp_path / "half").mkdir()
    write_pyramid(tmp_path / "half/S.tif", pixels, mpp=SLIDE_MPP)
    tissue = within(1000, 300, 1400, 640)
    glass = tissue + np.array([800, 0])
    mostly = [(box(1000, 300, 2700, 940), "Region"), *((point(*xy), "Dark") for xy in tissue)]
    assert sum(
        len(image.nuclei) for image in read(make(tmp_path, tmp_path / "half", *mostly))
    ) == len(tissue)
    for left, xy, n in (
        (1800, glass, len(glass)),
        (1000, np.concatenate([tissue, glass]), len(glass)),
    ):
        drawn = (box(left, 300, 2200, 640), "Region"), *((point(*each), "Dark") for each in xy)
        output = rf"\({left}, 300\) of slide 'S' .* glass \({n} of its {len(xy)}"
        with pytest.raises(LabelError, match=output):
            read(make(tmp_path, tmp_path / "half", *drawn))


def test_an_empty_region_may_be_meant(tmp_path, slide):
    source = make(tmp_path, slide, *labelled((box(900, 800, 930, 840), "Region")), allow_empty=True)
    assert [len(image.nuclei) for image in read(source, context_px=256)] == [20, 0]


def test_a_stated_mpp_must_be_the_slides(tmp_path, slide):
    with pytest.raises(LabelError, match=r"S.tif: `mpp` of this source .* 0.25"):
        read(make(tmp_path, slide, *labelled(), mpp=0.5))
    assert read(make(tmp_path, slide, *labelled(), mpp=0.252), context_px=64)
    sheet = tmp_path / "slides.tsv"
    sheet.write_text(f"slide_id\tpath\tmpp\nS\t{slide / 'S.tif'}\t0.5\n")
    with pytest.raises(LabelError, match=r"`mpp` of slide 'S' in .*slides.tsv .* 0.25"):
        read(make(tmp_path, sheet, *labelled()))


def test_a_sheet_has_patients_and_splits(tmp_path, slide):
    sheet = tmp_path / "slides.tsv"
    rows = [("slide_id", "path", "patient", "split"), ("S", slide / "S.tif", "Ms A", "train")]
    rows += [("T", slide / "S.tif", "Mr B", "val")]
    sheet.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    source = make(tmp_path, sheet, *labelled(), split=tmp_path / "train")
    assert [image.patient for image in read(source, context_px=64)] == ["Ms A"] * 12
    with pytest.raises(LabelError, match=r"split 'test'.* train, val"):
        read(replace(source, split=tmp_path / "test"))
    with pytest.raises(LabelError, match="no label file for 'T'"):
        read(replace(source, split=None), context_px=64)
    (tmp_path / "list.txt").write_text("S\nU\n")
    with pytest.raises(LabelError, match=r"1 of its names .* U"):
        read(replace(source, split=tmp_path / "list.txt"))
