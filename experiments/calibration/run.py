"""Calibration of class probabilities at sites that a model was not trained on, before and after
temperature scaling.

    python -m experiments.calibration.run config/train/compact.yaml runs/loso/A7 runs/loso/A8 \
        runs/loso/AC \
        --data ../shared/data --output runs/scores

Each folder is named for its site and has a model.onnx that was not trained on this site, written by
`experiments.left_out_sites.run` or, for the arm "mean", by `experiments.areas.run`. A folder named
`colon` is scored on areas of the accessions of EBHI-Seg that `compact` was not trained on, by the
probability of Epithelial against that of all other classes. `python -m experiments.areas.prepare
DATA` writes these areas to `DATA/prepared/`.

The temperature for a site is fitted to the left-out predictions of the other sites. If there is
only one site, and for colon, it is fitted to one half of the patients and scored on the other half,
in turn. The last line has the temperature fitted to the left-out predictions of all sites; `muse
card MODEL --temperature T -o MODEL` writes it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from experiments.common.areas import EBHI_MPP, EPITHELIAL, ebhi_pictures, nuclei_in_areas
from experiments.common.sites import split_sources
from muse_pipeline.core.files import write_json
from muse_pipeline.evaluation.detection import match_nuclei
from muse_pipeline.evaluation.reliability import CalibrationCounts, count_calibration
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.predictor import Predictor, temper
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config

COLON = "colon"
TEMPERATURES = (0.2, 10.0)  # range of the fit
THRESHOLD = (
    0.4  # minimum score, as for the figures in docs/guide/confidence.md; exported models keep more
)


@dataclass(frozen=True)
class LeftOut:
    """Matched nuclei of a left-out site: probabilities (N, C), true classes (N,) and names of
    pictures (N,).
    """

    site: str
    prob: np.ndarray
    label: np.ndarray
    picture: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> LeftOut:
        return LeftOut(self.site, self.prob[chosen], self.label[chosen], self.picture[chosen])

    @property
    def patient(self) -> np.ndarray:
        """(N,) patients, from the beginning of the TCGA names."""
        return np.array([name[:12] for name in self.picture])


def main() -> None:
    """Fit temperatures, and print and write calibration before and after scaling."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("folds", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    config = load_detector_config(args.config, args.data)
    sites = [
        predict_colon(args.data, folder) if folder.name == COLON else predict(config, folder)
        for folder in args.folds
    ]
    scores = {}
    for site in sites:
        others = [one for one in sites if one is not site and COLON not in (one.site, site.site)]
        after, temperatures = cross_fitted(site, others)
        by_time = {
            when: describe(site, prob) for when, prob in (("before", site.prob), ("after", after))
        }
        scores[site.site] = {"temperatures": temperatures, **by_time}
        before, later = scores[site.site]["before"], scores[site.site]["after"]
        print(
            f"{site.site}: {before['n']} nuclei, right {100 * before['accuracy']:.1f}, given"
            f" {100 * before['confidence']:.1f} -> {100 * later['confidence']:.1f}, error"
            f" {100 * before['error']:.1f} {interval(before)} -> {100 * later['error']:.1f}"
            f" {interval(later)}, log loss {before['log_loss']:.3f} -> {later['log_loss']:.3f},"
            f" temperature {', '.join(f'{t:.2f}' for t in temperatures)}"
        )
    temperature = None
    if of_points := [site for site in sites if site.site != COLON]:
        temperature = fit_temperature(*pooled(of_points))
        print(f"all left-out predictions together: temperature {temperature:.2f}")
    write_json(args.output / "calibration.json", {"temperature": temperature, "sites": scores})


def predict(config: DetectorConfig, folder: Path) -> LeftOut:
    """Predictions of a fold's model for its left-out site."""
    predictor, site = Predictor(folder / "model.onnx"), folder.name
    _, held = split_sources(config, site)
    probs, labels, names = [], [], []
    for picture in read_labelled_images(held, config.class_names, config.mpp, config.n_rays):
        found = detect_image(
            predictor, picture.pixels, colour_of_fit(predictor.card.colour, picture.stain)
        )
        found = found[found.score >= THRESHOLD]
        true = dataclasses.replace(picture.nuclei, frame=found.frame)
        taken = match_nuclei(found, true, len(config.classes), config.mpp).taken[0]
        label = np.where(taken >= 0, true.label[taken], -1)
        probs.append(found.prob[label >= 0])
        labels.append(label[label >= 0])
        names.append(np.repeat(picture.name, len(labels[-1])))
    return LeftOut(site, np.concatenate(probs), np.concatenate(labels), np.concatenate(names))


def predict_colon(data: Path, folder: Path) -> LeftOut:
    """Predictions in the areas of EBHI-Seg, as probabilities (N, 2) of not Epithelial and
    Epithelial.

    Pictures have the name of their accession.
    """
    predictor = Predictor(folder / "model.onnx")
    probs, labels, names = [], [], []
    for nuclei, is_epithelial, patient in nuclei_in_areas(
        predictor, ebhi_pictures(data, odd=True), EBHI_MPP
    ):
        epithelial = nuclei.prob[:, EPITHELIAL]
        probs.append(np.stack([1 - epithelial, epithelial], 1))
        labels.append(is_epithelial.astype(int))
        names.append(np.repeat(patient, len(nuclei)))
    return LeftOut(
        folder.name, np.concatenate(probs), np.concatenate(labels), np.concatenate(names)
    )


def cross_fitted(site: LeftOut, others: list[LeftOut]) -> tuple[np.ndarray, list[float]]:
    """Scaled probabilities of a site, and the temperatures, fitted to other sites or other
    patients of this site.
    """
    if others:
        temperature = fit_temperature(*pooled(others))
        return temper(site.prob, temperature), [temperature]
    patients = np.unique(site.patient)
    halves = [np.isin(site.patient, patients[start::2]) for start in (0, 1)]
    temperatures = [fit_temperature(site.prob[other], site.label[other]) for other in halves[::-1]]
    after = np.empty_like(site.prob)
    for half, temperature in zip(halves, temperatures, strict=True):
        after[half] = temper(site.prob[half], temperature)
    return after, temperatures


def pooled(sites: Iterable[LeftOut]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and true classes of several sites."""
    sites = list(sites)
    return np.concatenate([site.prob for site in sites]), np.concatenate(
        [site.label for site in sites]
    )


def describe(site: LeftOut, prob: np.ndarray) -> dict:
    """Calibration of probabilities, with its interval bootstrapped over patients, and log loss."""
    names = np.unique(site.picture)
    by_picture = np.stack(
        [
            count_calibration(prob[site.picture == name], site.label[site.picture == name]).values
            for name in names
        ]
    )
    counts = CalibrationCounts(by_picture.sum(0))
    return {
        **counts.describe(by_picture, [name[:12] for name in names]),
        "log_loss": log_loss(prob, site.label),
    }


def interval(score: dict) -> str:
    """The interval of the calibration error in percent, as in "(3.1-5.2)"."""
    low, high = (100 * end for end in score["error_interval"])
    return f"({low:.1f}-{high:.1f})"


def log_loss(prob: np.ndarray, true_label: np.ndarray) -> float:
    """Mean negative log probability (N, C) of the true class (N,), natural log."""
    chosen = prob[np.arange(len(prob)), true_label]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def fit_temperature(prob: np.ndarray, true_label: np.ndarray) -> float:
    """The temperature with the lowest log loss for probabilities (N, C), which must come from
    left-out data.
    """
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log: log_loss(temper(prob, float(np.exp(log))), true_label),
        bounds=(low, high),
        method="bounded",
    )
    return float(np.exp(found.x))


if __name__ == "__main__":
    main()
