"""Compare two networks without labels: is a nucleus recognised at another mpp, rotated, or with another stain?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.core.config import locate, parse_config, parse_yaml
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.evaluation.bootstrap import compare_means
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.models.base import Backbone
from muse_pipeline.probing.features import Variation, choose_nuclei, nucleus_features
from muse_pipeline.probing.neighbours import CROP_UM, NucleusGallery, draw_neighbours, recognised, stability
from muse_pipeline.probing.network import SEED, ProbedNetwork

MOST_NUCLEI = 1000  # of an image, candidates of the retrieval
MOST_VARIED = 250  # of them, rotated and restained
MOST_IMAGES = 40
VARIATIONS = (  # of the finer variation
    {"mirror": True},
    {"turns": 1},
    {"turns": 2},
    {"stain": (1.3, 0.8)},
    {"stain": (0.77, 1.25)},
)
RETRIEVAL, STABILITY = "the same nucleus found at the other mpp", "nearer to itself than another nucleus is"
ACROSS = "nearer to itself at the other mpp than another is"


def choose_images(images: Sequence[NucleusImage], most: int = MOST_IMAGES) -> list[NucleusImage]:
    """At most ``most`` random images, of as many patients as possible, in the order in which they were given."""
    taken: dict[str, int] = {}
    ranked = []
    for number in np.random.default_rng(SEED).permutation(len(images)).tolist():
        patient = images[number].patient
        ranked.append((taken.get(patient, 0), len(ranked), number))
        taken[patient] = taken.get(patient, 0) + 1
    return [images[number] for number in sorted(number for *_, number in sorted(ranked)[:most])]


def compare_on_tissue(
    images: Sequence[NucleusImage],
    networks: Sequence[ProbedNetwork],
    *,
    mpps: tuple[float, float],
    window_px: int,
    repeats: int,
    device: torch.device,
    output: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compare both networks on the same nuclei of the same images.

    Args:
        images: images with at least two nuclei each.
        networks: the network before and the one after.
        mpps: the finer and the coarser um per pixel.
        window_px: side of a window.
        repeats: draws of the bootstrap.
        device: device of the networks.
        output: folder for the picture.
        say: callback with lines on progress.
    """
    chosen = choose_images(images)
    field_px = window_px * mpps[1] / 2
    lots = np.random.default_rng(SEED).spawn(len(chosen))
    nuclei = [
        choose_nuclei(image.nuclei, field_px / image.mpp, MOST_NUCLEI, lot)
        for image, lot in zip(chosen, lots, strict=True)
    ]
    sides = []
    for network in networks:
        say(f"{network.weights}: {sum(map(len, nuclei)):,} nuclei of {len(chosen)} images without labels")
        backbone = network.backbone.to(device)
        compared = [
            _compare_nuclei(backbone, image, xy, colour_of_fit(network.reference, image.stain), mpps, window_px, device)
            for image, xy in zip(chosen, nuclei, strict=True)
        ]
        sides.append({name: [variation[name] for variation in compared] for name in compared[0]})
    rows = [_row(name, chosen, [side[name] for side in sides], repeats) for name in (RETRIEVAL, STABILITY, ACROSS)]
    for cosine in ("same", "different"):
        of = [float(np.concatenate(side[cosine]).mean()) for side in sides]
        rows[1][f"cosine_{cosine}"] = dict(zip(("before", "after"), of, strict=True))
    left_out = len(images) - len(chosen)
    return {
        "window_px": window_px,
        "mpps": list(mpps),
        "n_images": len(chosen),
        "n_patients": len({image.patient for image in chosen}),
        "n_nuclei": sum(map(len, nuclei)),
        "chance": float(np.mean(np.concatenate([np.full(len(xy), 100 / len(xy)) for xy in nuclei]))),
        "seed": SEED,
        "rows": rows,
        "notes": [f"{left_out} of {len(images)} images were not used: {MOST_IMAGES} random ones are enough"]
        if left_out
        else [],
        "picture": _draw(chosen, nuclei, [side["features"] for side in sides], output / "neighbours_unlabelled.png"),
    }


def _compare_nuclei(
    backbone: Backbone,
    image: NucleusImage,
    xy: np.ndarray,
    colour: np.ndarray,
    mpps: tuple[float, float],
    window_px: int,
    device: torch.device,
) -> dict[str, Any]:
    """Values (n,) of each nucleus by each measure, and the features at the finer mpp."""

    def features(of: np.ndarray, variation: Variation) -> Tensor:
        return nucleus_features(backbone, image, of, variation, colour, window_px, device)

    fine, coarse = (features(xy, Variation(mpp)) for mpp in mpps)
    some = xy[:MOST_VARIED]
    varied = [stability(fine[: len(some)], features(some, Variation(mpps[0], **change))) for change in VARIATIONS]
    nearer, same, different = np.mean(varied, 0)
    return {
        RETRIEVAL: recognised(fine, coarse),
        ACROSS: stability(fine, coarse)[0],
        STABILITY: nearer,
        "same": same,
        "different": different,
        "features": fine,
    }


def _row(
    name: str, images: Sequence[NucleusImage], sides: Sequence[Sequence[np.ndarray]], repeats: int
) -> dict[str, Any]:
    before, after = (np.concatenate(side) for side in sides)
    patient = np.repeat([image.patient for image in images], [len(values) for values in sides[0]])
    return {"measure": name, "n_nuclei": len(before), "score": compare_means(before, after, patient, repeats)}


def _draw(
    images: Sequence[NucleusImage], nuclei: Sequence[np.ndarray], sides: Sequence[Sequence[Tensor]], output: Path
) -> dict[str, str] | None:
    counts = [len(xy) for xy in nuclei]
    owner, xy = np.repeat(np.arange(len(images)), counts), np.concatenate(nuclei)

    def crop(nucleus: int) -> np.ndarray:
        image = images[owner[nucleus]]
        side = max(1, round(CROP_UM / image.mpp))
        x, y = np.floor(xy[nucleus] - side / 2).astype(int).tolist()
        return image.read((x, y), (side, side))

    patient = np.repeat([image.patient for image in images], counts)
    gallery = NucleusGallery(patient, crop, np.arange(len(xy)))
    caption = draw_neighbours(gallery, *(torch.cat(list(side)) for side in sides), output)
    return caption and {"file": output.name, "caption": caption}


@dataclass(frozen=True)
class TissueConfig:
    """Tissue that two networks are compared on.

    Attributes:
        sources: tissue with nucleus positions.
        views: settings of the views, of which only the two ends of ``mpp`` count.
        min_nuclei: images with fewer are left out.
    """

    sources: tuple[NucleusSource, ...]
    views: ViewSettings = field(default_factory=ViewSettings)
    min_nuclei: int = 50

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: there is none; name tissue with nucleus positions")
        fine, coarse = self.views.mpp
        if not fine < coarse:
            raise ConfigError(f"views: mpp is [{fine:g}, {coarse:g}]; give two scales, as in [0.25, 0.5]")


def load_tissue_config(path: Path, data: Path | None = None) -> TissueConfig:
    """Read the settings of tissue; a file of pretraining may have others, which are ignored.

    Args:
        path: the YAML file.
        data: folder that paths of sources start at; the file's own when not given.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    values = _read(path)
    own, other = ({one.name for one in dataclasses.fields(kind)} for kind in (TissueConfig, MuseConfig))
    useful = {name: value for name, value in values.items() if name in own or name not in other}
    config = parse_config(useful, TissueConfig, str(path))
    root = (data or Path(path).parent).resolve()
    return locate(config, root, lambda weights: root / weights)


def is_tissue_config(path: Path) -> bool:
    """True if a config names no classes, like those of pretraining.

    Raises:
        ConfigError: the config cannot be read.
    """
    return "classes" not in _read(path)


def _read(path: Path) -> dict:
    try:
        values = parse_yaml(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML config") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values
