"""The ``colour`` input of a model for one slide: from the slide's stain statistics and the card's reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.errors import ModelError, StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.tissue.colour import SlideColour
from muse_pipeline.tissue.stain import IDENTITY, MacenkoFit, gain_ratio, stain_map

MAX_GAIN_RATIO = 18.0  # pictures of H&E have 1 to 14, violet ones mostly 20 to 60


def read_colour(path: Path | str, fingerprint: str | None = None) -> SlideColour:
    """Read a ``colour.json``, of the slide with this ``fingerprint`` if one is given.

    Raises:
        StoreError: the file is missing, was not written by ``muse tissue``, or is of another slide.
    """
    colour = _read(path)
    if fingerprint and colour.fingerprint not in {None, fingerprint}:
        raise StoreError(f"{path}: is of another slide than the image; give that slide's own")
    return colour


def _read(path: Path | str) -> SlideColour:
    try:
        statistics = read_json(path)
        fit = statistics["macenko"]
        if _are_measures(statistics.get("appearance", {})) and (fit is None or _is_fit(fit)):
            return SlideColour.from_dict(statistics)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); make it with `muse tissue`") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise StoreError(f"{path}: is not a colour.json of this version; make it with `muse tissue`")


def _are_measures(appearance: dict[str, float]) -> bool:
    """True if all values are finite numbers."""
    return bool(np.isfinite(np.array(list(appearance.values()), float)).all())


def _is_fit(fit: dict[str, Any]) -> bool:
    """True if there are two stains, each with a direction of its own and a positive strength."""
    stains, strong = np.array(fit["stains"], float), np.array(fit["strong"], float)
    if (stains.shape, strong.shape) != ((2, 3), (2,)):
        return False
    return bool(np.isfinite(stains).all() and np.linalg.matrix_rank(stains) == 2 and (strong > 0).all())


def colour_of_fit(reference: ColourReference, fit: MacenkoFit | None) -> np.ndarray:
    """(3, 4) float32 map in optical density; identity if the stains could not be fitted.

    Interpolates, by the normalisation strength, from the identity to the map that takes the stains to the reference's.
    Colours are unchanged if both stains are violet and that map amplifies one mixture of them more than
    ``MAX_GAIN_RATIO`` times as much as another: one of them is not eosin, and the result would hide nuclei.

    Args:
        reference: colour reference of the card.
        fit: fit of a slide or picture; None if it failed.

    Raises:
        ModelError: the method of the card is unknown to this version.
    """
    if reference.method == "identity":
        return IDENTITY.copy()
    if reference.method != "macenko":
        raise ModelError(
            f"the model's card asks for colour method '{reference.method}', which is unknown to this version; update"
        )
    if fit is None:
        return IDENTITY.copy()
    whole_way = stain_map(fit.stains, fit.strong, reference.stains, reference.strong)
    red, _, blue = fit.stains[1]
    if red > blue and gain_ratio(whole_way, fit.stains) > MAX_GAIN_RATIO:
        return IDENTITY.copy()
    share = np.float32(reference.share)
    return (1 - share) * IDENTITY + share * whole_way
