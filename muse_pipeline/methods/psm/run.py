"""The PSM run, which trains a detector on unlabelled tissue, and its stages that make masks and
labels.

The labels are instances and points in files that ``muse finetune`` can read.

The method is from "Exploring Unsupervised Cell Recognition with Prior Self-activation Maps", arXiv
2308.11144; ``docs/guide/label-free.md`` lists the differences from the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.pictures import read_grey, read_rgb, write_png
from muse_pipeline.data.unlabelled import (
    PATIENT_OF_CROP,
    Image,
    UnlabelledSource,
    UnlabelledWindows,
    cut_crops,
    open_unlabelled,
)
from muse_pipeline.inference.card import ColourReference, NucleusClass
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.outlines import MODEL as REFINER
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.detector.config import DetectorConfig, require_window
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.methods.detector.start import load_trained
from muse_pipeline.methods.detector.validation import Scorer
from muse_pipeline.methods.psm.activation_map import MAX_SHARE, ActivationNetwork, PseudoMasker
from muse_pipeline.methods.psm.config import ActivationSettings, PsmConfig
from muse_pipeline.nuclei.masks import (
    IMAGES,
    INSTANCES,
    POINTS,
    drop_small_labels,
    rings_to_labels,
    write_instances,
)
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.otsu_mask import (
    OtsuMask,
    blend_stains,
    cut_mask,
    fit_otsu,
    haematoxylin,
)
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.method import Losses, Method
from muse_pipeline.training.recipe import (
    MADE_FROM,
    RECIPES,
    ModelSettings,
    PreparedStage,
    Recipe,
    Stage,
    StageList,
    TrainingStage,
)
from muse_pipeline.training.run import Inputs, Log, describe_backbone, plain_settings


class PriorSelfActivation(Method):
    """Trains a network to give the same output for a window and for the window turned by 180
    degrees.

    The loss is the mean of ``|f(x) - f(rot180 x)|`` (arXiv 2210.07862); nothing prevents the
    trivial solution of a constant f.
    """

    def __init__(self, network: ActivationNetwork):
        super().__init__()
        self.network = network

    def losses(self, batch: Tensor, turn: str, progress: float) -> Losses:
        """Compute the loss on windows (B, 3, S, S); both orientations share one pass and its batch
        statistics.
        """
        output, turned = self.network(torch.cat((batch, batch.flip(2, 3)))).chunk(2)
        return {"loss": (output - turned).abs().mean()}

    def trained(self) -> nn.Module:
        """The network."""
        return self.network


@dataclass(frozen=True, kw_only=True)
class ActivationConfig(ActivationSettings):
    """Settings of the activation stage, in addition to those of ``ActivationSettings``."""

    sources: tuple[UnlabelledSource, ...]  # unlabelled tissue
    mpp: float = 0.5  # um per pixel of the network's input
    seed: int = 0  # seed of weights and windows
    precision: str = "32-true"  # "32-true" or "bf16-mixed"


class ActivationStage(TrainingStage[ActivationConfig, list[Image]]):
    """Trains the activation network; ``load_activation`` reads its checkpoint."""

    def check(self) -> None:
        """Reject windows that the network does not accept."""
        with torch.device("meta"):
            network = ActivationNetwork(self.config.backbone)
        require_window(self.config.window_px, network.backbone, self.config.backbone)

    def read(self, log: Log) -> list[Image]:
        """Open the tissue."""
        return open_unlabelled(self.config.sources, self.config.mpp)

    def build(self, data: list[Image]) -> PriorSelfActivation:
        """Build a network with random weights."""
        return PriorSelfActivation(ActivationNetwork(self.config.backbone))

    def batches(self, data: list[Image], device: torch.device) -> UnlabelledWindows:
        """Batches of windows without augmentation."""
        return UnlabelledWindows(
            data, self.config.window_px, self.config.batch, self.config.seed, device
        )

    def describe(self, data: list[Image], log: Log) -> None:
        """Print a summary of the training data."""
        log(f"{self.config.backbone} on {len(data)} images without labels")

    def checkpoint(self, data: list[Image], method: PriorSelfActivation) -> Checkpoint:
        """Checkpoint of the network."""
        config, network = self.config, method.trained()
        described = describe_backbone(config, config.window_px, config.mpp, None)
        meta = {"kind": "activation", **described}
        return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)


def load_activation(path: Path) -> ActivationNetwork:
    """Read the network that an ``ActivationStage`` trained, in evaluation mode."""
    checkpoint = load_checkpoint(path)
    network = ActivationNetwork(checkpoint.meta["backbone"])
    network.backbone.load_state_dict(checkpoint.backbone)
    network.head.load_state_dict(checkpoint.head)
    return network.eval()


PICTURES, MASKS = "pictures", "masks"
STORE_WINDOW_PX = 512
COLOUR = (128, 64, 192)


@dataclass
class PseudoMaskStage(PreparedStage):
    """Writes crops of tissue, and their masks (0 background, 255 nucleus) under the same names.

    Crops whose masks are empty or cover too much are left out. The threshold or the clusters of the
    masks are fitted to each picture or store, because stains differ between slides. ``activation``
    is the checkpoint of the activation stage, None if there is none.
    """

    config: PsmConfig
    activation: Path | None
    folder: Path
    name: str = "masks"

    def made_from(self) -> dict[str, Any]:
        """Settings of the masks, the tissue, and the activation network."""
        settings = plain_settings(self.config, portable=True)
        names = ("mpp", "masks", "clusters", "windows_per_store")
        return {
            **{name: settings[name] for name in names},
            "tissue": Inputs(self.config.sources).describe(),
            "activation": self.activation and sha256_of(self.activation),
        }

    def write(self, folder: Path, log: Log) -> None:
        """Write crops and masks."""
        config = self.config
        for name in (PICTURES, MASKS):
            (folder / name).mkdir()
        n_kept, rejected = 0, []
        for number, image in enumerate(open_unlabelled(config.sources, config.mpp)):
            crops = cut_crops(image, number, STORE_WINDOW_PX, config.windows_per_store)
            if not crops:
                continue
            masker = self._fit([*crops.values()])
            for name, pixels in crops.items():
                mask = masker(pixels)
                share = mask.mean()
                if not 0 < share <= MAX_SHARE:
                    rejected.append(f"{name} (nuclei on {share:.0%})")
                    continue
                write_png(folder / PICTURES / f"{name}.png", pixels)
                write_png(folder / MASKS / f"{name}.png", mask.astype(np.uint8) * 255)
                n_kept += 1
        if rejected:
            log(
                f"{len(rejected)} crops are left out, because their masks cover nothing or too"
                f" much: first {rejected[0]}"
            )
        if not n_kept:
            raise ConfigError(
                f"none of {len(rejected)} crops of tissue has a usable mask: each covers nothing or"
                " too much; name H&E tissue with nuclei in `sources`, or correct their `mpp`"
            )
        log(f"masks ({config.masks}) of {n_kept} crops of tissue")

    def _fit(self, sample: Sequence[ndarray]) -> PseudoMasker | OtsuMask:
        fit = fit_macenko(np.concatenate([pixels.reshape(-1, 3) for pixels in sample]))
        stains, mpp = fit and fit.stains, self.config.mpp
        if self._network is None:
            return fit_otsu(sample, mpp, stains)
        return PseudoMasker(self._network, sample, mpp, stains, self.config.clusters)

    @cached_property
    def _network(self) -> ActivationNetwork | None:
        return self.activation and load_activation(self.activation)


def read_pictures_and_masks(folder: Path) -> Iterator[tuple[str, ndarray, ndarray]]:
    """Yield each crop of a masks stage, sorted by name: name, pixels (h, w, 3) uint8, mask (h, w)
    bool.
    """
    for path in sorted((folder / PICTURES).glob("*.png")):
        pixels = read_rgb(path, f"delete {folder} to make it again")
        yield path.stem, pixels, read_grey(folder / MASKS / path.name) > 127


CLASS = "Nucleus"
# sigma of the blur of haematoxylin before masks are cut; half of ``BLUR_UM`` in
# ``proposals.otsu_mask``
BLUR_UM = 0.25
MIN_AREA_UM2 = 12.0  # smaller instances are dropped
MOST = 65535  # largest number of instances in a 16-bit picture


def write_labels(folder: Path, name: str, pixels: ndarray, instances: ndarray) -> int:
    """Write a picture (h, w, 3) and its instances (h, w), 1..N, if it has any, and return the
    number of instances.
    """
    n_instances = int(instances.max(initial=0))
    if n_instances > MOST:
        raise LabelError(
            f"{name}: {n_instances:,} nuclei exceed the {MOST:,} that a picture may contain;"
            " divide it"
        )
    if not n_instances:
        return 0
    write_instances(folder, name, pixels, instances, [CLASS] * n_instances)
    return n_instances


def write_all_labels(
    folder: Path, pictures: Iterable[tuple[str, ndarray, ndarray]]
) -> tuple[int, int]:
    """Write pictures as in ``write_labels``, and return the numbers of instances and of pictures
    with instances.
    """
    counts = [write_labels(folder, *picture) for picture in pictures]
    return sum(counts), sum(map(bool, counts))


def split_instances(mask: ndarray, pixels: ndarray, config: PsmConfig) -> ndarray:
    """Divide the mask (h, w) of a picture (h, w, 3) into instances: (h, w) int32, 1..N, 0
    background.
    """
    fit = fit_macenko(pixels.reshape(-1, 3))
    density = haematoxylin(pixels, blend_stains(fit and fit.stains))
    instances = cut_mask(mask, cv2.GaussianBlur(density, (0, 0), BLUR_UM / config.mpp), config.mpp)
    return drop_small_labels(instances, MIN_AREA_UM2 / config.mpp**2)


# minimum area of an instance; smaller ones are remainders of nuclei overlapped by others
FRAGMENT_UM2 = 2.0
# width by which a picture is mirrored beyond its border, so that nuclei at the border are found
SURROUND_UM = 32.0


def find_all(scorer: Scorer, pixels: ndarray) -> Nuclei:
    """Find nuclei in and just beyond a picture (h, w, 3) at the detector's mpp, sorted by ascending
    score.
    """
    margin = round(SURROUND_UM / scorer.predictor.card.mpp)
    colour = colour_of_fit(scorer.reference, fit_macenko(pixels.reshape(-1, 3)))
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    nuclei = detect_image(scorer.predictor, padded, colour)
    # ``rings_to_labels`` paints later rings over earlier ones, so the nucleus with the higher score
    # is kept whole.
    nuclei = nuclei[np.argsort(nuclei.score, kind="stable")]
    return replace(nuclei, xy=nuclei.xy - margin)


@dataclass
class LabelsStage(PreparedStage):
    """Writes pictures, instances (16-bit PNG, 0 background), and points (x, y, class) at the
    centroids of instances.
    """

    config: PsmConfig
    masks: Path
    folder: Path
    name: str = "labels"

    def made_from(self) -> dict[str, Any]:
        """The masks."""
        return {"masks": sha256_of(self.masks / MADE_FROM)}

    def write(self, folder: Path, log: Log) -> None:
        """Write the instances of every mask."""
        n_nuclei, n_pictures = write_all_labels(
            folder,
            (
                (name, pixels, split_instances(mask, pixels, self.config))
                for name, pixels, mask in read_pictures_and_masks(self.masks)
            ),
        )
        log(f"labels: {n_nuclei:,} instances in {n_pictures} pictures")


@dataclass
class FoundLabelsStage(PreparedStage):
    """Writes the pictures of ``labels`` with the nuclei that a detector finds, outlined as in the
    exported model.

    ``export.threshold`` of the config is the minimum score of a label.
    """

    config: DetectorConfig
    detector: Path
    labels: Path
    folder: Path
    name: str

    def made_from(self) -> dict[str, Any]:
        """Settings of the export that affect detections and outlines, and the detector."""
        export = self.config.export
        weights = load_checkpoint(self.detector).weights_sha256()
        settings = {
            name: getattr(export, name) for name in ("threshold", "colour_share", "snap_um")
        }
        refined = {"refiner": sha256_of(REFINER)} if export.refine else {}
        return {**settings, **refined, "detector": weights}

    def write(self, folder: Path, log: Log) -> None:
        """Write the nuclei that the detector finds in every picture."""
        config = self.config
        network, _, checkpoint = load_trained(self.detector)
        reference = parse_config(checkpoint.meta["colour"], ColourReference, str(self.detector))
        scorer = Scorer(network, config, reference)
        n_nuclei, n_pictures = write_all_labels(folder, self._find(scorer))
        if not n_nuclei:
            raise ConfigError(
                f"self_training: the detector in {self.detector.parent} found no nucleus with a"
                f" score of {config.export.threshold:g} or more; train it longer, lower"
                " `threshold`, or set `rounds: 0`"
            )
        log(f"found: {n_nuclei:,} instances in {n_pictures} pictures")

    def _find(self, scorer: Scorer) -> Iterator[tuple[str, ndarray, ndarray]]:
        """Yield name, pixels and found instances (h, w) of every picture."""
        mpp = self.config.mpp
        for path in sorted((self.labels / IMAGES).glob("*.png")):
            pixels = read_rgb(path, f"delete {self.labels} to make it again")
            nuclei = find_all(scorer, pixels)
            rings = rays_to_rings(nuclei.xy, nuclei.rays, (mpp, mpp))
            instances = rings_to_labels(rings, pixels.shape[:2])
            yield path.stem, pixels, drop_small_labels(instances, FRAGMENT_UM2 / mpp**2)


@RECIPES.register("psm")
class PsmRecipe(Recipe):
    """Makes masks and labels, trains a detector on them, then further ones, each on the previous
    one's detections.
    """

    Config = PsmConfig
    ends_in_model = True

    def stages(self, config: PsmConfig, folder: Path) -> Sequence[Stage]:
        """Return the stages for these settings."""
        stages, activation = StageList(folder), None
        if config.masks == "activation":
            shared = {"sources": config.sources, "mpp": config.mpp, "seed": config.seed}
            settings = ActivationConfig(**vars(config.activation), **shared)
            activation = stages.add(ActivationStage, "activation", settings)
        masks = stages.add(PseudoMaskStage, "masks", config, activation)
        labels = stages.add(LabelsStage, "labels", config, masks)
        detector = stages.add(DetectorStage, "detector", configure_detector(config, labels))
        for number in range(1, config.self_training.rounds + 1):
            finder = configure_detector(config, labels)
            finder = replace(
                finder, export=replace(finder.export, threshold=config.self_training.threshold)
            )
            name = f"found-labels-{number}"
            labels = stages.add(FoundLabelsStage, name, finder, detector, labels)
            settings = configure_detector(config, labels)
            detector = stages.add(DetectorStage, f"self-training-{number}", settings)
        return stages


def configure_detector(config: PsmConfig, labels: Path) -> DetectorConfig:
    """The settings of a detector with one class, trained on the folder ``labels``."""
    return DetectorConfig(
        **vars(config.detector),
        **config.select(ModelSettings),
        mpp=config.mpp,
        classes=(NucleusClass(CLASS, COLOUR),),
        sources=(
            PictureSource(
                labels / INSTANCES,
                "instances",
                images=labels / IMAGES,
                points=labels / POINTS,
                mpp=config.mpp,
                allow_empty=True,
                patient=PATIENT_OF_CROP,
            ),
        ),
        seed=config.seed,
    )
