"""Where the mpp is read from, which source has priority, and doubtful values."""

import pytest

from muse_pipeline.slides.mpp import (
    DOUBT,
    MppCandidate,
    choose_mpp,
    mpp_from_objective,
    mpp_from_ome_xml,
    mpp_from_resolution_tags,
    mpp_from_values,
)

OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Image><Pixels SizeX="20" SizeY="10" PhysicalSizeX="9" PhysicalSizeY="9"/></Image>
<Image><Pixels SizeX="200" SizeY="100" {sizes}/></Image></OME>"""


def ome(sizes: str) -> MppCandidate | None:
    return mpp_from_ome_xml(OME.format(sizes=sizes), (200, 100))


@pytest.mark.parametrize(
    "sizes, mpp",
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.5"', (0.25, 0.5)),
        (
            (
                'PhysicalSizeX="0.25" PhysicalSizeXUnit="µm" PhysicalSizeY="250"'
                ' PhysicalSizeYUnit="nm"'
            ),
            (0.25, 0.25),
        ),
        (
            (
                'PhysicalSizeX="0.00025" PhysicalSizeXUnit="mm" PhysicalSizeY="2.5e-5"'
                ' PhysicalSizeYUnit="cm"'
            ),
            (0.25, 0.25),
        ),
        (
            (
                'PhysicalSizeX="1e-5" PhysicalSizeXUnit="in" PhysicalSizeY="0.01"'
                ' PhysicalSizeYUnit="thou"'
            ),
            (0.254, 0.254),
        ),
        ('PhysicalSizeX="0.25"', (0.25, 0.25)),
        ('PhysicalSizeY="250" PhysicalSizeYUnit="nm"', (0.25, 0.25)),
    ],
)
def test_ome_xml_has_units_and_many_images(sizes, mpp):
    assert ome(sizes).mpp == pytest.approx(mpp)


@pytest.mark.parametrize(
    "sizes",
    [
        "",
        'PhysicalSizeX="0" PhysicalSizeY="0"',
        'PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"',
    ],
)
def test_ome_xml_without_a_size(sizes):
    assert ome(sizes) is None


def test_ome_xml_that_is_none():
    assert mpp_from_ome_xml(None, (1, 1)) is None
    assert mpp_from_ome_xml("<OME", (1, 1)) is None


def test_resolution_tags():
    assert mpp_from_resolution_tags(40_000, 20_000, "CENTIMETER").mpp == (0.25, 0.5)
    assert mpp_from_resolution_tags("50800", "50800", "inch").mpp == (0.5, 0.5)


@pytest.mark.parametrize(
    "unit, per_unit",
    [
        ("micron", 4),
        ("um", 4),
        ("\\u00B5m", 4),
        ("µm", 4),
        ("inch", 101_600),
        ("cm", 40_000),
        ("mm", 4000),
        ("nm", 0.004),
    ],
)
def test_units_of_imagej(unit, per_unit):
    description = f"ImageJ=1.54f\nunit={unit}\nloop=false\n"
    assert mpp_from_resolution_tags(per_unit, per_unit, "NONE", description).mpp == pytest.approx(
        (0.25, 0.25)
    )
    assert (
        mpp_from_resolution_tags(per_unit, per_unit, "NONE", "ImageJ=1.54f\nunit=pixel\n") is None
    )


@pytest.mark.parametrize(
    "tags",
    [
        (72, 72, "inch"),
        (96, 96, "INCH"),
        (28.35, 28.35, "centimeter"),
        (300, 300, "inch"),
        (40_000, 40_000, "none"),
        (40_000, 40_000, None),
        (0, 0, "inch"),
        (None, None, "inch"),
    ],
)
def test_resolution_tags_of_screens_and_paper_are_no_mpp(tags):
    assert mpp_from_resolution_tags(*tags) is None


def test_values_and_objective():
    assert mpp_from_values("0,25", "0.25", "x").mpp == (0.25, 0.25)
    assert mpp_from_values("0.25", None, "x") is None
    assert mpp_from_values("nan", "inf", "x") is None
    assert mpp_from_objective("40").mpp == (0.25, 0.25)
    assert mpp_from_objective(None) is None


def test_the_first_candidate_is_taken_and_the_user_overrides():
    scanner = MppCandidate((0.25, 0.25), "openslide.mpp-x")
    assert choose_mpp([scanner, MppCandidate((0.3, 0.3), "tags")]) == (
        (0.25, 0.25),
        "openslide.mpp-x",
        (),
    )
    mpp, source, (warning,) = choose_mpp([scanner], 0.5)
    assert (mpp, source) == ((0.5, 0.5), "given by the user")
    assert warning == "the mpp, 0.5 um as given, overrides 0.25 um from openslide.mpp-x"
    assert choose_mpp([scanner], 0.252)[2] == ()


@pytest.mark.parametrize(
    "candidate, words",
    [
        (MppCandidate((0.25, 0.26), "x"), "differs between x"),
        (MppCandidate((28.97, 28.97), "x"), "implausible"),
        (
            MppCandidate((0.05, 0.05), "x"),
            "implausible for a microscope slide: ten times too fine? check it",
        ),
        (MppCandidate((4.99, 4.99), "x"), "ten times too coarse?"),
        (
            MppCandidate((0.5, 0.25), "x"),
            "0.5 x 0.25 um (x), is implausible for a microscope slide: x and y",
        ),
        (mpp_from_objective(40), "only an estimate from objective power 40x"),
    ],
)
def test_doubts(candidate, words):
    (warning,) = choose_mpp([candidate])[2]
    assert words in warning
    assert warning.startswith(DOUBT) == (
        "differs" not in words
    )  # DOUBT: listed under "Check before use"


@pytest.mark.parametrize(
    "stated, power, given, is_doubted",
    [
        (0.5, 20, None, False),
        (0.62, 20, None, False),
        (0.243, 20, None, False),  # an adapter doubles the magnification
        (0.5, 40, None, True),
        (0.25, 4, None, True),
        (0.5, None, None, False),
        (None, 20, 0.5, False),
        (None, 20, 0.25, True),
        (None, 20, 1.0, True),
        (0.243, 20, 0.243, False),
    ],
)
def test_an_mpp_that_does_not_suit_the_objective_is_doubted(stated, power, given, is_doubted):
    candidates = filter(
        None, [mpp_from_values(stated, stated, "openslide.mpp-x"), mpp_from_objective(power)]
    )
    warnings = choose_mpp(candidates, given)[2]
    assert len(warnings) == is_doubted and all(one.startswith(DOUBT) for one in warnings)
    if is_doubted:
        assert f"does not suit the objective power {power}x in the file" in warnings[0]


def test_either_axis_may_disagree():
    (warning,) = choose_mpp([MppCandidate((0.25, 0.5), "x")], 0.25)[2]
    assert warning == "the mpp, 0.25 um as given, overrides 0.25 x 0.5 um from x"
