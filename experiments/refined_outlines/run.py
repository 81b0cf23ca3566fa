"""A small network that refines outlines: trained on outlines drawn by hand, scored on pictures left
out of training.

    git show 5c19ec26:muse_pipeline/inference/built_in/compact-fp32.onnx >
        runs/refined_outlines/first-stage.onnx git show
        0e7e4a17:muse_pipeline/inference/built_in/compact-fp32.onnx >
        runs/refined_outlines/fourth-stage.onnx python -m experiments.refined_outlines.run --data
        DATA    # trains and scores what is not recorded python -m experiments.refined_outlines.run
        --table        # prints the table python -m experiments.refined_outlines.run --data DATA
        --export refine.onnx

A wide network, the teacher, is trained on nuclei of TNBC, NuCLS and DSB-2018 with outlines drawn by
hand. Its inputs are the outlines of `label_free` and of the first stage of `compact`, which was
trained on hand-drawn outlines of NuCLS only; each outline is used unchanged, and moved, scaled and
bent at random. A narrow network, the student, which is exported and has only every second ray, is
trained on the same nuclei and on the teacher's outlines in these pictures and in those of BRCA-M2C,
Orion and CAMELYON16. A fold leaves its pictures out of both trainings, and is scored with
`label_free` and with stages of `compact` that were not trained on its pictures either. A fold takes
a quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import shapely
import torch
from torch import Tensor, nn

from experiments.common.crops import MPP, network_finder
from experiments.common.outlines import MEASURES, SETS, count_crop
from experiments.common.runs import add_run, change_from, is_recorded, read_runs, runs_of
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.export.onnx import write_graph
from muse_pipeline.inference.card import REFINER_DATA
from muse_pipeline.inference.detect import detect_overlapping
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.outlines import (
    BLOCK,
    LEAST_UM,
    N_REFINED,
    N_STEPS,
    STEP_UM,
    OutlineRefiner,
    sample_along_rays,
)
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.nuclei.masks import march_rays
from muse_pipeline.nuclei.rays import polygons_to_rays, rays_to_rings
from muse_pipeline.tissue.stain import fit_macenko

RUNS = runs_of(__file__)
DETECTORS = ("first-stage.onnx", "label_free")  # their outlines are refined in training
WORK_MPP = 0.5
VIEWS = {
    "tnbc": 48,
    "nucls": 96,
    "dsb2018": 24,
    "unlabelled": 4,
}  # number of views of each picture, by kind
WIDTH, STEPS = {"teacher": 48, "student": 16}, {"teacher": 4000, "student": 8000}
N_LAYERS, KERNEL, BATCH, RATE, DECAY = 3, 5, 512, 3e-3, 1e-2
# fraction of a batch whose pixels are made uniform, so that outlines without an edge are kept
FLAT = 0.05
WHITE_PX = (
    16  # white margin around half of the views, like the one that a detector puts around a picture
)
MIN_DICE = (
    0.5  # minimum Dice of an outline and the true one; below it they belong to different nuclei
)
MEAN_UM, FAINTEST = (
    4.0,
    0.03,
)  # mean length of rays; density added to the deviation by which densities are divided
FOLDS = {  # set and patients that a fold leaves out; all patients if empty
    "TNBC 01 02 04": ("tnbc", ("01", "02", "04")),
    "TNBC 05 06 08 09": ("tnbc", ("05", "06", "08", "09")),
    "NuCLS": ("nucls", ()),
    "DSB-2018": ("dsb2018", ()),
}
# networks that a fold is scored with; those with a suffix are files in the folder of the runs
SCORED = {
    "TNBC 01 02 04": ("first-stage.onnx", "second-stage.onnx", "label_free"),
    "TNBC 05 06 08 09": ("first-stage.onnx", "label_free"),
    "NuCLS": ("label_free",),
    "DSB-2018": ("fourth-stage.onnx", "label_free"),
}
SNAP_UM = {"label_free": 1.5}  # snap_um by network; 1 for all others
OUTLINES = ("of the network", "on edges", "refined")


@dataclass(frozen=True)
class Picture:
    """A picture, with or without outlines drawn by hand.

    Attributes:
        pixels: (h, w, 3) uint8.
        mpp: um per pixel.
        kind: key of the picture in ``VIEWS``.
        instances: instance mask (h, w) int32 of outlines drawn by hand; None if there are none.
    """

    pixels: np.ndarray
    mpp: float
    kind: str
    instances: np.ndarray | None = None


@dataclass(frozen=True)
class Examples:
    """Training examples: S pixels along each ray (N, 3, S, R) uint8, and rays and true rays (N,
    R) float32 um.
    """

    samples: np.ndarray
    rays: np.ndarray
    true: np.ndarray

    @staticmethod
    def join(parts: list[Examples]) -> Examples:
        """The examples of all parts."""
        return Examples(
            *(
                np.concatenate(each)
                for each in zip(*(vars(part).values() for part in parts), strict=True)
            )
        )

    def thin(self) -> Examples:
        """The examples with only the rays that the narrow network refines."""
        every = self.rays.shape[1] // N_REFINED
        return Examples(
            *(np.ascontiguousarray(values[..., ::every]) for values in vars(self).values())
        )


class RefiningNetwork(nn.Module):
    """A network that predicts the change of each ray of a nucleus from densities near the ends of
    the rays.

    It convolves features of adjacent rays around the nucleus.
    """

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(3 * (2 * N_STEPS + 1) + 2, width, 1)
        self.whole = nn.Conv2d(width, width, 1)
        self.around = nn.ModuleList(nn.Conv2d(width, width, (1, KERNEL)) for _ in range(N_LAYERS))
        self.last = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, density: Tensor, rays: Tensor) -> Tensor:
        """Changes (N, R) um of ``rays`` (N, R) um, from ``density`` (3, S, N, R)."""
        density = density - density.mean((1, 3), keepdim=True)
        density = density / (density.square().mean((0, 1, 3), keepdim=True).sqrt() + FAINTEST)
        rays = rays.clamp(min=LEAST_UM)
        shape = torch.stack([torch.log(rays / MEAN_UM), rays / rays.mean(1, keepdim=True) - 1])
        x = torch.cat([density.flatten(0, 1), shape])[None]  # (1, C, N, R)
        x = torch.relu(self.first(x))
        x = x + self.whole(x.mean(3, keepdim=True))
        margin = KERNEL // 2
        for around in self.around:
            x = x + torch.relu(around(torch.cat([x[..., -margin:], x, x[..., :margin]], -1)))
        return self.last(x)[0, 0].clamp(-N_STEPS * STEP_UM, N_STEPS * STEP_UM)


def main() -> None:
    """Train and score the missing folds, print the table, or export a network trained on all
    pictures.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=list(FOLDS))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/refined_outlines"), help="folder of the networks"
    )
    parser.add_argument(
        "--export", type=Path, metavar="ONNX", help="train on all pictures and write the network"
    )
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(RUNS)))
        return
    if args.data is None:
        parser.error("give --data")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.export:
        train(args.data, args.work, None, args.export)
        return
    for fold in args.folds:
        if not is_recorded(RUNS, fold=fold):
            model = args.work / f"{fold.replace(' ', '-').lower()}.onnx"
            if not model.is_file():
                train(args.data, args.work, fold, model)
            add_run(RUNS, score(args.data, fold, args.work, OutlineRefiner(model)))


def is_left_out(kind: str, patient: str, fold: str | None) -> bool:
    """True if a picture of this kind and patient is left out by the fold."""
    if fold is None:
        return False
    held, patients = FOLDS[fold]
    return kind == held and (not patients or patient in patients)


def train(data: Path, runs: Path, fold: str | None, output: Path) -> None:
    """Train both networks on all pictures except those of the fold, and export the narrow one."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    drawn = [
        Picture(pixels, MPP, kind, instances)
        for kind, read in SETS.items()
        for _, patient, pixels, instances in read(data)
        if not is_left_out(kind, patient, fold)
    ]
    detectors = [load_network(name, runs) for name in DETECTORS]
    examples = partial(make_examples, detectors=detectors, rng=rng)
    known = Examples.join([each for picture in drawn for each in examples(picture)])
    teacher = fit(RefiningNetwork(WIDTH["teacher"]), [known], STEPS["teacher"], rng)
    others = [
        dataclasses.replace(each, kind="unlabelled", instances=None) for each in drawn
    ] + read_unlabelled(data)
    found = [each for picture in others for each in examples(picture, teacher=teacher)]
    parts = [known.thin(), Examples.join(found).thin()]
    student = fit(RefiningNetwork(WIDTH["student"]), parts, STEPS["student"], rng)
    output.parent.mkdir(parents=True, exist_ok=True)
    export(student, output)


def read_unlabelled(data: Path) -> list[Picture]:
    """Pictures without outlines drawn by hand."""
    folders = {
        "brca-m2c/images/*.png": 0.5,
        "orion-crc-tiles/images/*.tif": 0.5,
        "camelyon16-patches/*/*.png": 0.25,
    }
    return [
        Picture(read_rgb(path), mpp, "unlabelled")
        for folder, mpp in folders.items()
        for path in sorted(data.glob(folder))
    ]


def load_network(name: str, runs: Path) -> Predictor:
    """A built-in network or one in the folder of the runs, without the refinement of outlines."""
    predictor = Predictor(find_model(str(runs / name) if name.endswith(".onnx") else name))
    predictor.card, predictor.refiner = (
        dataclasses.replace(predictor.card, snap_um=0.0, refine=False),
        None,
    )
    return predictor


def make_examples(
    picture: Picture,
    detectors: list[Predictor],
    rng: np.random.Generator,
    teacher: RefiningNetwork | None = None,
) -> Iterator[Examples]:
    """Examples from views of a picture; true outlines are those of ``teacher`` if given,
    otherwise hand-drawn.
    """
    stain = fit_macenko(picture.pixels.reshape(-1, 3))
    for number in range(VIEWS[picture.kind]):
        detector, (pixels, instances, mpp) = (
            detectors[number % len(detectors)],
            draw_view(picture, rng),
        )
        found = detect_overlapping(detector, pixels, colour_of_fit(detector.card.colour, stain))
        xy, rays = found.xy, np.asarray(found.rays, np.float32)
        if instances is not None:
            ratio = np.array(instances.shape[::-1]) / pixels.shape[1::-1]
            kept, true = true_rays(instances, xy * ratio, found.score, rays.shape[1], mpp)
            xy, rays = xy[kept], rays[kept]
        if not len(xy):
            continue
        margin = WHITE_PX * int(rng.integers(2))
        framed = cv2.copyMakeBorder(
            pixels, *[margin] * 4, cv2.BORDER_CONSTANT, value=(255, 255, 255)
        )
        for centres, outline in ((xy, rays), disturb(xy, rays, rng)):
            samples = sample_along_rays(framed, centres + margin, outline, WORK_MPP).transpose(
                2, 0, 1, 3
            )
            if teacher:
                yield Examples(samples, outline, refine(teacher, samples, outline))
                continue
            polygons = shapely.polygons(rays_to_rings(xy, true, (WORK_MPP, WORK_MPP)))
            _, target = polygons_to_rays(polygons, outline.shape[1], (WORK_MPP, WORK_MPP), centres)
            good = (target > 0).all(1) & (dice(outline, target) > MIN_DICE)
            yield Examples(samples[good], outline[good], target[good])


def draw_view(
    picture: Picture, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Augment a picture at random: rotate, mirror, blur, scale and compress it.

    Returns:
        The pixels, scaled and at 0.5 um/px; the instances, only rotated and mirrored; and the
            instances' um per pixel.
    """
    scale, turns, mirrored = (
        np.exp(rng.uniform(np.log(0.7), np.log(1.4))),
        rng.integers(4),
        rng.random() < 0.5,
    )
    pixels, instances = (
        (
            None
            if each is None
            else np.ascontiguousarray(np.rot90(each[:, :: -1 if mirrored else 1], turns))
        )
        for each in (picture.pixels, picture.instances)
    )
    if rng.random() < 0.4:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.1, 0.4) / picture.mpp)
    factor = picture.mpp * scale / WORK_MPP
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=how)
    if rng.random() < 0.3:
        _, file = cv2.imencode(
            ".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 90))]
        )
        pixels = cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)
    return pixels, instances, picture.mpp * scale


def true_rays(
    instances: np.ndarray, xy: np.ndarray, score: np.ndarray, n_rays: int, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Match points to instances that do not touch the border, each to its point with the highest
    score.

    Returns:
        Indices of the matched points (M,), and the rays of their instances from there (M, n_rays).
    """
    cut = {0, *instances[0], *instances[-1], *instances[:, 0], *instances[:, -1]}
    column, row = np.floor(xy).astype(int).clip(0, np.array(instances.shape[::-1]) - 1).T
    surest: dict[int, int] = {}
    for number in np.argsort(-score, kind="stable"):
        if (name := instances[row[number], column[number]]) not in cut:
            surest.setdefault(name, number)
    kept, ranks = np.array([*surest.values()], int), np.zeros(instances.max() + 1, np.int32)
    ranks[[*surest]] = np.arange(1, len(kept) + 1)
    true = march_rays(ranks[instances], xy[kept], (mpp, mpp), n_rays)
    good = np.isfinite(true).all(1) & (true > 0).all(1)
    return kept[good], true[good]


def disturb(
    xy: np.ndarray, rays: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Centres moved at random, and their outlines scaled and bent at random."""
    n, angles = (len(rays), 1), 2 * np.pi * np.arange(rays.shape[1]) / rays.shape[1]
    waves = (
        rng.normal(0, size, n) * np.cos(order * angles - rng.uniform(0, 2 * np.pi, n))
        for order, size in ((2, 0.07), (3, 0.04))
    )
    changed = rays * np.exp(rng.normal(0, 0.13, n)) * (1 + sum(waves))
    return xy + rng.normal(0, 0.15, xy.shape) * rays.mean(
        1, keepdims=True
    ) / WORK_MPP, changed.astype(np.float32)


def fit(
    network: RefiningNetwork, parts: list[Examples], steps: int, rng: np.random.Generator
) -> RefiningNetwork:
    """Train a network on batches with equal numbers of examples from all parts, and return it."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        drawn = [(part, rng.integers(len(part.rays), size=BATCH // len(parts))) for part in parts]
        samples, rays, true = (
            torch.from_numpy(
                np.concatenate([getattr(part, name)[chosen] for part, chosen in drawn])
            )
            for name in ("samples", "rays", "true")
        )
        samples, rays, true = turn(samples, rays, true, rng=rng)
        flat = torch.from_numpy(rng.random(len(rays)) < FLAT)
        samples[flat], true[flat] = (
            samples[flat].float().mean((2, 3), keepdim=True).to(torch.uint8),
            rays[flat],
        )
        refined = (rays + network(stain_at_random(samples, rng), rays)).clamp(min=LEAST_UM)
        loss = lost_overlap(refined, true)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def stain_at_random(samples: Tensor, rng: np.random.Generator) -> Tensor:
    """Densities (3, S, N, R) of samples (N, 3, S, R) uint8, with random gains of the channels
    and noise per nucleus.
    """
    n = len(samples)
    gain, added, noise = (
        torch.from_numpy(values).float()
        for values in (
            np.exp(rng.normal(0, 0.2, (n, 3, 1, 1))),
            rng.normal(0, 0.04, (n, 3, 1, 1)),
            rng.uniform(0, 8, (n, 1, 1, 1)),
        )
    )
    changed = (
        256 * torch.exp(-to_density(samples) * gain - added)
        - 1
        + noise * torch.randn(samples.shape)
    )
    return to_density(changed.clamp(0, 255)).permute(1, 2, 0, 3)


def to_density(pixels: Tensor) -> Tensor:
    """Optical density as in ``tissue.stain.DENSITY``, including fractional values from 0 to 255."""
    return -torch.log((pixels.float() + 1) / 256)


def turn(*values: Tensor, rng: np.random.Generator) -> list[Tensor]:
    """Values (..., R) of rays, renumbered from a random ray and in a random direction."""
    first, mirrored = int(rng.integers(values[0].shape[-1])), rng.random() < 0.5
    turned = [value.roll(first, -1) for value in values]
    return [value.flip(-1) for value in turned] if mirrored else turned


def lost_overlap(rays: Tensor, true: Tensor) -> Tensor:
    """1 minus the mean intersection over union of outlines (N, R) with the same centres."""
    inner, outer = torch.minimum(rays, true), torch.maximum(rays, true)
    return 1 - (inner.square().sum(1) / outer.square().sum(1)).mean()


def dice(rays: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice (N,) of outlines (N, R) with the same centres."""
    return (
        2
        * (np.minimum(rays, true) ** 2).sum(1)
        / np.maximum((rays**2).sum(1) + (true**2).sum(1), 1e-6)
    )


@torch.no_grad()
def refine(network: RefiningNetwork, samples: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Rays (N, R) um refined by a network from samples (N, 3, S, R) uint8."""
    rays, density = (
        torch.from_numpy(rays),
        to_density(torch.from_numpy(samples)).permute(1, 2, 0, 3),
    )
    return (rays + network(density, rays)).clamp(min=LEAST_UM).numpy()


def export(network: RefiningNetwork, output: Path) -> None:
    """Write the graph for blocks of nuclei, with its licence and training data."""
    density, rays = (
        torch.zeros(3, 2 * N_STEPS + 1, BLOCK, N_REFINED),
        torch.full((BLOCK, N_REFINED), MEAN_UM),
    )
    names = {"input_names": ["density", "rays"], "output_names": ["change"]}
    graph = torch.onnx.export(
        network, (density, rays), **names, dynamo=True, verbose=False
    ).model_proto
    facts = {
        "licence": "Apache-2.0",
        "training_data": (
            f"{REFINER_DATA}; pixels of BRCA-M2C (BSD-3-Clause), Orion (MIT) and CAMELYON16"
            " (CC0-1.0)"
        ),
    }
    write_graph(graph, facts, output)


def score(data: Path, fold: str, runs: Path, refiner: OutlineRefiner) -> dict:
    """Counts for each crop of the fold, by network and kind of outlines."""
    kind, _ = FOLDS[fold]
    crops = [crop for crop in SETS[kind](data) if is_left_out(kind, crop[1], fold)]
    found: dict = {"fold": fold, "patients": [crop[1] for crop in crops], "counts": {}}
    for name in SCORED[fold]:
        predictor = load_network(name, runs)
        kinds = (0.0, None), (SNAP_UM.get(name, 1.0), None), (0.0, refiner)
        for outlines, (snap_um, refine_by) in zip(OUTLINES, kinds, strict=True):
            predictor.card = dataclasses.replace(predictor.card, snap_um=snap_um)
            predictor.refiner = refine_by
            find = network_finder(predictor)
            counts = [count_crop(find(pixels), true) for _, _, pixels, true in crops]
            found["counts"].setdefault(Path(name).stem, {})[outlines] = counts
    return found


def render_table(runs: list[dict]) -> str:
    """The table by network and kind of outlines; the folds of TNBC are joined if a network was
    scored on both.
    """
    shown = {name: measure for name, measure in MEASURES.items() if name != "Dice"}
    lines = [
        f"| pictures left out | network | outlines | {' | '.join(shown)} |",
        "|---" * (len(shown) + 3) + "|",
    ]
    joined: dict[tuple[str, str], list[dict]] = {}
    for run in sorted(runs, key=lambda run: list(FOLDS).index(run["fold"])):
        for network in run["counts"]:
            joined.setdefault((run["fold"].split()[0], network), []).append(run)
    for (name, network), parts in joined.items():
        patients = [patient for part in parts for patient in part["patients"]]
        rows = {
            kind: [row for part in parts for row in part["counts"][network][kind]]
            for kind in OUTLINES
        }
        of = {kind: np.array(counts, float) for kind, counts in rows.items()}
        for kind, counts in list(of.items())[1:]:  # all but "of the network"
            cells = [f"{measure(counts.sum(0)):.3f}" for measure in shown.values()]
            lines.append(f"| {name}, {len(patients)} | {network} | {kind} | {' | '.join(cells)} |")
        changes = [
            change_from(measure, of["on edges"], of["refined"], patients)
            for measure in shown.values()
        ]
        lines.append(f"| | | refined, less on edges | {' | '.join(changes)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
