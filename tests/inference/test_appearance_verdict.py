"""Slides unlike a model's training pictures are flagged with reasons; an unknown appearance is
never "ok".
"""

import pytest

from muse_pipeline.core.provenance import (
    DARK,
    EOSIN,
    NO_BROWN,
    OF_CELLS,
    STATED_IHC,
    Verdict,
    to_json,
)
from muse_pipeline.inference.doubts import (
    BROWN_NUCLEI,
    FOCUS,
    STAINS,
    TISSUE,
    describe_training,
    judge_appearance,
)
from muse_pipeline.inference.model import BUILT_IN, read_card
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.colour import SlideColour, measure_colour
from muse_pipeline.tissue.find import find_tissue, is_fluorescence

MEASURES = STAINS | FOCUS | TISSUE
SEEN = dict.fromkeys(MEASURES, 0.0)


@pytest.fixture(scope="module")
def reference():
    return describe_training([SEEN, {name: 0.1 for name in SEEN}])


def judge(reference, **measures):
    return judge_appearance(reference, SlideColour(appearance={**SEEN, **measures}))


def test_a_slide_like_the_training_pictures_is_ok(reference):
    assert to_json(judge(reference)) == {"verdict": "ok", "reasons": []}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_counts_beyond_its_margin_and_not_before(reference, name):
    margin, below, above = MEASURES[name]
    least, _, most = reference.ranges[name]
    for word, edge, beyond in ((below, least, -1), (above, most, 1)):
        assert judge(reference, **{name: edge + 0.9 * margin * beyond}).verdict == "ok"
        verdict = judge(reference, **{name: edge + 1.1 * margin * beyond})
        assert verdict.verdict == ("flagged" if word else "ok")
        assert word in " ".join(verdict.reasons)


@pytest.mark.parametrize(
    "is_ihc, stated, verdict, reasons",
    [
        (True, None, "other stain", (BROWN_NUCLEI,)),
        (True, "unknown", "other stain", (BROWN_NUCLEI,)),
        (True, "IHC", "other stain", (STATED_IHC,)),
        (True, "IHC of membranes", "other stain", (STATED_IHC, OF_CELLS)),
        (False, "IHC", "other stain", (STATED_IHC, NO_BROWN)),
        (True, "H&E", "flagged", (f"{BROWN_NUCLEI}, but stated as H&E",)),
        (False, "H&E", "ok", ()),
        (False, None, "ok", ()),
    ],
)
def test_a_stated_stain_is_believed_and_an_unstated_one_is_judged_by_the_colours(
    reference, is_ihc, stated, verdict, reasons
):
    colour = SlideColour(appearance=SEEN, is_ihc=is_ihc)
    assert judge_appearance(reference, colour, stated) == Verdict(verdict, reasons)
    assert judge_appearance(None, colour, stated).is_ihc == (
        verdict == "other stain"
    )  # whatever the card contains
    pink = SlideColour(appearance=SEEN, has_eosin=True)
    assert judge_appearance(reference, pink, "IHC").reasons == (STATED_IHC, EOSIN)
    dark = SlideColour(dark_background=True, is_ihc=is_ihc)
    assert judge_appearance(reference, dark, stated).reasons == (DARK,)


def test_stains_that_are_not_those_of_h_and_e(reference):
    measures = {
        name: value
        for name, value in SEEN.items()
        if not name.startswith(("haematoxylin", "eosin"))
    }
    verdict = judge_appearance(reference, SlideColour(appearance=measures))
    assert "not recognised as haematoxylin and eosin" in verdict.reasons[0]


@pytest.mark.parametrize("appearance", [SEEN, None])
def test_what_is_not_known_is_not_fine(reference, appearance):
    verdict = judge_appearance(
        None if appearance else reference, SlideColour(appearance=appearance)
    )
    assert verdict.verdict == "not known" and verdict.reasons and not verdict.sentences()


@pytest.mark.parametrize("model", sorted(BUILT_IN.glob("*.onnx")), ids=lambda path: path.stem)
def test_built_in_models_have_how_their_training_pictures_looked(model):
    assert read_card(model).appearance is not None, (
        "write it with `muse card`, see docs/guide/confidence.md"
    )


SLIDES = {
    "wsi-cmu-small-region/CMU-1-Small-Region.svs": "ok",
    "wsi-openslide-crops/OS-1-detail.ome.tif": "ok",
    "wsi-openslide-crops/OS-2-ndpi.ome.tif": "other stain",
    "wsi-ndpi-fluorescence/test3-DAPI-2-(387).ndpi": "other stain",
}


@pytest.mark.parametrize("name", SLIDES)
def test_real_slides(shared_data, name):
    reference = read_card(next(BUILT_IN.glob("compact*.onnx"))).appearance
    info = inspect_slide(shared_data / name, "slide")
    with open_slide(shared_data / name, info.reader) as slide:
        found = find_tissue(slide, info)
        colour = measure_colour(slide, info, found.tissue, is_fluorescence(found.overview.pixels))
    verdict = judge_appearance(reference, colour)
    assert verdict.verdict == SLIDES[name], verdict
    assert ("brown" in " ".join(verdict.reasons)) == name.endswith("OS-2-ndpi.ome.tif")
