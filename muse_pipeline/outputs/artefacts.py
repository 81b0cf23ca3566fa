"""Areas out of focus, folds, air bubbles and ink, for QuPath."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.setting import Setting
from muse_pipeline.core.types import ARTEFACTS, LEFT_OUT
from muse_pipeline.outputs.base import OUTPUTS, Output


@OUTPUTS.register("artefacts")
class Artefacts(Output):
    """The file ``artefacts.geojson`` and the column ``quality`` of the nuclei, both written by
    `stitch`.
    """

    files = (SlideFiles.artefacts,)
    switch = Setting(
        "quality",
        True,
        {
            "type": ["boolean", "object"],
            "additionalProperties": False,
            "properties": {
                "subtract": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": (
                        "artefacts that totals leave out, of blurred, fold, bubble and ink, or none"
                    ),
                }
            },
            "required": ["subtract"],
        },
        "find areas out of focus, folds, air bubbles and ink; totals leave out nuclei that are out"
        " of focus",
        "Writes `artefacts.geojson`, and the column `quality` for every nucleus. `true` is"
        " `{subtract: [blur]}`; `{subtract: [blur, ink]}` also leaves out nuclei in ink,"
        " `{subtract: []}` none. `true` does not search images in which focus cannot be judged"
        " ([docs/guide/confidence.md](../docs/guide/confidence.md#artefacts))",
        metavar="KIND",
    )
    step = "stitch"

    @override
    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        is_possible = can_judge_focus(settings["mpp"])
        if settings["quality"] is True and not is_possible:
            return {"quality": False}  # the default suits every model
        if not is_possible:
            raise ConfigError(
                f"quality: focus is judged at 0.5 um/px, but {settings['mpp']:g} um/px does not"
                " divide it; leave quality out, or take a model for 0.5 or 0.25 um/px"
            )
        return {"quality": {"subtract": list(subtracted(settings))}}


def subtracted(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The kinds of artefacts that totals leave out; None if a run with these settings does not
    search for artefacts.
    """
    quality = settings["quality"]
    if not quality:
        return None
    if quality is True:
        return LEFT_OUT
    chosen = tuple(
        dict.fromkeys("blurred" if kind == "blur" else kind for kind in quality["subtract"])
    )
    for kind in chosen:
        if kind not in ARTEFACTS:
            raise ConfigError(
                f"quality: there is no artefact '{kind}' to subtract; choose among"
                f" {', '.join(ARTEFACTS)}"
            )
    return chosen


def can_judge_focus(mpp: float) -> bool:
    """True if 0.5 um, the pixel size at which focus is judged, is a multiple of ``mpp``."""
    return round(0.5 / mpp) >= 1 and abs(0.5 / mpp - round(0.5 / mpp)) <= 1e-6
