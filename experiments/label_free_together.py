"""Detectors without labels that learn from pseudo-labels, from rendered tissue, and from both.

    python experiments/unit_real.py --data DATA --arms unit     # trains the generator
    python experiments/label_free_together.py --data DATA       # trains and scores what has no JSON yet
    python experiments/label_free_together.py --table           # prints the table

Pseudo-labels are what the built-in `label_free` finds from a score of 0.35 in the pixels of `config/train/psm.yaml`,
with outlines as its network draws them; both are those of revision 41578fbe, which training another arm needs. Tissue
is rendered by the generator of `config/train/unit.yaml`, in the folder unit_real/ beside --work. All arms but
`both-wide` train the same network from the same random weights, and all for as many steps with the augmentation of
psm.yaml. The score from which a nucleus counts is the one with the best detection F1 at points of every fourth
training picture of BRCA-M2C. TNBC and NuCLS are read as in `unit_real.py` and choose nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
from arms import run_arms
from unit_real import RUNS as UNIT_RUNS
from unit_real import TOP, aji, change_from, detection_f1, mean_of_seeds, network_finder, score, with_interval

from muse_pipeline.core.files import complete_file, read_json
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.run import finetune
from muse_pipeline.methods.psm.config import PsmConfig
from muse_pipeline.methods.psm.labels import find_all, label_source, paint_nuclei, write_found
from muse_pipeline.methods.psm.masks import read_pictures_and_masks
from muse_pipeline.methods.psm.run import PsmRecipe, detector_config
from muse_pipeline.methods.unit.pictures import Renderer, write_pictures
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.recipe import load_run, train_run
from muse_pipeline.training.run import Options

RUNS = Path(__file__).parent / "label_free_together"
STEPS = 1000
NARROW, WIDE = "muse_compact_32", "muse_compact_48"  # backbones; the built-in model of that revision has the wide one
N_RENDERED, RENDERED_PX = 400, 256
LEAST_SCORE, THRESHOLDS = 0.1, np.arange(0.2, 0.75, 0.05)
KINDS = {"pseudo": ("found",), "rendered": ("rendered",), "both": ("found", "rendered")}  # sources of each arm
KINDS["both-wide"] = KINDS["both"]
TITLES = {
    "pseudo": "pseudo-labels",
    "rendered": "rendered tissue",
    "both": "**both**",
    "both-wide": "both, a wider network (`muse_compact_48`)",
    "drawn": "built-in `label_free`, outlines as its network draws them",
}
BESIDE = {"otsu": "Otsu on haematoxylin, cut into nuclei", "label_free": "built-in `label_free`"}
BASELINES = {"label_free": "`label_free`", "pseudo": "pseudo-labels"}


def main() -> None:
    """Train and score the arms that have no JSON yet, or print the table."""
    run_arms(__doc__, RUNS, tuple(TITLES), run_arm, render_tables, reads_data=True)


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """The threshold of a trained detector, how it was chosen, and its counts on both sets."""
    cv2.setNumThreads(1)
    data, work = args.data.resolve(), args.work.resolve()
    if arm == "drawn":
        return score(network_finder(as_drawn(find_model("label_free"))), data)
    backbone = WIDE if arm == "both-wide" else NARROW
    settings = (f"detector.backbone={backbone}", f"detector.schedule.steps={STEPS}", f"seed={seed}")
    _, config = load_run(TOP / "config/train/psm.yaml", data, settings)
    sources = [make_source(kind, config, work) for kind in KINDS[arm]]
    detector = dataclasses.replace(detector_config(config, work), sources=weigh_alike(sources))
    checkpoint = finetune(detector, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1, say=print))
    model = checkpoint.with_name("model.onnx")
    export_onnx(checkpoint, model, threshold=LEAST_SCORE)
    f1 = detection_by_threshold(Predictor(model), data / "brca-m2c")
    threshold = max(f1, key=f1.get)
    export_onnx(checkpoint, model, threshold=threshold)
    return {
        "steps": STEPS,
        "threshold": threshold,
        "f1_by_threshold": f1,
        **score(network_finder(Predictor(model)), data),
    }


def make_source(kind: str, config: PsmConfig, work: Path) -> LabelSource:
    """A source of labels in a folder of ``work``, written if it is not there."""
    folder = work / kind
    if kind == "rendered":
        if not folder.is_dir():
            generator = work.with_name("unit_real") / "unit-0/stages/3-reader/checkpoint.pt"
            write_pictures(Renderer(generator), folder, N_RENDERED, seed=0, size_px=RENDERED_PX)
        words = {"Epithelial": "Nucleus", "Stroma": "Nucleus"}
        return dataclasses.replace(label_source(folder, config.mpp), class_map=words)
    if not folder.is_dir():
        with complete_file(folder) as unfinished:
            unfinished.mkdir()
            write_pseudo_labels(config, work, unfinished)
    return label_source(folder, config.mpp)


def weigh_alike(sources: list[LabelSource]) -> tuple[LabelSource, ...]:
    """As many windows of each source, however many pictures it has."""
    shares = [1 / len(list(source.images.glob("*.png"))) for source in sources]
    return tuple(
        dataclasses.replace(source, weight=share / shares[0]) for source, share in zip(sources, shares, strict=True)
    )


def as_drawn(model: Path) -> Predictor:
    """A detector whose outlines stay as its network draws them."""
    predictor = Predictor(model)
    predictor.card = dataclasses.replace(predictor.card, snap_um=0.0)
    return predictor


def write_pseudo_labels(config: PsmConfig, work: Path, folder: Path) -> None:
    """Write what the built-in model finds in the pictures of the config."""
    masks = train_run(PsmRecipe(), config, work / "psm", Options(accelerator="cpu", say=print), until="masks")
    lowered = work / "lowered.onnx"
    lower_threshold(find_model("label_free"), lowered, config.self_training.threshold)
    predictor = as_drawn(lowered)
    for name, pixels, _ in read_pictures_and_masks(masks):
        found = find_all(predictor, predictor.card.colour, pixels)
        write_found(folder, name, pixels, paint_nuclei(found, pixels.shape[:2], config.mpp))


def lower_threshold(model: Path, output: Path, threshold: float) -> None:
    """Write a detector whose graph drops only what scores less; its card stays as it is."""
    graph = onnx.load(model)
    (comparison,) = (node for node in graph.graph.node if node.op_type == "GreaterOrEqual")
    (limit,) = (one for one in graph.graph.initializer if one.name == comparison.input[1])
    limit.CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, np.float32), limit.name))
    onnx.save_model(graph, output)


def detection_by_threshold(predictor: Predictor, folder: Path) -> dict[float, float]:
    """Detection F1 in percent on every fourth training picture, by the score from which a nucleus counts."""
    counts = dict.fromkeys(THRESHOLDS.round(2).tolist(), np.zeros(3))
    for pixels, true in read_points(folder):
        found = detect_picture(predictor, pixels, predictor.card.mpp, fit_macenko(pixels.reshape(-1, 3)))
        for threshold in counts:
            kept = found[found.score >= threshold]
            matched = match_points(kept.xy, kept.score, true, RADIUS_UM / predictor.card.mpp) >= 0
            counts[threshold] = counts[threshold] + (matched.sum(), len(kept), len(true))
    return {threshold: round(float(200 * n / (found + true)), 2) for threshold, (n, found, true) in counts.items()}


def read_points(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels and (T, 2) points of every fourth training picture of BRCA-M2C."""
    for name in sorted((folder / "train.txt").read_text().split())[::4]:
        (labels,) = (folder / "labels").glob(f"{Path(name).stem}*")
        yield read_rgb(folder / "images" / name), np.loadtxt(labels, ndmin=2)[:, [1, 0]]


def render_tables() -> str:
    """Scores of both sets with 95 % intervals over patients, and paired differences from two baselines."""
    runs = [read_json(path) for path in sorted(RUNS.glob("*.json"))]
    runs += [read_json(UNIT_RUNS / f"{arm}-0.json") for arm in BESIDE]
    return "\n\n".join(_render(name, runs) for name in ("TNBC", "NuCLS"))


def _render(name: str, runs: list[dict]) -> str:
    changes = [f"change of {of} from {title} (95 %)" for title in BASELINES.values() for of in ("F1", "AJI")]
    header = [name, "seeds", "threshold", "detection F1 (95 %)", "AJI (95 %)", *changes]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    sums = {arm: mean_of_seeds([run for run in runs if run["arm"] == arm], name) for arm in (*TITLES, *BESIDE)}
    for arm, title in (TITLES | BESIDE).items():
        if sums[arm] is None:
            continue
        values, patients, n = sums[arm]
        thresholds = ", ".join(f"{run['threshold']:.2f}" for run in runs if run["arm"] == arm and "threshold" in run)
        cells = [title, str(n) if arm.startswith(tuple(KINDS)) else "", thresholds]
        cells += [with_interval(measure, values, patients) for measure in (detection_f1, aji)]
        for base in BASELINES:
            before = None if arm == base else sums[base]
            cells += [change_from(one, before[0], values, patients) if before else "" for one in (detection_f1, aji)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
