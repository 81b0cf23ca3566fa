"""What a free partner teaches an H&E backbone of real tissue: outlines of nuclei that a threshold finds.

    python experiments/trident_tissue.py --data ../shared/data    # trains what is missing: a JSON per run
    python experiments/trident_tissue.py --table                  # the table of docs/results.md, from these

Backbones are trained on the pixels of site A8 of BRCA-M2C (train and val), without labels. The partner of a picture is
a drawing of the nuclei that Otsu's threshold finds in its haematoxylin. The frozen features at the true nuclei of sites
A7 and AC are classified from the labels of five pictures of A8, drawn five times: by the 20 nearest neighbours and by
a linear layer. A stopped run goes on. DATA is a folder with brca-m2c/.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.partners import PairedSource, PartnerSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import confusion_by_patient
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.labels.statistics import image_colour, mean_stains
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.methods.muse.run import INDEX, MuseStage
from muse_pipeline.methods.trident.config import AlignmentSettings, TridentConfig
from muse_pipeline.methods.trident.run import TridentStage
from muse_pipeline.models import BACKBONES
from muse_pipeline.probing.features import PointSet, point_features
from muse_pipeline.probing.protocols import classify_by_neighbours, train_linear_probe
from muse_pipeline.proposals.otsu_mask import fit_otsu
from muse_pipeline.training.run import Options
from muse_pipeline.training.schedule import Schedule
from muse_pipeline.training.start import load_backbone

RUNS = Path(__file__).parent / "trident_tissue"
BACKBONE, MPP, STEPS, BATCH = "muse_compact_16", 0.5, 500, 12
LEARNT, JUDGED = ("A8",), ("A7", "AC")
CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
K, WINDOW_PX, N_LABELLED, N_DRAWS = 20, 224, 5, 5
ARMS = {  # branches, folder of partners
    "three": (3, "masks"),
    "siamese": (1, "masks"),
    "three-shuffled": (3, "shuffled"),
    "muse": (0, ""),
    "untrained": (0, ""),
}
TITLES = {
    "three": "two H&E views and drawn nuclei (TriDeNT)",
    "siamese": "two H&E views (Siamese)",
    "three-shuffled": "TriDeNT, nuclei of other pictures",
    "muse": "MUSE",
    "untrained": "random weights",
}
PROTOCOLS = ("kNN", "linear")


def sites_but(sites: tuple[str, ...]) -> tuple[str, ...]:
    """Words that leave out the pictures of every other site."""
    return tuple(f"TCGA-{site}-" for site in (*LEARNT, *JUDGED) if site not in sites)


def draw_partners(images: Path, work: Path) -> None:
    """Write the label images of the learnt pictures' nuclei, and the same under the names of other pictures."""
    if (work / "shuffled").is_dir():
        return
    paths = [path for path in list_pictures(images) if not any(word in path.name for word in sites_but(LEARNT))]
    for name in ("masks", "shuffled.partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    found = []
    for path in paths:
        pixels = read_rgb(path)
        found.append(fit_otsu([pixels], MPP).instances(pixels))
        np.save(work / "masks" / f"{path.stem}.npy", found[-1])
    for path, own, other in zip(paths, found, found[1:] + found[:1], strict=True):
        fitting = np.zeros_like(own)
        height, width = np.minimum(own.shape, other.shape)
        fitting[:height, :width] = other[:height, :width]
        np.save(work / "shuffled.partial" / f"{path.stem}.npy", fitting)
    (work / "shuffled.partial").rename(work / "shuffled")


def make_stage(arm: str, seed: int, images: Path, work: Path) -> MuseStage:
    """The run of an arm."""
    branches, partners = ARMS[arm]
    source = {"images": images, "mpp": MPP, "exclude": sites_but(LEARNT)}
    common = {
        "name": arm,
        "backbone": BACKBONE,
        "schedule": Schedule(
            steps=STEPS, learning_rate=2e-3, warmup=0.1, weight_decay=1e-4, clip=30.0, save_every=100, log_every=10
        ),
        "batch": BATCH,
        "seed": seed,
    }
    views = {"global_px": 64, "local_px": 32, "mpp": (0.5, 1.0)}
    folder = work / f"{arm}-{seed}"
    if arm == "muse":
        distillation = SelfDistillationSettings(n_prototypes=512, hidden=256, bottleneck=64, momentum=0.98)
        sources = (NucleusSource(**source),)
        config = MuseConfig(
            sources=sources, views=ViewSettings(n_local=2, **views), distillation=distillation, **common
        )
        return MuseStage(config, folder)
    paired = PairedSource(**source, partner=PartnerSource(nuclei=work / partners))
    alignment = AlignmentSettings(branches=branches, nucleus_weight=1.0, hidden=256, width=256)
    views = ViewSettings(n_local=0, **views)
    return TridentStage(TridentConfig(sources=(paired,), views=views, alignment=alignment, **common), folder)


def run_arm(arm: str, seed: int, data: Path, work: Path) -> dict:
    """Train an arm and count the nuclei of each judged patient by true and predicted class."""
    labels = LabelSource(
        data / "brca-m2c/labels",
        "row column class",
        images=data / "brca-m2c/images",
        mpp=MPP,
        class_map=dict(zip("123", CLASSES, strict=True)),
    )
    torch.manual_seed(seed)
    backbone, reference = BACKBONES[BACKBONE](), None
    if arm != "untrained":
        draw_partners(labels.images, work)
        stage = make_stage(arm, seed, labels.images, work)
        share_index(stage.folder / INDEX, work / INDEX)
        checkpoint = load_backbone(backbone, stage.run(Options(accelerator="cpu", threads=1, say=print)))
        share_index(work / INDEX, stage.folder / INDEX)
        colour = checkpoint.meta["colour"]
        reference = ColourReference(colour["method"], tuple(map(tuple, colour["stains"])), tuple(colour["strong"]))
    return {"arm": arm, "seed": seed, "steps": STEPS, **count_predictions(backbone, reference, labels)}


def share_index(to: Path, found: Path) -> None:
    """Copy the positions of nuclei, which are the same for all arms."""
    if found.is_dir() and not to.is_dir():
        shutil.copytree(found, to)


def count_predictions(backbone, reference: ColourReference | None, labels: LabelSource) -> dict:
    """(P, C * C) counts of P patients by protocol, over all draws of labelled pictures."""
    known, judged = (read_sites(labels, sites) for sites in (LEARNT, JUDGED))
    reference = reference or mean_stains([image.stain for image in known], "macenko")
    points = [PointSet(i, np.stack([image_colour(one, reference) for one in i]), WINDOW_PX) for i in (known, judged)]
    bank, query = (point_features(backbone, one, torch.device("cpu")) for one in points)
    mean, std = bank.mean(0), bank.std(0) + 1e-6
    bank, query, truth = (bank - mean) / std, (query - mean) / std, points[1].label.numpy()
    picture, counts = points[0].positions()[0], dict.fromkeys(PROTOCOLS, 0)
    for draw in range(N_DRAWS):
        chosen = np.isin(picture, np.random.default_rng(draw).choice(len(known), N_LABELLED, replace=False))
        features, label = bank[chosen], points[0].label[chosen]
        predicted = {
            "kNN": classify_by_neighbours(features, label, query, len(CLASSES), [K])[0],
            "linear": train_linear_probe(features, label, len(CLASSES), seed=draw).classify(query)[-1],
        }
        for name, one in predicted.items():
            names, found = confusion_by_patient(truth, one.numpy(), points[1].patient, len(CLASSES))
            counts[name] = counts[name] + found
    return {
        "patients": list(names),
        "counts": {name: found.reshape(len(names), -1).tolist() for name, found in counts.items()},
    }


def read_sites(labels: LabelSource, sites: tuple[str, ...]) -> list[LabelledImage]:
    """The labelled pictures of some sites; train and val, which are all there are."""
    kept = LabelSource(**{**vars(labels), "exclude": sites_but(sites)})
    return read_labelled_images([kept], CLASSES, MPP, n_rays=3)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes of counts (..., C, C) by true and predicted class, in %."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return 100 * (2 * right / np.maximum(counts.sum(-1) + counts.sum(-2), 1)).mean(-1)


def main() -> None:
    """Train and score the runs that have no JSON yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/trident_tissue"), help="for runs (default: %(default)s)"
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of the runs that exist")
    args = parser.parse_args()
    if args.table:
        print(render_table())
        return
    if args.data is None:
        parser.error("--data is missing")
    torch.set_num_threads(1)
    for seed in args.seeds:
        for arm in args.arms:
            result = RUNS / f"{arm}-{seed}.json"
            if not result.is_file():
                facts = run_arm(arm, seed, args.data.resolve(), args.work.resolve())
                result.write_text(json.dumps(facts) + "\n", encoding="utf-8")
                print(result, flush=True)


def render_table() -> str:
    """Macro F1 by arm, and the difference from the Siamese runs of the same seeds with its interval over patients."""
    runs = {(run["arm"], run["seed"]): run for run in map(read_json, sorted(RUNS.glob("*.json")))}
    header = [
        "backbone",
        "runs",
        *(f"{name} F1" for name in PROTOCOLS),
        *(f"{name}, less Siamese" for name in PROTOCOLS),
    ]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, title in TITLES.items():
        seeds = [seed for name, seed in runs if name == arm]
        if not seeds:
            continue
        cells = [f"{macro_f1(add(runs, arm, seeds, name).sum(0)):.1f}" for name in PROTOCOLS]
        both = [seed for seed in seeds if ("siamese", seed) in runs]
        cells += [compare(runs, arm, both, name) if both and arm != "siamese" else "" for name in PROTOCOLS]
        rows.append(f"| {title} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def add(runs: dict, arm: str, seeds: list[int], protocol: str) -> np.ndarray:
    """(P, C, C) counts of the runs of an arm added up."""
    counts = sum(np.array(runs[arm, seed]["counts"][protocol]) for seed in seeds)
    return counts.reshape(-1, len(CLASSES), len(CLASSES))


def compare(runs: dict, arm: str, seeds: list[int], protocol: str) -> str:
    """Difference from the Siamese runs, with its 95 % interval."""
    before, after = (add(runs, one, seeds, protocol) for one in ("siamese", arm))
    found = compare_scores(before, after, runs[arm, seeds[0]]["patients"], macro_f1)
    low, high = found["interval"]
    return f"{found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
