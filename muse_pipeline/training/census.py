"""What the labelled images of a run say before its first step: their stains and how often each class is there."""

from __future__ import annotations

import numpy as np
import torch

from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.errors import ConfigError
from muse_pipeline.inference.appearance import describe_training
from muse_pipeline.inference.card import AppearanceReference, ColourReference
from muse_pipeline.inference.colour import colour_of_fit
from muse_pipeline.tissue.appearance import measure_picture
from muse_pipeline.tissue.macenko import MacenkoFit


def colour_reference(images: list[LabelledImage], method: str) -> ColourReference:
    """The reference that slides are taken to, see ``mean_stains``; images count as often as they are drawn."""
    return mean_stains([image.stain for image in images], method, [image.weight for image in images])


def mean_stains(fits: list[MacenkoFit | None], method: str, weights: list[float] | None = None) -> ColourReference:
    """The mean stains and the median strong end of training images.

    Args:
        fits: of the images, None where that failed.
        method: "macenko" or "identity".
        weights: of the images; all alike without them.

    Raises:
        ConfigError: no image's stains could be fitted.
    """
    if method == "identity":
        return ColourReference()
    fitted = [fit is not None for fit in fits]
    weights = np.ones(len(fits)) if weights is None else np.array(weights, float)
    fits, weights = [fit for fit in fits if fit is not None], weights[fitted]
    if not fits:
        raise ConfigError("no training image's stains could be fitted; choose colour method 'identity'")
    stains = np.average([fit.stains for fit in fits], 0, weights)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    strong = np.quantile([fit.strong for fit in fits], 0.5, axis=0, weights=weights, method="inverted_cdf")
    return ColourReference(method, tuple(map(tuple, stains.round(4).tolist())), tuple(strong.round(4).tolist()))


def image_colour(image: LabelledImage, reference: ColourReference) -> np.ndarray:
    """(3, 4) colour map of a labelled image, fitted on itself as on a slide."""
    return colour_of_fit(reference, image.stain)


def appearance_reference(images: list[LabelledImage], mpp: float) -> AppearanceReference | None:
    """How the slides and pictures of labelled images look, for the card; None where there is nothing to measure."""
    return describe_training([_measure(image, mpp) for image in images])


def _measure(image: LabelledImage, mpp: float) -> dict[str, float]:
    """The measures of an image's slide, else of the annotated part of a picture."""
    if image.appearance:
        return image.appearance
    left, top, right, bottom = image.annotated_box
    return measure_picture(image.pixels[top:bottom, left:right], mpp)


def class_weights(images: list[LabelledImage], n_classes: int) -> torch.Tensor:
    """(C,) inverse square roots of the classes' frequencies, mean 1 over the nuclei; 0 for a class without any."""
    counts = count_classes(images, n_classes).astype(float)
    weights = np.where(counts > 0, counts.clip(min=1) ** -0.5, 0)
    return torch.tensor(weights * counts.sum() / max((weights * counts).sum(), 1), dtype=torch.float32)


def count_classes(images: list[LabelledImage], n_classes: int) -> np.ndarray:
    """(C,) nuclei of each class."""
    labels = np.concatenate([image.nuclei.label for image in images])
    return np.bincount(labels[labels >= 0], minlength=n_classes)


def missing_classes(images: list[LabelledImage], classes: tuple[str, ...]) -> list[str]:
    """The classes of which no nucleus is labelled."""
    return [name for name, n in zip(classes, count_classes(images, len(classes)), strict=True) if not n]


def require_every_class(images: list[LabelledImage], classes: tuple[str, ...], split: str) -> None:
    """A class without nuclei can neither be learnt nor scored.

    Raises:
        ConfigError: there is one; it and the ``split`` are named.
    """
    if missing := missing_classes(images, classes):
        raise ConfigError(
            f"the {split} images hold no labelled nucleus of {' and '.join(missing)}; correct `classes` or the sources"
        )
