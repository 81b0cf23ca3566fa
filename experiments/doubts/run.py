"""How often nuclear size and class probability reveal a wrong pixel size, and how often they cast
doubt on a right one.

    python -m experiments.doubts.run --data ../shared/data --model compact --json scale.json

Every picture is judged with its true pixel size and with multiples of it, including half and
double. Pictures of the same slide are also judged together, as are all pictures of a patient in
TNBC, and all pictures of NuCLS. The mouth, the colon, Orion and osteosarcoma state no pixel size;
nuclei look like those of the breast at the assumed ones. DSB-2018 states none either, so each
picture gets the one at which its median nucleus has a radius of 3.6 um, and is left out of the
sums. Slides of immunohistochemistry are not judged.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from experiments.common.areas import EBHI_MPP, ORAL_MPP
from experiments.common.crops import bowl_mpp
from muse_pipeline.core.files import write_json
from muse_pipeline.inference.card import ClassReference
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.doubts import MIN_NUCLEI, NuclearSize, judge_scale
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.stain import fit_macenko

FACTORS = (0.5, 1.0, 1.5, 2.0)  # ratios of given and true pixel size
LONGEST_PX = 7000  # longest side of a picture at the model's mpp
APART, COLON, MOUTH, ORION, BONE = "DSB-2018", "colon", "mouth", "Orion", "osteosarcoma"
EVERY = 18  # of the pictures of the colon
SLIDES = ("wsi-cmu-small-region/CMU-1-Small-Region.svs", "wsi-openslide-crops/OS-1-detail.ome.tif")


def main() -> None:
    """Measure and judge all pictures, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    parser.add_argument(
        "--json", type=Path, help="file of the measurements; if it exists, nothing is measured"
    )
    args = parser.parse_args()
    path = find_model(args.model)
    found = measure_once(args.json, lambda: measure_all(args.data, Predictor(path)))
    for line in tables(found, read_card(path).nuclei):
        print(line)


def measure_once(path: Path | None, measure: Callable[[], Iterator[dict]]) -> list[dict]:
    """The content of the file ``path`` if it exists; otherwise the results of ``measure``, which
    are written to it.
    """
    if path and path.is_file():
        return json.loads(path.read_text())
    found = list(measure())
    if path:
        write_json(path, found)
    return found


def measure_all(data: Path, predictor: Predictor) -> Iterator[dict]:
    """Yield areas and class probabilities of the nuclei in every picture at every factor."""
    for group, slide, pixels, mpp in pictures(data):
        stain = fit_macenko(pixels.reshape(-1, 3)[::4])
        for factor in FACTORS:
            given = mpp * factor
            if given * max(pixels.shape) / predictor.card.mpp > LONGEST_PX:
                continue
            nuclei = detect_picture(predictor, pixels, given, stain)
            rings = rays_to_rings(nuclei.xy, nuclei.rays, (given, given))
            area = measure_shapes(rings, (given, given))["area_um2"].astype(float).round(2).tolist()
            prob = (
                nuclei.prob.max(1).astype(float).round(4).tolist()
                if nuclei.prob.shape[1] > 1
                else []
            )
            entry = {"group": group, "slide": slide, "factor": factor, "mpp": mpp}
            classes = [predictor.card.classes[label].name for label in nuclei.label]
            yield {**entry, "area": area, "prob": prob, "class": classes}


def pictures(data: Path) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """Yield collection, slide, pixels and true um per pixel of every picture."""
    for path in sorted((data / "brca-m2c/images").iterdir()):
        yield "BRCA-M2C", path.name.split("_")[0], read(path), 0.5
    for path in sorted((data / "nucls-cc0/images").glob("*.png")):
        yield "NuCLS", "all", read(path), 0.25
    for path in sorted((data / "tnbc-nuclei/images").glob("*.png")):
        yield "TNBC", path.name[:2], read(path), 0.25
    for path in sorted((data / "camelyon16-patches").glob("*/*.png")):
        yield "CAMELYON16", path.name.rsplit("_", 2)[0], read(path), 0.25
    for path in sorted((data / "oesophagus-tcga-unlabelled/images").iterdir()):
        yield "oesophagus", path.name[:12], read(path), 0.2485
    for path in sorted((data / "oral-scc/images").glob("*.jpg")):
        yield MOUTH, path.name.split("_")[1], read(path), ORAL_MPP
    for path in sorted((data / "ebhi-seg-colon/images").glob("*.jpg"))[::EVERY]:
        pixels = read(path)  # published as a square, but taken with an aspect ratio of 5 to 4
        yield (
            COLON,
            path.stem,
            cv2.resize(pixels, (pixels.shape[1] * 5 // 4, pixels.shape[0])),
            EBHI_MPP,
        )
    for name, folder in ((ORION, "orion-crc-tiles"), (BONE, "osteosarcoma-ut")):
        for path in sorted((data / folder / "images").iterdir())[::2]:
            yield name, path.stem, read(path), 0.5
    for path in sorted((data / "dsb2018-brightfield/images").glob("*.png")):
        mask = cv2.imread(
            str(data / "dsb2018-brightfield/labels" / path.name), cv2.IMREAD_UNCHANGED
        )
        if mask.max() >= 5:
            yield APART, path.stem, read(path), bowl_mpp(mask)
    for name in SLIDES:
        info = inspect_slide(data / name, "slide")
        with open_slide(data / name, info.reader) as slide:
            yield (
                "slides",
                Path(name).name,
                slide.read_region((0, 0), 0, info.size_px),
                float(np.mean(info.mpp)),
            )


def tables(found: list[dict], references: dict[str, ClassReference]) -> Iterator[str]:
    """Lines with the number of warnings by factor, for pictures and for slides with enough
    nuclei.
    """
    together = defaultdict(lambda: {"area": [], "prob": [], "class": []})
    for one in found:
        for name in ("area", "prob", "class"):
            together[one["group"], one["slide"], one["factor"]][name] += one[name]
        together[one["group"], one["slide"], one["factor"]]["mpp"] = one["mpp"]
    slides = [{"group": key[0], "factor": key[2], **values} for key, values in together.items()]
    for title, entries in (("pictures", found), ("slides", slides)):
        yield f"{title} of {MIN_NUCLEI} nuclei or more: warned of, by given over true um per pixel"
        yield f"{'':12}" + "".join(f"{factor:>11g}" for factor in FACTORS)
        groups = list(dict.fromkeys(one["group"] for one in entries))
        for name, chosen in [
            ("all", [g for g in groups if g != APART]),
            *((group, [group]) for group in groups),
        ]:
            cells = [f"{count(entries, chosen, factor, references):>11}" for factor in FACTORS]
            yield f"{name:12}" + "".join(cells)


def count(
    entries: list[dict], groups: list[str], factor: float, references: dict[str, ClassReference]
) -> str:
    """The number of entries with a warning, and of all entries with enough nuclei, at a factor."""
    chosen = [one for one in entries if one["factor"] == factor and one["group"] in groups]
    enough = [one for one in chosen if len(one["area"]) >= MIN_NUCLEI]
    return f"{sum(is_doubted(one, references) for one in enough)} of {len(enough)}"


def is_doubted(entry: dict, references: dict[str, ClassReference]) -> bool:
    """True if ``stitch`` would warn of the size of an entry's nuclei."""
    area, prob, classes = (np.array(entry[name]) for name in ("area", "prob", "class"))
    of_class = {name: size_of(area[classes == name], prob[classes == name]) for name in references}
    mpp = (entry["mpp"] * entry["factor"],) * 2
    return bool(judge_scale(references, size_of(area, prob), of_class, mpp))


def size_of(area: np.ndarray, prob: np.ndarray) -> NuclearSize:
    """The size of nuclei, as measured by ``stitch``."""
    if not len(area):
        return NuclearSize(0)
    return NuclearSize(len(area), float(np.median(area)), float(prob.mean()) if len(prob) else None)


def read(path: Path) -> np.ndarray:
    """(h, w, 3) uint8 RGB."""
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])


if __name__ == "__main__":
    main()
