"""How often slides are flagged as unlike the training pictures, rightly and wrongly.

    python -m experiments.appearance.run --data ../shared/data --json confidence.json

For false alarms, a site of BRCA-M2C is left out and its pictures are judged by the ranges of the
other two sites. Everything else is judged by the ranges of all training pictures of the built-in
model: other collections, and every fifth picture of BRCA-M2C, blurred or recoloured (also judged by
the ranges of the other two sites). Unknown pixel sizes are assumed to be 0.5 um.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.files import write_json
from muse_pipeline.core.provenance import FLAGGED
from muse_pipeline.inference.card import AppearanceReference
from muse_pipeline.inference.doubts import describe_training, judge_appearance
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.tissue.colour import AppearanceSample, SlideColour, cut_fields, measure_picture
from muse_pipeline.tissue.stain import fit_macenko, optical_density

MPP = 0.5
SITES = ("A7", "A8", "AC")
EVERY = 5
BLURS_UM = (0.5, 0.75, 1.0, 1.5, 2.0)
GAINS = {  # factors of the optical densities of red, green and blue
    "recoloured brown": (0.6, 0.9, 1.5),
    "recoloured green": (1.0, 0.7, 1.2),
    "recoloured blue": (1.4, 1.0, 0.5),
    "recoloured red": (0.5, 1.0, 0.9),
    "paler, 0.4 of the density": (0.4, 0.4, 0.4),
    "darker, 1.8 of the density": (1.8, 1.8, 1.8),
}


def main() -> None:
    """Measure and judge all pictures, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--json", type=Path, help="file of the measurements; if it exists, nothing is measured"
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.json and args.json.is_file():
        measured = json.loads(args.json.read_text())
    else:
        measured = measure_all(args.data)
        if args.json:
            write_json(args.json, measured)
    for line in tables(measured):
        print(line)


def measure_all(data: Path) -> list[dict]:
    """Kind, name, site ("" if unknown) and measurements of every picture or slide."""
    found = []
    for path in sorted((data / "brca-m2c/images").iterdir()):
        found.append(entry("BRCA-M2C", path.name, measure_picture(read(path), MPP)))
    for number, path in enumerate(sorted((data / "brca-m2c/images").iterdir())):
        if number % EVERY == 0:
            pixels = read(path)
            found += [
                entry(kind, path.name, measure_picture(one, MPP)) for kind, one in changed(pixels)
            ]
    for path in sorted((data / "nucls-cc0/images").glob("*.png")):
        found.append(entry("NuCLS", path.name, measure_picture(read(path), 0.25)))
    slides = defaultdict(list)
    for path in sorted((data / "camelyon16-patches").glob("*/*.png")):
        slides["CAMELYON16, by slide", path.name.rsplit("_", 2)[0]].append((read(path), 0.25))
    for path in sorted((data / "orion-crc-tiles/images").glob("*.tif")):
        slides["ORION, by case", path.name[:3]].append((read(path), MPP))
    for path in sorted((data / "dsb2018-brightfield/images").glob("*.png")):
        found.append(entry("DSB-2018", path.name, measure_picture(read(path), MPP)))
    return found + [
        entry(kind, name, measure_slide(pictures)) for (kind, name), pictures in slides.items()
    ]


def entry(kind: str, name: str, measures: dict[str, float]) -> dict:
    """The entry of a picture or slide."""
    site = name[5:7] if name.startswith("TCGA-") and kind != "NuCLS" else ""
    return {"kind": kind, "name": name, "site": site, "measures": measures}


def measure_slide(pictures: Iterable[tuple[np.ndarray, float]]) -> dict[str, float]:
    """Measure several pictures as one slide."""
    sample = AppearanceSample(MPP)
    for pixels, mpp in pictures:
        factor = round(MPP / mpp)
        size = pixels.shape[1] // factor, pixels.shape[0] // factor
        for field in cut_fields(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), MPP):
            sample.add(np.ascontiguousarray(field), np.ones(field.shape[:2], bool))
    return sample.measure(fit_macenko(sample.pixels))


def changed(pixels: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    """Yield the picture blurred, recoloured, without colour, and inverted."""
    for sigma_um in BLURS_UM:
        yield f"blurred by {sigma_um:g} um", cv2.GaussianBlur(pixels, (0, 0), sigma_um / MPP)
    for kind, gain in GAINS.items():
        yield (
            kind,
            np.clip(256 * np.exp(-optical_density(pixels) * gain) - 1, 0, 255).astype(np.uint8),
        )
    yield "grey", np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    yield "inverted", 255 - pixels


def tables(measured: list[dict]) -> Iterable[str]:
    """Lines of the tables: left-out sites, then everything else."""
    pictures = [one for one in measured if one["kind"] == "BRCA-M2C"]
    two = {site: reference_of([one for one in pictures if one["site"] != site]) for site in SITES}
    yield "site left out: flagged of its pictures, and why"
    for site in SITES:
        yield row(
            site, [one for one in pictures if one["site"] == site], lambda one: two[one["site"]]
        )
    built_in = read_card(find_model("compact")).appearance
    yield "against all training pictures of compact"
    for kind in dict.fromkeys(one["kind"] for one in measured):
        chosen = [one for one in measured if one["kind"] == kind]
        yield row(kind, chosen, lambda one: built_in)
        if chosen[0]["site"] and kind != "BRCA-M2C":
            yield row(f"{kind}, two other sites", chosen, lambda one: two[one["site"]])


def reference_of(entries: list[dict]) -> AppearanceReference:
    """The reference that a model trained on these pictures would have."""
    return describe_training([one["measures"] for one in entries])


def row(title: str, entries: list[dict], reference: Callable[[dict], AppearanceReference]) -> str:
    """A line with the number of flagged entries and the most frequent reasons."""
    verdicts = [
        judge_appearance(reference(one), SlideColour(appearance=one["measures"])) for one in entries
    ]
    n = sum(verdict.verdict == FLAGGED for verdict in verdicts)
    why = Counter(
        part for verdict in verdicts for reason in verdict.reasons for part in _parts(reason)
    )
    return f"{title:46} {n:3} of {len(entries):3}  " + ", ".join(
        f"{word} {k}" for word, k in why.most_common(6)
    )


def _parts(reason: str) -> list[str]:
    return reason.split(": ", 1)[-1].split(", ")


def read(path: Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB."""
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])


if __name__ == "__main__":
    main()
