"""Nuclei in the maps of other authors' networks, as the authors' programs and as `muse` find them.

    python -m experiments.peer_decoders.run --authors PYTHON  # compares what is not recorded
    python -m experiments.peer_decoders.run --authors PYTHON --fixtures  # writes the maps that \
        the tests read
    python -m experiments.peer_decoders.run --table                      # prints the table

PYTHON has the authors' packages (README.md). The maps are drawn from nuclei most of which touch or
overlap another one, blurred and noisy. `muse` decodes them in windows, and merges the windows at
their seams, as on a slide; nuclei at the border of a field are left out.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

from experiments.common.runs import TOP, add_run, is_recorded, read_runs, runs_of
from experiments.peer_decoders.authors import FAMILIES, restore
from experiments.peer_decoders.drawn_nuclei import draw_field
from muse_pipeline.core.types import NucleusClass
from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.detect import detect_image, detect_overlapping
from muse_pipeline.inference.maps import nuclei_of_maps
from muse_pipeline.nuclei.masks import rings_to_labels
from muse_pipeline.nuclei.pairs import suppress_overlaps
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import IDENTITY

RUNS = runs_of(__file__)
SIDE_PX, N_FIELDS = 512, 12
FIXTURES, FIXTURE_PX = TOP / "tests/inference/peer_maps", 192
WINDOW_PX, HALO_UM = 256, 12.0
COUNTED = "divided", "doubles", "others"
OF_ONE_CLASS = ("instanseg", "cellpose")
TITLES = {
    "hover": "HoVer-Net, `hover-net` 0.0.10",
    "cellvit": "CellViT, `cellvit` 1.0.9",
    "hovernext": "HoVer-NeXt, a seeded watershed",
    "stardist": "StarDist, `stardist` 0.9.2",
    "instanseg": "InstanSeg, `instanseg-torch` 0.1.2",
    "cellpose": "Cellpose, `cellpose` 4.2.1.1",
}


def main() -> None:
    """Compare what is not recorded, write fixtures, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--authors", metavar="PYTHON", help="Python with the authors' packages")
    parser.add_argument(
        "--fixtures", action="store_true", help="write the maps that the tests read"
    )
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(RUNS)))
        return
    for family in FAMILIES:
        if args.fixtures:
            decode(args.authors, family, FIXTURE_PX, 1, FIXTURES / f"{family}.npz")
        elif not is_recorded(RUNS, family=family):
            with tempfile.TemporaryDirectory() as folder:
                decoded = decode(
                    args.authors, family, SIDE_PX, N_FIELDS, Path(folder) / "decoded.npz"
                )
            add_run(RUNS, {"family": family, **compare(family, decoded)})


def decode(
    python: str, family: str, side_px: int, n_fields: int, target: Path
) -> dict[str, np.ndarray]:
    """Draw fields, and let the authors' program decode their maps into the file ``target``."""
    rng = np.random.default_rng(0)
    labels, types = zip(
        *(draw_field(side_px, mpp_of(family), rng) for _ in range(n_fields)), strict=True
    )
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn.npz"
        np.savez_compressed(drawn, labels=np.stack(labels), types=np.stack(types))
        subprocess.run(
            [python, "-W", "ignore", Path(__file__).with_name("authors.py"), family, drawn, target],
            check=True,
            env={},
        )
    return dict(np.load(target))


def mpp_of(family: str) -> float:
    """The um per pixel at which the authors' networks work."""
    return 0.5 if family == "instanseg" else 0.25


class MapReader:
    """Stands for a network: finds the position of a window in its pixels
    (``encode_positions``), and its maps there.
    """

    any_size = False

    def __init__(self, family: str, decoded: dict[str, np.ndarray], field: int):
        self.maps, side_px = (
            [values[field] for values in read_maps(decoded)],
            decoded["labels"].shape[1],
        )
        self.stride_px = side_px // self.maps[0].shape[1]
        self.card = read_card(family, self.maps, self.stride_px, read_classifier(decoded))

    def __call__(self, pixels: np.ndarray, colour: np.ndarray) -> list:
        """The nuclei of windows."""
        low, other, high = np.moveaxis(
            pixels[:, :: self.stride_px, :: self.stride_px].astype(int), -1, 0
        )
        rows, columns = low + 256 * (high >> 4), other + 256 * (high & 15)
        at = rows // self.stride_px, columns // self.stride_px
        return nuclei_of_maps(
            [np.moveaxis(values[:, *at], 0, 1) for values in self.maps], self.card
        )


def read_card(
    family: str, maps: list[np.ndarray], stride_px: int, classifier: tuple = ()
) -> ImportedCard:
    """The card of a network with these maps (C, h, w)."""
    n_classes, mpp = 1 if family in OF_ONE_CLASS else 3, mpp_of(family)
    return ImportedCard(
        name=family,
        kind=family,
        maps=tuple(str(index) for index in range(len(maps))),
        scaling="none",
        mpp=mpp,
        input_px=WINDOW_PX,
        halo_px=round(HALO_UM / mpp),
        stride_px=stride_px,
        batch=1,
        capacity=WINDOW_PX**2 // 16,
        n_rays=32,
        readout="pixel",
        classes=tuple(NucleusClass(name, (0, 0, 0)) for name in "ABC"[:n_classes]),
        threshold=0.7 if family == "instanseg" else 0.5,
        classifier=classifier,
        licence="",
        training_data="",
    )


def encode_positions(side_px: int) -> np.ndarray:
    """(h, w, 3) uint8: pixels that state their row and column."""
    rows, columns = np.mgrid[:side_px, :side_px]
    return np.stack([rows & 255, columns & 255, (rows >> 8) * 16 + (columns >> 8)], -1).astype(
        np.uint8
    )


def read_maps(decoded: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The maps (N, C, h, w) float32 of a file of ``authors.py``."""
    names = [name.removeprefix("range of ") for name in decoded if name.startswith("range of ")]
    return [restore(decoded[name], *decoded[f"range of {name}"]) for name in names]


def read_classifier(decoded: dict[str, np.ndarray]) -> tuple[tuple[float, ...], ...]:
    """InstanSeg's pixel classifier in a file of ``authors.py``."""
    return tuple(
        tuple(decoded[name].tolist()) for name in sorted(decoded) if name.startswith("classifier")
    )


def compare(family: str, decoded: dict[str, np.ndarray]) -> dict:
    """IoU of every nucleus of the authors, the share whose class is the same, and counts of nuclei.

    ``cut_iou`` is the IoU after overlaps are divided, as in the outlines of a run. Counted are
    nuclei of the authors that are divided here, nuclei that are found twice, and nuclei where the
    authors find none.
    """
    ious, cut_ious, same, counts = [], [], [], np.zeros(3, int)
    for field, (labels, types) in enumerate(zip(decoded["labels"], decoded["types"], strict=True)):
        reader = MapReader(family, decoded, field)
        nuclei, cut = (
            find(reader, encode_positions(len(labels)), IDENTITY)
            for find in (detect_overlapping, detect_image)
        )
        shares, cut_shares = (overlaps(each, labels, reader.card.mpp) for each in (nuclei, cut))
        inner = np.setdiff1d(np.arange(1, labels.max() + 1), at_border(labels))
        best = shares[:, inner, 0].argmax(0)
        ious += shares[best, inner, 0].tolist()
        cut_ious += cut_shares[:, inner, 0].max(0).tolist()
        same += (nuclei.label[best] + 1 == types[inner]).tolist()
        inside = shares[:, 1:, 1] > 0.5
        counts[0] += (inside[:, inner - 1].sum(0) > 1).sum()
        ranked = nuclei[np.argsort(-nuclei.score, kind="stable")]
        counts[1] += len(ranked) - len(suppress_overlaps(ranked, reader.card.mpp))
        counts[2] += (~inside.any(1) & ~touches_border(nuclei, len(labels), reader.card.mpp)).sum()
    rounded = {
        name: np.round(each, 3).tolist() for name, each in (("iou", ious), ("cut_iou", cut_ious))
    }
    return {**rounded, "same": np.mean(same), **dict(zip(COUNTED, counts.tolist(), strict=True))}


def overlaps(nuclei: Nuclei, labels: np.ndarray, mpp: float) -> np.ndarray:
    """(N, M + 1, 2): IoU of N nuclei with each number of a label image, and the share of the
    nucleus in it.
    """
    whole = np.bincount(labels.ravel())
    result = np.zeros((len(nuclei), len(whole), 2))
    for index, ring in enumerate(rings_of(nuclei, mpp)):
        left, top = np.floor(ring.min(0)).astype(int).clip(0)
        right, bottom = np.ceil(ring.max(0)).astype(int) + 1
        part = labels[top:bottom, left:right]
        own = rings_to_labels(ring[None] - (left, top), part.shape) > 0
        shared = np.bincount(part[own], minlength=len(whole))
        result[index, 1:] = np.stack(
            [shared / (own.sum() + whole - shared), shared / max(own.sum(), 1)], 1
        )[1:]
    return result


def rings_of(nuclei: Nuclei, mpp: float) -> np.ndarray:
    """Outlines (N, R, 2) in px."""
    return rays_to_rings(nuclei.xy, nuclei.rays, (mpp, mpp))


def at_border(labels: np.ndarray, width: int = 3) -> np.ndarray:
    """Numbers near the border of a label image."""
    frame = np.ones(labels.shape, bool)
    frame[width:-width, width:-width] = False
    return np.unique(labels[frame])


def touches_border(nuclei: Nuclei, side_px: int, mpp: float, width: int = 3) -> np.ndarray:
    """(N,) bool: nuclei near the border of a field."""
    rings = rings_of(nuclei, mpp)
    return ((rings < width) | (rings > side_px - width)).any((1, 2))


def render_table(runs: list[dict]) -> str:
    """The table of all families."""
    rows = [
        (
            "| decoded by | nuclei | IoU >= .9 | median IoU | without overlaps | same class |"
            " divided | doubles | others |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in sorted(runs, key=lambda run: list(TITLES).index(run["family"])):
        iou, cut = np.array(run["iou"]), np.array(run["cut_iou"])
        shares = f"{(iou >= 0.9).mean():.1%} | {np.median(iou):.3f} | {(cut >= 0.9).mean():.1%}"
        cells = len(iou), shares, f"{run['same']:.1%}", *(run[name] for name in COUNTED)
        rows.append(f"| {TITLES[run['family']]} | {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
