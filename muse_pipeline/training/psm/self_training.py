"""PSM's labels from a detector: what it finds in the tissue that it was trained on becomes what the next one learns.

Pseudo-masks know one threshold per slide. A detector that has learnt from them finds pale nuclei beside dark ones too,
and its outlines are rounder than theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.picture import detect_image
from muse_pipeline.labels.formats import IMAGES
from muse_pipeline.nuclei.masks import rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.proposals.otsu_mask import drop_small_labels
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.psm.labels import write_found
from muse_pipeline.training.trained_detector import load_trained
from muse_pipeline.training.validation import NetworkPredictor

FRAGMENT_UM2 = 2.0  # what overlap leaves of an instance; nuclei cut by the picture's border are to be learnt
SURROUND_UM = 32.0  # mirrored around a picture: nuclei at its border are found as those inside are


def write_found_labels(
    checkpoint: Path, config: FinetuneConfig, labels: Path, folder: Path, say: Callable[[str], None]
) -> None:
    """Write the pictures of ``labels`` again with what a detector finds in them.

    Args:
        checkpoint: of the detector.
        config: that it was trained by; with the score from which a nucleus counts as ``export.threshold``.
        labels: folder with the pictures, see ``psm.labels``.
        folder: that exists.
        say: called with a sentence on what was written.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: nothing was found.
        LabelError: a picture is damaged.
    """
    names = sorted((labels / IMAGES).glob("*.png"))
    pictures = {path.stem: read_rgb(path, f"delete {labels} to make it again") for path in names}
    margin = round(SURROUND_UM / config.mpp)
    predictor, reference = _load(checkpoint, config)
    n_nuclei = n_pictures = 0
    for name, pixels in pictures.items():
        colour = colour_of_fit(reference, fit_macenko(pixels.reshape(-1, 3)))
        surrounded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
        found = detect_image(predictor, surrounded, colour)
        found = found[np.argsort(found.score, kind="stable")]  # the surest lies on top
        rings = rays_to_rings(found.xy - margin, found.rays, (config.mpp, config.mpp))
        instances = drop_small_labels(rings_to_labels(rings, pixels.shape[:2]), FRAGMENT_UM2 / config.mpp**2)
        n_here = write_found(folder, name, pixels, instances, config.mpp)
        n_nuclei, n_pictures = n_nuclei + n_here, n_pictures + bool(n_here)
    if not n_nuclei:
        raise ConfigError(
            f"self_training: the detector of {checkpoint.parent} found no nucleus with a score of "
            f"{config.export.threshold:g}; train it longer, lower `threshold`, or set `rounds: 0`"
        )
    say(f"found: {n_nuclei:,} instances in {n_pictures} pictures")


def _load(path: Path, config: FinetuneConfig) -> tuple[NetworkPredictor, ColourReference]:
    network, _, checkpoint = load_trained(path)
    reference = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    reference = replace(reference, share=config.export.colour_share)
    return NetworkPredictor(network, config), reference
