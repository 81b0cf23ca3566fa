"""Does nucleus-guided pretraining teach what the paper says: arms with one thing changed, on a left-out site.

    python benchmarks/muse_proof.py config/train/muse_pretrain.yaml --data ../shared/data --output runs/proof

Pretraining sees the unlabelled pixels of the training sites of BRCA-M2C and of the config's other tissue, never the
left-out site. Features are frozen: accuracy (%) at the true nuclei of the left-out site by the 20 nearest neighbours
among the training sites' and by a linear layer, at 0.5 um/px, at 1.0, and across (neighbours at 0.5, nuclei at 1.0);
and how often a nucleus at 1.0 um/px finds itself among 1,000 of its site at 0.5 ("retrieval"). Differences are paired,
with 95 % intervals by bootstrap over patients. An arm that was scored is not run again; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from muse_controls import RandomPointsStage, ShuffledStage
from torch.nn import functional

from muse_pipeline.core.files import write_json
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.evaluation.bootstrap import compare_means
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.labels.statistics import image_colour, mean_stains
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.run import MuseStage, load_muse_config
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.probing.features import PointSet, point_features
from muse_pipeline.probing.protocols import classify_by_neighbours, train_linear_probe
from muse_pipeline.training.run import Options
from muse_pipeline.training.start import load_backbone

SITES, CLASSES = ("A7", "A8", "AC"), ("Lymphocyte", "Epithelial", "Stroma")
ARMS = {
    "full": (),
    "fine alone": ("views.mpp=[0.5, 0.5]",),
    "coarse alone": ("views.mpp=[1.0, 1.0]",),
    "image loss alone": ("distillation.nucleus_weight=0",),
    "nuclei alone": ("distillation.image_weight=0",),
    "random points": (),
    "shuffled identities": (),
    "positions from labels": (),
    "untrained": (),
}
STAGES = {"random points": RandomPointsStage, "shuffled identities": ShuffledStage}  # other arms: MuseStage
K, WINDOW_PX, N_RETRIEVED = 20, 224, 1000
FACTS = ("patient", "class")


def main() -> None:
    """Pretrain and score every arm, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--sites", nargs="+", choices=SITES, default=["A8"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change settings of every arm")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for site in args.sites:
        for seed in args.seeds:
            for arm in args.arms:
                run_arm(args, arm, site, seed)
            table = compare({arm: run_folder(args.output, arm, site, seed) for arm in args.arms})
            write_json(args.output / f"{site}-{seed}.json", table)
            print(json.dumps(table, indent=1), flush=True)


def run_folder(output: Path, arm: str, site: str, seed: int) -> Path:
    """Of one arm."""
    return output / f"{arm.replace(' ', '-')}-{site}-{seed}"


def run_arm(args: argparse.Namespace, arm: str, site: str, seed: int) -> None:
    """Pretrain without the site and score on it, unless the scores are there."""
    folder = run_folder(args.output, arm, site, seed)
    if (folder / "scores.npz").is_file():
        return
    config = load_muse_config(args.config, args.data, (*args.set, *ARMS[arm], f"seed={seed}"))
    labels = label_source(args.data)
    config = without_site(config, labels, site, from_labels=arm == "positions from labels")
    torch.manual_seed(seed)
    backbone = BACKBONES[config.backbone]()
    others = tuple(f"TCGA-{one}-" for one in SITES if one != site)
    known, judged = dataclasses.replace(labels, exclude=(f"TCGA-{site}-",)), dataclasses.replace(labels, exclude=others)
    if arm != "untrained":
        stage = STAGES.get(arm, MuseStage)(config, folder)
        checkpoint = load_backbone(backbone, stage.run(Options(accelerator="cpu", say=print)))
        colour = checkpoint.meta["colour"]
        reference = ColourReference(colour["method"], tuple(map(tuple, colour["stains"])), tuple(colour["strong"]))
    else:
        reference = mean_stains([image.stain for image in read([known], 0.5)], "macenko")
    folder.mkdir(exist_ok=True)
    np.savez(folder / "scores.npz", **score(backbone, reference, known, judged))
    print(arm, site, seed, {name: round(100 * value, 1) for name, value in means(folder).items()}, flush=True)


def label_source(data: Path) -> LabelSource:
    """BRCA-M2C's train and val."""
    folder = data / "brca-m2c"
    names = dict(zip("123", CLASSES, strict=True))
    return LabelSource(folder / "labels", "row column class", images=folder / "images", mpp=0.5, class_map=names)


def without_site(config: MuseConfig, labels: LabelSource, site: str, from_labels: bool) -> MuseConfig:
    """The config without the pictures of a site, which are held; its positions found, or those of the labels."""
    word = f"TCGA-{site}-"
    sources = [dataclasses.replace(source, exclude=(*source.exclude, word)) for source in config.sources]
    if from_labels:
        known = dataclasses.replace(labels, exclude=(word,))
        sources = [NucleusSource(labelled=known) if s.images == labels.images else s for s in sources]
    others = tuple(f"TCGA-{one}-" for one in SITES if one != site)
    return dataclasses.replace(config, sources=tuple(sources), held=(dataclasses.replace(labels, exclude=others),))


def read(sources: list[LabelSource], mpp: float) -> list[LabelledImage]:
    """Labelled pictures at ``mpp``; outlines are of no use here."""
    return read_labelled_images(sources, CLASSES, mpp, n_rays=3)


def score(backbone: Backbone, reference: ColourReference, known: LabelSource, judged: LabelSource) -> dict:
    """For each nucleus of the judged whether each protocol is right, and whose it is."""
    features, points = {}, {}
    for name, source in (("known", known), ("judged", judged)):
        for mpp in (0.5, 1.0):
            images = read([source], mpp)
            colours = np.stack([image_colour(image, reference) for image in images])
            points[name, mpp] = PointSet(images, colours, WINDOW_PX)
            features[name, mpp] = point_features(backbone, points[name, mpp], torch.device("cpu"))
    fine, coarse = same_nuclei(points["judged", 0.5], points["judged", 1.0])
    label, bank = points["judged", 0.5].label[fine], points["known", 0.5].label
    query = {0.5: features["judged", 0.5][fine], 1.0: features["judged", 1.0][coarse]}

    def neighbours(of_bank: float, of_query: float) -> np.ndarray:
        found = classify_by_neighbours(
            features["known", of_bank], points["known", of_bank].label, query[of_query], len(CLASSES), [K]
        )
        return (found[0] == label).numpy()

    linear = train_linear_probe(features["known", 0.5], bank, len(CLASSES), seed=0)
    return {
        "kNN at 0.5": neighbours(0.5, 0.5),
        "kNN at 1.0": neighbours(1.0, 1.0),
        "kNN across": neighbours(0.5, 1.0),
        "linear": (linear.classify(query[0.5])[-1] == label).numpy(),
        "retrieval": retrieve(query[0.5], query[1.0]),
        "patient": points["judged", 0.5].patient[fine],
        "class": label.numpy(),
    }


def same_nuclei(fine: PointSet, coarse: PointSet) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the nuclei in both sets, whose windows hold them in another order."""
    (image, xy), (other_image, other_xy) = (positions(points, mpp) for points, mpp in ((fine, 0.5), (coarse, 1.0)))
    keys = [np.column_stack([number * 1e5, at]) for number, at in ((image, xy), (other_image, other_xy))]
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(keys[1]).query(keys[0])
    kept = distance < 1.0  # um
    return np.flatnonzero(kept), nearest[kept]


def positions(points: PointSet, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of its picture and (x, y) in um of every point."""
    image = np.concatenate([np.full(len(one.label), one.image) for one in points.windows])
    return image, np.concatenate([(one.xy + one.origin) * mpp for one in points.windows])


def retrieve(fine: torch.Tensor, coarse: torch.Tensor) -> np.ndarray:
    """(N,) whether a coarse nucleus is nearest to itself among its thousand; the last ones that fill none are False."""
    right = np.zeros(len(fine), bool)
    order = torch.randperm(len(fine), generator=torch.Generator().manual_seed(0))
    for part in order.split(N_RETRIEVED):
        similarity = functional.normalize(coarse[part], dim=1) @ functional.normalize(fine[part], dim=1).T
        right[part.numpy()] = (similarity.argmax(1) == torch.arange(len(part))).numpy()
    return right


def means(folder: Path) -> dict[str, float]:
    """Shares of right answers, and mean recall of the classes where it differs."""
    with np.load(folder / "scores.npz") as scores:
        shares = {name: float(scores[name].mean()) for name in scores if name not in FACTS}
        recall = {
            f"{name}, classes alike": balanced(scores[name], scores["class"]) for name in ("kNN at 0.5", "linear")
        }
    return shares | recall


def balanced(right: np.ndarray, label: np.ndarray) -> float:
    """Mean recall of the classes."""
    return float(np.mean([right[label == one].mean() for one in np.unique(label)]))


def compare(folders: dict[str, Path]) -> dict:
    """Accuracies of every arm, and full minus arm with its interval."""
    table = {}
    full = np.load(folders["full"] / "scores.npz") if "full" in folders else None
    for arm, folder in folders.items():
        table[arm] = {name: round(100 * value, 1) for name, value in means(folder).items()}
        metrics = folder / "metrics.jsonl"
        if metrics.is_file():
            last = json.loads(metrics.read_text().splitlines()[-1])
            table[arm]["health"] = {name: round(value, 3) for name, value in last.items()}
        if full is not None and arm != "full":
            scores = np.load(folder / "scores.npz")
            table[arm]["full minus this"] = {name: gain(full, scores, name) for name in scores if name not in FACTS}
    return table


def gain(full: dict, other: dict, name: str) -> list[float]:
    """Difference, and the two ends of its interval."""
    paired = compare_means(other[name], full[name], full["patient"])
    return [round(100 * value, 1) for value in (paired["difference"], *paired["interval"])]


if __name__ == "__main__":
    main()
