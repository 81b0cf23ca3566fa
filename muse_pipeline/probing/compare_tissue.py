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

from muse_pipeline.core.config import locate, parse_config, read_settings
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.labelled_points import BATCH, PointBatch
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex, NucleusSource
from muse_pipeline.data.views import View, ViewSettings
from muse_pipeline.evaluation.bootstrap import compare_means
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.models.base import Backbone
from muse_pipeline.probing.neighbours import CROP_UM, NucleusGallery, draw_neighbours, recognised, stability
from muse_pipeline.probing.network import SEED, ProbedNetwork
from muse_pipeline.probing.probe import ProbeSettings
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK

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


def choose_images(images: Sequence[NucleusImage]) -> list[NucleusImage]:
    """At most ``MOST_IMAGES`` random images, of as many patients as possible, in the order in which they were given."""
    taken: dict[str, int] = {}
    ranked = []
    for number in np.random.default_rng(SEED).permutation(len(images)).tolist():
        patient = images[number].patient
        ranked.append((taken.get(patient, 0), len(ranked), number))
        taken[patient] = taken.get(patient, 0) + 1
    return [images[number] for number in sorted(number for *_, number in sorted(ranked)[:MOST_IMAGES])]


def compare_on_tissue(
    images: Sequence[NucleusImage],
    networks: Sequence[ProbedNetwork],
    *,
    mpps: tuple[float, float],
    settings: ProbeSettings,
    device: torch.device,
    output: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compare both networks on the same nuclei of the same images.

    Args:
        images: images with at least two nuclei each.
        networks: the network before and the one after.
        mpps: the finer and the coarser um per pixel.
        settings: side of a window, and draws of the bootstrap.
        device: device of the networks.
        output: folder for the picture.
        say: callback with lines on progress.
    """
    chosen = choose_images(images)
    window_px, repeats = settings.window_px, settings.repeats
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
    values = read_settings(path)
    own, other = ({one.name for one in dataclasses.fields(kind)} for kind in (TissueConfig, MuseConfig))
    if isinstance(values, dict):  # other types are rejected below
        values = {name: value for name, value in values.items() if name in own or name not in other}
    config = parse_config(values, TissueConfig, str(path))
    root = (data or Path(path).parent).resolve()
    return locate(config, root, lambda weights: root / weights)


def is_tissue_config(path: Path) -> bool:
    """True if a config names no classes, like those of pretraining.

    Raises:
        ConfigError: the config cannot be read.
    """
    settings = read_settings(path)
    return not (isinstance(settings, dict) and "classes" in settings)


@dataclass(frozen=True)
class Variation:
    """Scale, orientation and stain in which nuclei are read.

    Attributes:
        mpp: um per pixel.
        mirror: whether left and right are swapped.
        turns: quarter turns.
        stain: factors of haematoxylin and eosin, as if another laboratory had stained.
    """

    mpp: float
    mirror: bool = False
    turns: int = 0
    stain: tuple[float, float] = (1.0, 1.0)


def choose_nuclei(index: NucleusIndex, field_px: float, most: int, generator: np.random.Generator) -> np.ndarray:
    """(n, 2) px of up to ``most`` nuclei, field by field: fields with nuclei are drawn until they hold enough.

    Args:
        index: index of an image.
        field_px: side of a field.
        most: largest number of nuclei.
        generator: generator of the random draw.
    """
    if len(index.xy) <= most:
        return np.asarray(index.xy, float)
    fields: dict[tuple[float, ...], np.ndarray] = {}
    for _ in range(most):
        corner = tuple(np.floor(index.draw(generator) / field_px) * field_px)
        if corner not in fields:
            fields[corner] = index.inside(*corner, corner[0] + field_px, corner[1] + field_px)[1]
        if sum(map(len, fields.values())) >= most:
            break
    return np.concatenate(list(fields.values()))[:most]


@torch.no_grad()
def nucleus_features(
    backbone: Backbone,
    image: NucleusImage,
    xy: np.ndarray,
    variation: Variation,
    colour: np.ndarray,
    window_px: int,
    device: torch.device,
) -> Tensor:
    """Features of nuclei, (n, D) float32 on the CPU.

    Every nucleus is read from a window whose central half it lies in, as far as the image reaches.

    Args:
        backbone: the network, on ``device``.
        image: image of the nuclei.
        xy: (n, 2) image px.
        variation: scale, orientation and stain of the views.
        colour: (3, 4) map in optical density of the image.
        window_px: side of a window.
        device: device of the backbone.
    """
    backbone.eval()
    mapped = torch.from_numpy((colour @ _homogeneous(stain_change(variation.stain))).astype(np.float32))
    views, member = _views(image, xy, variation, window_px)
    features = None
    for first in range(0, len(views), BATCH):
        numbers = [np.flatnonzero(member == index) for index in range(first, min(first + BATCH, len(views)))]
        some = views[first : first + BATCH]
        batch = _batch(image, some, [xy[of] for of in numbers], mapped, device)
        read = batch.features(backbone).float().cpu()
        features = read.new_zeros((len(xy), read.shape[1])) if features is None else features
        features[np.concatenate(numbers)] = read
    return features


def stain_change(factors: Sequence[float]) -> np.ndarray:
    """(3, 3) map in optical density that makes haematoxylin and eosin stronger by these factors."""
    stains = np.array(ROUNDED_TEXTBOOK)
    basis = np.stack([*stains, np.cross(*stains)], 1)
    return basis @ np.diag([*factors, 1.0]) @ np.linalg.inv(basis)


def _homogeneous(linear: np.ndarray) -> np.ndarray:
    """(4, 4) form of a linear map, which can stand before a (3, 4) map."""
    return np.block([[linear, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])


def _views(image: NucleusImage, xy: np.ndarray, variation: Variation, window_px: int) -> tuple[list[View], np.ndarray]:
    """The windows, and (n,) index of the window that shows each nucleus."""
    side = max(2, round(window_px * variation.mpp / image.mpp))
    corners = np.floor(xy / (side / 2)) * (side / 2) - side / 4
    corners = np.floor(corners.clip(0, np.maximum(np.array(image.size_px) - side, 0))).astype(int)
    unique, member = np.unique(corners, axis=0, return_inverse=True)
    views = [View((x, y), side, window_px, variation.mirror, variation.turns, image.mpp) for x, y in unique.tolist()]
    return views, member.ravel()


def _batch(
    image: NucleusImage, views: Sequence[View], xy: Sequence[np.ndarray], colour: Tensor, device: torch.device
) -> PointBatch:
    most = max(map(len, xy))
    placed, there = np.zeros((len(views), most, 2), np.float32), np.full((len(views), most), -1)
    for row, (view, of) in enumerate(zip(views, xy, strict=True)):
        placed[row, : len(of)], there[row, : len(of)] = view.view_xy(of), 0
    pixels = torch.from_numpy(np.stack([view.cut(image) for view in views])).to(device)
    return PointBatch(
        pixels.permute(0, 3, 1, 2).float(),
        colour.to(device).expand(len(views), 3, 4),
        torch.from_numpy(placed).to(device),
        torch.from_numpy(there).to(device),
    )
