"""The PSM run, which trains a detector on unlabelled tissue, and its stages that make masks and labels.

The labels are instances and points in files that ``muse finetune`` can read.

The method is from "Exploring Unsupervised Cell Recognition with Prior Self-activation Maps", arXiv 2308.11144;
``docs/guide/label-free.md`` lists the differences from the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.pictures import read_grey, read_rgb, write_png
from muse_pipeline.data.unlabelled import PATIENT_OF_CROP, cut_crops, open_unlabelled
from muse_pipeline.inference.card import ColourReference, NucleusClass
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.outlines import MODEL as REFINER
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.methods.detector.start import load_trained
from muse_pipeline.methods.detector.validation import NetworkPredictor
from muse_pipeline.methods.psm.activation import ActivationConfig, ActivationStage, load_activation
from muse_pipeline.methods.psm.config import PsmConfig
from muse_pipeline.nuclei.masks import IMAGES, INSTANCES, POINTS, drop_small_labels, rings_to_labels, write_instances
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.activation_map import ActivationNetwork, PseudoMasker
from muse_pipeline.proposals.otsu_mask import OtsuMask, blend_stains, cut_mask, fit_otsu, haematoxylin
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.recipe import RECIPES, Recipe
from muse_pipeline.training.run import Inputs, Log, plain_settings
from muse_pipeline.training.stages import MADE_FROM, PreparedStage, Stage, stage_folder

PICTURES, MASKS = "pictures", "masks"
COLOUR = (128, 64, 192)


class MasksStage(PreparedStage):
    """Writes crops of tissue, and their masks (0 background, 255 nucleus) under the same names.

    Crops whose masks are empty or cover too much are left out. The threshold or the clusters of the masks are fitted to
    each picture or store, because stains differ between slides.

    Args:
        config: settings of the run.
        activation: checkpoint of the activation stage; None if there is none.
        folder: folder of the stage.
    """

    def __init__(self, config: PsmConfig, activation: Path | None, folder: Path):
        super().__init__(folder, "masks")
        self.config, self.activation = config, activation

    def made_from(self) -> dict[str, Any]:
        """Settings of the masks, the tissue, and the activation network."""
        settings = plain_settings(self.config, portable=True)
        names = ("mpp", "masks", "mask_settings", "windows_per_store", "store_window_px")
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
            crops = cut_crops(image, number, config.store_window_px, config.windows_per_store)
            if not crops:
                continue
            masker = self._fit([*crops.values()])
            for name, pixels in crops.items():
                mask = masker(pixels)
                share = mask.mean()
                if not 0 < share <= config.mask_settings.max_share:
                    rejected.append(f"{name} (nuclei on {share:.0%})")
                    continue
                write_png(folder / PICTURES / f"{name}.png", pixels)
                write_png(folder / MASKS / f"{name}.png", mask.astype(np.uint8) * 255)
                n_kept += 1
        if rejected:
            which = f"first {rejected[0]}"
            log(f"{len(rejected)} crops are left out, because their masks cover nothing or too much: {which}")
        if not n_kept:
            raise ConfigError(
                f"none of {len(rejected)} crops of tissue has a usable mask: each covers nothing or too much; name H&E "
                "tissue with nuclei in `sources`, or correct their `mpp`"
            )
        log(f"masks ({config.masks}) of {n_kept} crops of tissue")

    def _fit(self, sample: Sequence[np.ndarray]) -> PseudoMasker | OtsuMask:
        fit = fit_macenko(np.concatenate([pixels.reshape(-1, 3) for pixels in sample]))
        stains, mpp = fit and fit.stains, self.config.mpp
        if self._network is None:
            return fit_otsu(sample, mpp, stains)
        return PseudoMasker(self._network, sample, mpp, stains, self.config.mask_settings)

    @cached_property
    def _network(self) -> ActivationNetwork | None:
        return self.activation and load_activation(self.activation)


def read_pictures_and_masks(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each crop of a masks stage, sorted by name: name, pixels (h, w, 3) uint8, mask (h, w) bool."""
    for path in sorted((folder / PICTURES).glob("*.png")):
        pixels = read_rgb(path, f"delete {folder} to make it again")
        mask = read_grey(folder / MASKS / path.name)
        if mask is None or pixels.shape[:2] != mask.shape:
            raise LabelError(f"{path}: its mask is damaged or missing; delete {folder} to make all of them again")
        yield path.stem, pixels, mask > 127


CLASS = "Nucleus"
BLUR_UM = 0.25  # sigma of the blur of haematoxylin before masks are cut; half of ``BLUR_UM`` in ``proposals.otsu_mask``
MOST = 65535  # largest number of instances in a 16-bit picture


def label_source(folder: Path, mpp: float) -> PictureSource:
    """A label source for the files that ``write_found`` wrote to ``folder``."""
    return PictureSource(
        folder / INSTANCES, "instances", images=folder / IMAGES, mpp=mpp, points=folder / POINTS, allow_empty=True
    )


def write_found(folder: Path, name: str, pixels: np.ndarray, instances: np.ndarray) -> int:
    """Write a picture (h, w, 3) and its instances (h, w), 1..N, if it has any, and return the number of instances."""
    n_instances = int(instances.max(initial=0))
    if n_instances > MOST:
        raise LabelError(f"{name}: {n_instances:,} nuclei exceed the {MOST:,} that a picture may contain; divide it")
    if not n_instances:
        return 0
    write_instances(folder, name, pixels, instances, [CLASS] * n_instances)
    return n_instances


def split_instances(mask: np.ndarray, pixels: np.ndarray, config: PsmConfig) -> np.ndarray:
    """Divide the mask (h, w) of a picture (h, w, 3) into instances: (h, w) int32, 1..N, 0 background."""
    fit = fit_macenko(pixels.reshape(-1, 3))
    density = haematoxylin(pixels, blend_stains(fit and fit.stains))
    instances = cut_mask(mask, cv2.GaussianBlur(density, (0, 0), BLUR_UM / config.mpp), config.mpp)
    return drop_small_labels(instances, config.labels.min_area_um2 / config.mpp**2)


FRAGMENT_UM2 = 2.0  # minimum area of an instance; smaller ones are remainders of nuclei overlapped by others
SURROUND_UM = 32.0  # width by which a picture is mirrored beyond its border, so that nuclei at the border are found


def find_all(predictor: NetworkPredictor, reference: ColourReference, pixels: np.ndarray) -> Nuclei:
    """Find nuclei in and just beyond a picture (h, w, 3) at the detector's mpp, sorted by ascending score.

    The picture's stains are normalised to ``reference``.
    """
    margin = round(SURROUND_UM / predictor.card.mpp)
    colour = colour_of_fit(reference, fit_macenko(pixels.reshape(-1, 3)))
    found = detect_image(predictor, np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "symmetric"), colour)
    # ``rings_to_labels`` paints later rings over earlier ones, so the nucleus with the higher score is kept whole.
    found = found[np.argsort(found.score, kind="stable")]
    return replace(found, xy=found.xy - margin)


class LabelsStage(PreparedStage):
    """Writes pictures, instances (16-bit PNG, 0 background), and points (x, y, class) at the centroids of instances.

    Args:
        config: settings of the run.
        masks: folder of the masks stage.
        folder: folder of the stage.
    """

    def __init__(self, config: PsmConfig, masks: Path, folder: Path):
        super().__init__(folder, "labels")
        self.config, self.masks = config, masks

    def made_from(self) -> dict[str, Any]:
        """Settings of the labels, and the masks."""
        return {"labels": plain_settings(self.config.labels), "masks": sha256_of(self.masks / MADE_FROM)}

    def write(self, folder: Path, log: Log) -> None:
        """Write the instances of every mask."""
        n_nuclei = n_pictures = 0
        for name, pixels, mask in read_pictures_and_masks(self.masks):
            n_here = write_found(folder, name, pixels, split_instances(mask, pixels, self.config))
            n_nuclei, n_pictures = n_nuclei + n_here, n_pictures + bool(n_here)
        log(f"labels: {n_nuclei:,} instances in {n_pictures} pictures")


class FoundLabelsStage(PreparedStage):
    """Writes the pictures of ``labels`` with the nuclei that a detector finds, outlined as in the exported model.

    Args:
        config: settings of the detector's training; ``export.threshold`` is the minimum score of a label.
        detector: checkpoint of the detector.
        labels: folder with the pictures.
        folder: folder of the stage.
        name: name of the stage in messages.
    """

    def __init__(self, config: DetectorConfig, detector: Path, labels: Path, folder: Path, name: str):
        super().__init__(folder, name)
        self.config, self.detector, self.labels = config, detector, labels

    def made_from(self) -> dict[str, Any]:
        """Settings of the export that affect detections and outlines, and the detector."""
        export, weights = self.config.export, load_checkpoint(self.detector).weights_sha256()
        how = {name: getattr(export, name) for name in ("threshold", "colour_share", "snap_um")}
        refined = {"refiner": sha256_of(REFINER)} if export.refine else {}
        return {**how, **refined, "detector": weights}

    def write(self, folder: Path, log: Log) -> None:
        """Write the nuclei that the detector finds in every picture."""
        config = self.config
        network, _, checkpoint = load_trained(self.detector)
        predictor = NetworkPredictor(network, config)
        reference = parse_config(checkpoint.meta["colour"], ColourReference, str(self.detector))
        reference = replace(reference, share=config.export.colour_share)
        n_nuclei = n_pictures = 0
        for path in sorted((self.labels / IMAGES).glob("*.png")):
            pixels = read_rgb(path, f"delete {self.labels} to make it again")
            found = find_all(predictor, reference, pixels)
            rings = rays_to_rings(found.xy, found.rays, (config.mpp, config.mpp))
            instances = drop_small_labels(rings_to_labels(rings, pixels.shape[:2]), FRAGMENT_UM2 / config.mpp**2)
            n_here = write_found(folder, path.stem, pixels, instances)
            n_nuclei, n_pictures = n_nuclei + n_here, n_pictures + bool(n_here)
        if not n_nuclei:
            raise ConfigError(
                f"self_training: the detector in {self.detector.parent} found no nucleus with a score of "
                f"{config.export.threshold:g} or more; train it longer, lower `threshold`, or set `rounds: 0`"
            )
        log(f"found: {n_nuclei:,} instances in {n_pictures} pictures")


@RECIPES.register("psm")
class PsmRecipe(Recipe):
    """Makes masks and labels, trains a detector on them, then further ones, each on the previous one's detections."""

    Config = PsmConfig
    ends_in_model = True

    def stages(self, config: PsmConfig, folder: Path) -> Sequence[Stage]:
        """Return the stages for these settings."""
        stages: list[Stage] = []

        def add(name: str, make: Callable[[Path], Stage]) -> Path:
            stages.append(make(stage_folder(folder, len(stages) + 1, name)))
            return stages[-1].result

        activation = None
        if config.masks == "activation":
            settings = activation_config(config)
            activation = add("activation", lambda where: ActivationStage(settings, where, "activation"))
        masks = add("masks", lambda where: MasksStage(config, activation, where))
        labels = add("labels", lambda where: LabelsStage(config, masks, where))
        detector = add("detector", lambda where: DetectorStage(detector_config(config, labels), where, "detector"))
        for number in range(1, config.self_training.rounds + 1):
            finder = detector_config(config, labels)
            finder = replace(finder, export=replace(finder.export, threshold=config.self_training.threshold))
            name, found = f"found-labels-{number}", (finder, detector, labels)
            labels = add(name, lambda where, n=name, f=found: FoundLabelsStage(*f, where, n))
            name, settings = f"self-training-{number}", detector_config(config, labels)
            detector = add(name, lambda where, n=name, s=settings: DetectorStage(s, where, n))
        return stages


def activation_config(config: PsmConfig) -> ActivationConfig:
    """The settings of the activation stage."""
    return ActivationConfig(**vars(config.activation), sources=config.sources, mpp=config.mpp, seed=config.seed)


def detector_config(config: PsmConfig, labels: Path) -> DetectorConfig:
    """The settings of a detector with one class, trained on the folder ``labels``."""
    return DetectorConfig(
        **vars(config.detector),
        **config.of_model(),
        mpp=config.mpp,
        classes=(NucleusClass(CLASS, COLOUR),),
        sources=(replace(label_source(labels, config.mpp), patient=PATIENT_OF_CROP),),
        seed=config.seed,
    )
