"""How often classes are doubted because of the size of their nuclei, and the range of these sizes
in training pictures.

    python -m experiments.doubts.class_sizes --data ../shared/data --model compact --json \
        class_sizes.json
    python -m experiments.doubts.class_sizes --data ../shared/data --model compact \
        --card muse_pipeline/inference/built_in/compact.json

The range comes from the training pictures of BRCA-M2C, for slides with enough nuclei of the class;
``--card`` writes it to the card of the built-in model. All other pictures show how often sound
tissue is doubted. Pictures of the same slide are judged together, or of the same patient if
pictures do not name their slide.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from experiments.doubts.run import APART, BONE, COLON, ORION, measure_once, pictures, read
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
CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
MIXED = ("Stroma",)  # everything else; the size of its nuclei proves nothing about the class
ORGANS = ("breast",)  # organs of the pictures that the built-in models were evaluated on


def main() -> None:
    """Measure and judge all slides, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument(
        "--json", type=Path, help="file of the measurements; if it exists, nothing is measured"
    )
    parser.add_argument(
        "--card", type=Path, help="file next to the built-in model, to which the ranges are written"
    )
    args = parser.parse_args()
    found = measure_once(
        args.json, lambda: measure_all(args.data, Predictor(find_model(args.model)))
    )
    slides = by_slide(found)
    references = {name: reference(slides, name) for name in CLASSES}
    if args.card:
        known = read_json(args.card) if args.card.is_file() else {}
        nuclei = {
            name: {key: value for key, value in asdict(one).items() if value is not None}
            for name, one in references.items()
        }
        write_json(args.card, {"organs": ORGANS, **known, "nuclei": nuclei})
    for line in tables(slides, references):
        print(line)


def measure_all(data: Path, predictor: Predictor) -> Iterator[dict]:
    """Yield areas and class probabilities of the nuclei in every picture, by class."""
    for group, slide, pixels, mpp in all_pictures(data):
        nuclei = detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)[::4]))
        area = measure_shapes(rays_to_rings(nuclei.xy, nuclei.rays, (mpp, mpp)), (mpp, mpp))[
            "area_um2"
        ]
        of_class = {
            one.name: nuclei.label == number for number, one in enumerate(predictor.card.classes)
        }
        yield {
            "group": group,
            "slide": slide,
            "area": {
                name: area[own].astype(float).round(1).tolist() for name, own in of_class.items()
            },
            "prob": {
                name: nuclei.prob[own].max(1).astype(float).round(4).tolist()
                for name, own in of_class.items()
            },
        }


def all_pictures(data: Path) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """Yield collection, slide, pixels and um per pixel of every picture.

    Training and validation pictures of BRCA-M2C are separate collections.
    """
    names = (data / "brca-m2c/train.txt").read_text().split()
    training = [(data / "brca-m2c/images" / name) for name in names]
    for path in training:
        yield TRAINING, path.name.split("_")[0], read(path), 0.5
    for path in sorted({*(data / "brca-m2c/images").iterdir()} - {*training}):
        yield "BRCA-M2C, validation", path.name.split("_")[0], read(path), 0.5
    yield from (
        one for one in pictures(data) if one[0] not in {"BRCA-M2C", COLON, APART, ORION, BONE}
    )
    for path in sorted((data / "orion-crc-tiles/images").glob("*.tif")):
        yield "ORION, colon", path.name[:3], read(path), 0.5
    for path in sorted((data / "oesophagus-tcga-unlabelled/images").glob("*.jpg")):
        yield "TCGA, oesophagus", path.name[:12], read(path), 0.2485
    for path in sorted((data / "osteosarcoma-ut/images").glob("*.jpg")):
        yield "osteosarcoma, um per pixel estimated", path.stem.split("_")[-1][:6], read(path), 0.75


def by_slide(found: list[dict]) -> dict[tuple[str, str], dict[str, dict]]:
    """Sizes of nuclei by slide and class, as in the provenance of a slide."""
    together = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for one in found:
        for name in one["area"]:
            area, prob = together[one["group"], one["slide"]][name]
            area.extend(one["area"][name])
            prob.extend(one["prob"][name])
    return {
        slide: {name: describe(*values) for name, values in known.items()}
        for slide, known in together.items()
    }


def describe(area: list[float], prob: list[float]) -> dict:
    """The size of nuclei, as recorded by ``stitch``."""
    median, mean = (float(np.median(area)), float(np.mean(prob))) if area else (None, None)
    return {"n_nuclei": len(area), "median_area_um2": median, "mean_class_probability": mean}


def reference(slides: dict[tuple[str, str], dict[str, dict]], name: str) -> ClassReference:
    """Range of the nuclei's size and probability over the training slides with enough nuclei of
    a class.
    """
    known = [one[name] for (group, _), one in slides.items() if group == TRAINING]
    enough = [one for one in known if one["n_nuclei"] >= MIN_NUCLEI]
    keys = ["median_area_um2", *([] if name in MIXED else ["mean_class_probability"])]
    ranges = {
        key: tuple(np.percentile([one[key] for one in enough], (0, 50, 100)).round(4).tolist())
        for key in keys
    }
    return ClassReference(len(enough), **ranges)


def tables(
    slides: dict[tuple[str, str], dict[str, dict]], references: dict[str, ClassReference]
) -> Iterator[str]:
    """Lines of the references, then of the slides doubted by collection and class, if they have
    enough nuclei.
    """
    for name, known in references.items():
        yield f"{name}: {known}"
    yield f"{'slides whose class is doubted':40}" + "".join(f"{name:>14}" for name in references)
    for group in dict.fromkeys(group for group, _ in slides):
        cells = []
        for name, known in references.items():
            enough = [
                one
                for (own, _), one in slides.items()
                if own == group and one[name]["n_nuclei"] >= MIN_NUCLEI
            ]
            doubted = sum(bool(judge_classes({name: known}, one)) for one in enough)
            cells.append(f"{doubted} of {len(enough)}" if enough else "-")
        yield f"{group:40}" + "".join(f"{cell:>14}" for cell in cells)


if __name__ == "__main__":
    main()
