"""Areas out of focus, folds, air bubbles and ink, for QuPath."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import override

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.setting import Setting
from muse_pipeline.core.types import ARTEFACTS, SUBTRACTED
from muse_pipeline.outputs.base import OUTPUTS, Output


@OUTPUTS.register("artefacts")
class Artefacts(Output):
    """The file ``artefacts.geojson`` and the column ``quality`` of the nuclei, both written by `stitch`."""

    files = ("artefacts.geojson",)
    switch = Setting(
        "quality",
        False,
        {
            "type": ["boolean", "object"],
            "additionalProperties": False,
            "properties": {
                "subtract": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "artefacts whose nuclei and areas the totals leave out, or none",
                }
            },
            "required": ["subtract"],
        },
        "find areas out of focus, folds, air bubbles and ink, and exclude nuclei that are out of focus from the totals",
        "Writes `artefacts.geojson`, and the column `quality` for every nucleus. `true` is short for "
        "`{subtract: [blurred]}`; `{subtract: []}` leaves nothing out "
        "([docs/guide/confidence.md](../docs/guide/confidence.md#artefacts))",
        metavar="KIND",
    )
    step = "stitch"
    by_stitch = True

    @override
    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        require_quality_mpp(settings["mpp"])
        return {"quality": {"subtract": list(subtracted(settings))}}


def subtracted(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The kinds of artefacts that totals leave out; None if a run with these settings does not search for artefacts.

    Raises:
        ConfigError: ``settings`` name a kind that totals cannot leave out.
    """
    quality = settings["quality"]
    if not quality:
        return None
    return SUBTRACTED if quality is True else choose_subtracted(quality["subtract"])


def choose_subtracted(kinds: Iterable[str]) -> tuple[str, ...]:
    """Check the kinds of artefacts to leave out of totals, and return them; "blur" is short for "blurred".

    Raises:
        ConfigError: a kind does not exist, or cannot be left out because it would remove nuclei of clean tissue.
    """
    chosen = tuple(dict.fromkeys("blurred" if kind == "blur" else kind for kind in kinds))
    for kind in chosen:
        if kind not in ARTEFACTS:
            raise ConfigError(f"quality: there is no artefact '{kind}' to subtract; choose {' or '.join(SUBTRACTED)}")
        if kind not in SUBTRACTED:
            raise ConfigError(
                f"quality: '{kind}' is shown, but cannot be subtracted, because in some clean tissue that would remove "
                f"more than 0.5 % of the nuclei; choose {' or '.join(SUBTRACTED)}"
            )
    return chosen


def require_quality_mpp(mpp: float) -> None:
    """Reject images in which focus cannot be judged.

    Raises:
        ConfigError: 0.5 um, the pixel size at which focus is judged, is not a multiple of ``mpp``.
    """
    if round(0.5 / mpp) < 1 or abs(0.5 / mpp - round(0.5 / mpp)) > 1e-6:
        raise ConfigError(
            f"quality: focus is judged at 0.5 um/px, but {mpp:g} um/px does not divide it; leave quality out, or take "
            "a model for 0.5 or 0.25 um/px"
        )
