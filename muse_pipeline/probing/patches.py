"""kNN and linear accuracy of a frozen backbone on whole patches, with all labels and with few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.core.text import some_of
from muse_pipeline.evaluation.bootstrap import REPEATS
from muse_pipeline.evaluation.detection import score_classes
from muse_pipeline.evaluation.summary_text import format_interval, format_number, render_table
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.labels.tissue import LabelledPath, TissueSource, list_labelled, read_label_table
from muse_pipeline.methods.detector.config import require_window
from muse_pipeline.probing.network import SEED, ProbedNetwork
from muse_pipeline.probing.protocols import train_linear_probe
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.knn import classify_by_neighbours
from muse_pipeline.training.run import Options

K, BATCH, N_DRAWS = 20, 32, 5


@dataclass(frozen=True)
class PatchFolder:
    """Labelled patches.

    Attributes:
        folder: folder with a folder of pictures per class, or with all pictures.
        table: TSV or CSV with the columns ``image`` and ``label``, optionally ``patient``; None for folders by class.
        patient: rule that gives the patient of a file's name, as in ``labels.sources.LabelSource``.
    """

    folder: Path
    table: Path | None = None
    patient: str | int | None = None

    def words(self) -> set[str]:
        """The names of the classes.

        Raises:
            LabelError: there is no such folder or table.
        """
        if self.table is not None:
            return {word for word, _ in read_label_table(self.table, "image").values()}
        if not self.folder.is_dir():
            raise LabelError(f"{self.folder}: no such folder of patches; give a folder with a folder for each class")
        return {path.name for path in self.folder.iterdir() if path.is_dir()}

    def list(self, classes: tuple[str, ...]) -> list[LabelledPath]:
        """The patches, by name.

        Raises:
            LabelError: a label contradicts another, or belongs to no picture.
        """
        folders = {"folders": self.folder} if self.table is None else {"images": self.folder, "table": self.table}
        return list_labelled(TissueSource(**folders, mpp=1.0, patient=self.patient), classes)


@dataclass(frozen=True)
class PatchProbe:
    """Patches and settings of a probe.

    Attributes:
        train: patches that are learnt from.
        test: patches that are reported.
        few: numbers of labelled patches per class to learn from as well, each drawn ``N_DRAWS`` times.
        window_px: side that patches are resized to.
        shared_patients: whether patients may be on both sides.
        repeats: draws of the bootstrap.
    """

    train: PatchFolder
    test: PatchFolder
    few: tuple[int, ...] = ()
    window_px: int = 224
    shared_patients: bool = False
    repeats: int = REPEATS


def probe_patches(network: ProbedNetwork, settings: PatchProbe, options: Options) -> dict[str, Any]:
    """Learn classes from the features of some patches, and report them on others.

    Raises:
        ConfigError: the window does not suit the backbone, or a class has fewer patches than ``few``.
        LabelError: labels cannot be read, or patients are on both sides.
    """
    torch.set_num_threads(options.threads)
    require_window(settings.window_px, network.backbone, network.name)
    classes = tuple(sorted(settings.train.words()))
    train, test = (one.list(classes) for one in (settings.train, settings.test))
    notes = _check_patients(network, train, test, settings)
    label, truth = (np.array([one.label for one in some]) for some in (train, test))
    _require_enough(label, classes, settings.few)
    device = open_fabric(options.accelerator, 1, "32-true").device
    options.say(f"features of {len(train):,} patches to learn from and {len(test):,} to report on")
    bank, query = (patch_features(network, some, settings.window_px, device) for some in (train, test))
    groups = [one.patient or one.name for one in test]
    protocols = {}
    for n in (*settings.few, None):
        draws = [np.arange(len(train))] if n is None else [_draw(label, n, seed) for seed in range(N_DRAWS)]
        for name, predicted in _predict(bank, label, query, len(classes), draws).items():
            named = name if n is None else f"{name}, {n} labels per class"
            repeated = np.tile(truth, len(draws)), np.concatenate(predicted), groups * len(draws)
            protocols[named] = score_classes(*repeated, classes, settings.repeats)
    return {
        "backbone": network.name,
        "weights": network.weights,
        "window_px": settings.window_px,
        "colour": network.reference.method,
        "classes": list(classes),
        "k": K,
        "seed": SEED,
        "n_train": len(train),
        "n_test": len(test),
        "n_test_patients": len(set(groups)),
        "protocols": protocols,
        "notes": notes,
    }


@torch.no_grad()
def patch_features(
    network: ProbedNetwork, patches: Sequence[LabelledPath], window_px: int, device: torch.device
) -> Tensor:
    """(N, D) float32 image vectors on the CPU; the stain of each patch is fitted on itself."""
    backbone = network.backbone.to(device).eval()
    found = []
    for pixels, colour in _batches(network, patches, window_px):
        found.append(backbone(backbone.prepare(pixels.to(device), colour.to(device))).image.float().cpu())
    return torch.cat(found)


def _batches(
    network: ProbedNetwork, patches: Sequence[LabelledPath], window_px: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (B, 3, S, S) and colour maps (B, 3, 4)."""
    for start in range(0, len(patches), BATCH):
        pictures = [read_rgb(one.path) for one in patches[start : start + BATCH]]
        colours = [colour_of_fit(network.reference, fit_macenko(one.reshape(-1, 3))) for one in pictures]
        pixels = np.stack([_resize(one, window_px) for one in pictures])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), torch.from_numpy(np.float32(colours))


def _resize(pixels: np.ndarray, side_px: int) -> np.ndarray:
    if pixels.shape[:2] == (side_px, side_px):
        return pixels
    how = cv2.INTER_AREA if min(pixels.shape[:2]) > side_px else cv2.INTER_CUBIC
    return cv2.resize(pixels, (side_px, side_px), interpolation=how)


def _check_patients(
    network: ProbedNetwork, train: Sequence[LabelledPath], test: Sequence[LabelledPath], settings: PatchProbe
) -> list[str]:
    """Notes on patients that are on both sides, or that the network was trained on.

    Raises:
        LabelError: there are such patients, and they may not be shared.
    """
    patients = [{one.patient for one in some} - {""} for some in (train, test)]
    notes = []
    for what, others in (("learnt from", patients[0]), (f"that {network.weights} was trained on", network.patients)):
        shared = sorted(patients[1] & others)
        if shared and not settings.shared_patients:
            raise LabelError(
                f"{some_of(shared)}: reported, and {what}; give other patches, or --allow-shared-patients where file "
                "names do not tell patients apart"
            )
        notes += [f"patients reported, and {what}, which flatters: {', '.join(shared)}"] if shared else []
    return notes


def _require_enough(label: np.ndarray, classes: Sequence[str], few: Sequence[int]) -> None:
    counts = np.bincount(label, minlength=len(classes))
    least, most = int(counts.argmin()), max(few, default=1)
    if counts[least] < most:
        raise ConfigError(f"class '{classes[least]}' has {counts[least]} patches to learn from, and {most} are needed")


def _draw(label: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Numbers of ``n`` patches of each class."""
    generator = np.random.default_rng(seed)
    kinds = [np.flatnonzero(label == one) for one in np.unique(label)]
    return np.concatenate([generator.choice(of_class, n, replace=False) for of_class in kinds])


def _predict(
    bank: Tensor, label: np.ndarray, query: Tensor, n_classes: int, draws: Sequence[np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Predicted classes (M,) of each draw by protocol; features are standardised by those learnt from."""
    found: dict[str, list[np.ndarray]] = {"kNN": [], "linear": []}
    for seed, chosen in enumerate(draws):
        features, known = bank[chosen], torch.from_numpy(label[chosen])
        mean, scale = features.mean(0), features.std(0) + 1e-6
        features, queries = (features - mean) / scale, (query - mean) / scale
        found["kNN"].append(classify_by_neighbours(features, known, queries, n_classes, [K])[0].numpy())
        layer = train_linear_probe(features, known, n_classes, seed=SEED + seed)
        found["linear"].append(layer.classify(queries)[-1].numpy())
    return found


def render_patches(result: dict[str, Any]) -> str:
    """A table of ``probe_patches``' dictionary, and the data that it was measured on."""
    heading = (
        f"{result['backbone']} ({result['weights']}), patches brought to {result['window_px']} px, colour "
        f"{result['colour']}\n{result['n_train']:,} patches to learn from, {result['n_test']:,} of "
        f"{result['n_test_patients']:,} patients or files reported; 95 % intervals by bootstrap over these\n"
        f"kNN: the {result['k']} nearest; few labels: mean of {N_DRAWS} draws"
    )
    rows = [
        [
            name,
            format_number(one["accuracy"]),
            format_interval(one["accuracy_interval"]),
            format_number(one["balanced_accuracy"]),
            format_interval(one["balanced_accuracy_interval"]),
            *(format_number(value) for value in one["recall"].values()),
        ]
        for name, one in result["protocols"].items()
    ]
    header = ["classes of patches, %", "accuracy", "interval", "balanced", "interval", *result["classes"]]
    return "\n\n".join([heading, render_table(header, rows), *result["notes"]])
