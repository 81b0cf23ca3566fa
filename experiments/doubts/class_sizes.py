"""How often classes are doubted by the size of their nuclei, and what these sizes are in training.

    python -m experiments.doubts.class_sizes --data ../shared/data --model compact --json class_sizes.json
    python -m experiments.doubts.class_sizes --data ../shared/data --model compact \
        --card muse_pipeline/inference/built_in/compact.json

The reference comes from the training pictures of BRCA-M2C, over slides with enough nuclei of the class; ``--card``
writes it into the file beside the built-in model. Every other picture shows how often sound tissue is doubted. A slide
is all pictures of one slide, or of one patient where pictures name no slide.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from experiments.doubts.run import APART, measure_once, pictures, read
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.inference.card import ClassReference
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.doubts import MIN_NUCLEI, judge_classes
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.tissue.stain import fit_macenko

TRAINING = "BRCA-M2C, training"
CLASSES = ("Lymphocyte", "Epithelial")  # "Stroma" is everything else, whose nuclei have no size of their own
ORGANS = ("breast",)  # of the pictures that the built-in models were evaluated on


def main() -> None:
    """Detect, measure, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--json", type=Path, help="what was measured; read again where it is there")
    parser.add_argument("--card", type=Path, help="file beside the built-in model that the reference is written into")
    args = parser.parse_args()
    found = measure_once(args.json, lambda: measure_all(args.data, Predictor(find_model(args.model))))
    slides = by_slide(found)
    references = {name: reference(slides, name) for name in CLASSES}
    if args.card:
        known = read_json(args.card) if args.card.is_file() else {}
        nuclei = {name: asdict(one) for name, one in references.items()}
        write_json(args.card, {**known, "organs": ORGANS, "nuclei": nuclei})
    for line in tables(slides, references):
        print(line)


def measure_all(data: Path, predictor: Predictor) -> Iterator[dict]:
    """Areas and probabilities of the nuclei of every picture, by class."""
    for group, slide, pixels, mpp in all_pictures(data):
        nuclei = detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)[::4]))
        area = measure_shapes(rays_to_rings(nuclei.xy, nuclei.rays, (mpp, mpp)), (mpp, mpp))["area_um2"]
        of_class = {one.name: nuclei.label == number for number, one in enumerate(predictor.card.classes)}
        yield {
            "group": group,
            "slide": slide,
            "area": {name: area[own].astype(float).round(1).tolist() for name, own in of_class.items()},
            "prob": {name: nuclei.prob[own].max(1).astype(float).round(4).tolist() for name, own in of_class.items()},
        }


def all_pictures(data: Path) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """Collection, slide, pixels and um per pixel; those of the training pictures of BRCA-M2C by themselves."""
    names = (data / "brca-m2c/train.txt").read_text().split()
    training = [(data / "brca-m2c/images" / name) for name in names]
    for path in training:
        yield TRAINING, path.name.split("_")[0], read(path), 0.5
    for path in sorted({*(data / "brca-m2c/images").iterdir()} - {*training}):
        yield "BRCA-M2C, validation", path.name.split("_")[0], read(path), 0.5
    yield from (one for one in pictures(data) if one[0] not in {"BRCA-M2C", APART})
    for path in sorted((data / "orion-crc-tiles/images").glob("*.tif")):
        yield "ORION, colon", path.name[:3], read(path), 0.5
    for path in sorted((data / "oral-scc/images").glob("*.jpg")):
        yield "OCDC, mouth", path.name.split("_")[1], read(path), 0.5
    for path in sorted((data / "oesophagus-tcga-unlabelled/images").glob("*.jpg")):
        yield "TCGA, oesophagus", path.name[:12], read(path), 0.2485
    for path in sorted((data / "osteosarcoma-ut/images").glob("*.jpg")):
        yield "osteosarcoma, um per pixel estimated", path.stem.split("_")[-1][:6], read(path), 0.75


def by_slide(found: list[dict]) -> dict[tuple[str, str], dict[str, dict]]:
    """What a slide's provenance has of each class."""
    together = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for one in found:
        for name in one["area"]:
            area, prob = together[one["group"], one["slide"]][name]
            area.extend(one["area"][name])
            prob.extend(one["prob"][name])
    return {slide: {name: describe(*values) for name, values in known.items()} for slide, known in together.items()}


def describe(area: list[float], prob: list[float]) -> dict:
    """The size of nuclei as ``stitch`` describes it."""
    median, mean = (float(np.median(area)), float(np.mean(prob))) if area else (None, None)
    return {"n_nuclei": len(area), "median_area_um2": median, "mean_class_probability": mean}


def reference(slides: dict[tuple[str, str], dict[str, dict]], name: str) -> ClassReference:
    """Nuclei of a class on the training slides."""
    known = [one[name] for (group, _), one in slides.items() if group == TRAINING]
    enough = [one for one in known if one["n_nuclei"] >= MIN_NUCLEI]
    ranges = {
        key: tuple(np.percentile([one[key] for one in enough], (0, 50, 100)).round(4).tolist())
        for key in ("median_area_um2", "mean_class_probability")
    }
    return ClassReference(len(enough), **ranges)


def tables(slides: dict[tuple[str, str], dict[str, dict]], references: dict[str, ClassReference]) -> Iterator[str]:
    """The reference, then slides that are doubted by collection and class, of those with enough nuclei of the class."""
    for name, known in references.items():
        yield f"{name}: {known}"
    yield f"{'slides whose class is doubted':40}" + "".join(f"{name:>14}" for name in references)
    for group in dict.fromkeys(group for group, _ in slides):
        cells = []
        for name, known in references.items():
            enough = [one for (own, _), one in slides.items() if own == group and one[name]["n_nuclei"] >= MIN_NUCLEI]
            doubted = sum(bool(judge_classes({name: known}, one)) for one in enough)
            cells.append(f"{doubted} of {len(enough)}" if enough else "-")
        yield f"{group:40}" + "".join(f"{cell:>14}" for cell in cells)


if __name__ == "__main__":
    main()
