"""Nuclei of real tissue found without labels, by mask-tissue translation and by its controls.

    python experiments/unit_real.py --data DATA           # trains and scores what has no JSON in experiments/unit_real/
    python experiments/unit_real.py --table               # prints the table

`config/train/unit.yaml` trains on pixels of BRCA-M2C and CAMELYON16. It is scored on TNBC (Institut Curie, 35 crops
of 7 patients) and NuCLS (10 crops, each taken for a patient), which it is neither trained on nor chosen by. All arms
run as they are delivered: the threshold of the card, crops of 0.25 um/px, no truth. A stopped training continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.evaluation.bootstrap import compare_scores, percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.evaluation.overlaps import jaccard_areas, jaccard_ratio, overlap_labels
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.losses.painted import paint
from muse_pipeline.methods.unit.config import LossWeights, UnitConfig, stage_config
from muse_pipeline.methods.unit.data import MasksStage, UnitData
from muse_pipeline.methods.unit.method import INSIDE, UnitTraining, build_reader
from muse_pipeline.methods.unit.monitors import TranslationAlarm
from muse_pipeline.methods.unit.run import UnitRecipe, UnitStage
from muse_pipeline.nuclei.masks import drop_small_labels, label_image_to_nuclei, rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.proposals.activation_map import ClusterSettings, MaskSettings, fit_pseudo_masker
from muse_pipeline.proposals.otsu_mask import blend_stains, cut_mask, fit_otsu, haematoxylin
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.checkpoint import load_checkpoint, load_detector_weights
from muse_pipeline.training.loop import Monitor
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options

TOP = Path(__file__).parents[1]
RUNS = Path(__file__).parent / "unit_real"
MPP, MIN_PX, RAYS = 0.25, 20, 32
STRIDE_PX = 32  # of the reader
Find = Callable[[np.ndarray], np.ndarray]  # (h, w, 3) uint8 -> (h, w) int32 instances
SNAP_UM = 1.5  # as in the card of `label_free`
TRAINED = {
    "unit": "**UNIT** (`config/train/unit.yaml`)",
    "first": "its first stage alone",
    "snapped": "its outlines on the nearest edges, as those of `label_free`",
    "third": "a third of its steps",
    "no-guide": "a third, without the instance guide; nuclei of read masks",
    "uniform": "a third, nuclei of masks placed uniformly",
    "painted": "control, a third: the same reader trained on flat painted masks, no GAN",
    "painted-whole": "control, all steps of the reader on flat painted masks, no GAN",
}
THIRD = ["schedule.steps=500", "second.steps=500"]
CHANGES = {  # of settings
    "unit": [],
    "first": [],
    "snapped": [],
    "third": THIRD,
    "no-guide": [*THIRD, "weights.instances=0", "calibrate=false"],
    "uniform": [*THIRD, "tissue.placement=uniform"],
    "painted": THIRD,
    "painted-whole": [],
}
UNTRAINED = {
    "colour": "k-means of colour, cut into nuclei",
    "otsu": "Otsu on haematoxylin, cut into nuclei",
    "label_free": "built-in `label_free`",
}
ARMS = TRAINED | UNTRAINED
REFERENCE = "label_free"  # of differences


def main() -> None:
    """Train and score the arms that have no JSON yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of trained arms")
    parser.add_argument("--runs", type=Path, default=Path("runs/unit_real"), help="folder of the trainings")
    parser.add_argument("--results", type=Path, default=RUNS, help="folder of the JSON files")
    parser.add_argument("--table", action="store_true", help="print the table of the runs that exist")
    args = parser.parse_args()
    if args.table:
        print(render_tables([read_json(path) for path in sorted(args.results.glob("*.json"))]))
        return
    if args.data is None:
        parser.error("give --data")
    cv2.setNumThreads(1)
    args.results.mkdir(exist_ok=True, parents=True)
    for arm in args.arms:
        for seed in args.seeds if arm in TRAINED else [0]:
            result = args.results / f"{arm}-{seed}.json"
            if not result.is_file():
                found = {"arm": arm, "seed": seed, **score(make_finder(arm, seed, args.data, args.runs), args.data)}
                result.write_text(json.dumps(found) + "\n", encoding="utf-8")
                print(result, flush=True)


def make_finder(arm: str, seed: int, data: Path, runs: Path) -> Find:
    """The finder of an arm; it is trained, or continues to be, where that is necessary."""
    if arm == "colour":
        return find_by_colour
    if arm == "otsu":
        return find_by_otsu
    if arm == "label_free":
        return network_finder(Predictor(find_model("label_free")))
    _, config = load_run(TOP / "config/train/unit.yaml", data, [f"seed={seed}", *CHANGES[arm]])
    if arm in {"painted", "painted-whole"}:
        checkpoint = train_painted(config, runs / f"{arm}-{seed}")
    elif arm in {"first", "snapped"}:  # of the whole run
        checkpoint = train_unit(config, runs / f"unit-{seed}", until="translation" if arm == "first" else "reader")
    else:
        checkpoint = train_unit(config, runs / f"{arm}-{seed}", until="reader")
    if arm == "no-guide":
        return mask_finder(checkpoint, config)
    model = checkpoint.with_name("model.onnx")
    export_onnx(checkpoint, model)
    predictor = Predictor(model)
    if arm == "snapped":
        predictor.card = dataclasses.replace(predictor.card, snap_um=SNAP_UM)
    return network_finder(predictor)


def train_unit(config: UnitConfig, folder: Path, until: str) -> Path:
    """The stages up to one, as `muse train` runs them; returns its checkpoint."""
    stages = UnitRecipe().stages(config, folder)
    names = [stage.name for stage in stages]
    for stage in stages[: names.index(until) + 1]:
        checkpoint = stage.run(_options())
    return checkpoint


class Painter(nn.Module):
    """In place of the generator: masks in two flat colours of the tissue.

    Args:
        palette: (2, 3) colours of nuclei and background, 0 to 255.
    """

    noise_dim = 1

    def __init__(self, palette: np.ndarray):
        super().__init__()
        self.register_buffer("palette", torch.from_numpy(palette))
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, mask: Tensor, noise: Tensor, grain: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W), 0 to 255."""
        return paint(mask, *self.palette) + self.unused


class PaintedStage(UnitStage):
    """The reader alone, on painted masks."""

    def build(self, data: UnitData) -> UnitTraining:
        """See ``UnitStage``."""
        method = super().build(data)
        method.generator = Painter(data.palette)
        return method

    def monitors(self, data: UnitData, method: UnitTraining) -> list[Monitor]:
        """Without the alarm for collapse: nothing is translated."""
        return [one for one in super().monitors(data, method) if not isinstance(one, TranslationAlarm)]


def train_painted(config: UnitConfig, folder: Path) -> Path:
    """As long as the second stage; instance loss alone."""
    weights = LossWeights(picture_gan=0, mask_gan=0, cycle=0, instances=config.weights.instances)
    schedule = dataclasses.replace(config.schedule, **vars(config.second))
    settings = {**vars(config), "weights": weights, "schedule": schedule}
    masks = MasksStage(config, folder / "masks").run(_options())
    return PaintedStage(stage_config(UnitConfig(**settings), masks, None), folder / "reader").run(_options())


def _options() -> Options:
    return Options(accelerator="cpu", say=print, progress=lambda *done: print(*done, flush=True))


def find_by_colour(pixels: np.ndarray) -> np.ndarray:
    """The darkest of three clusters of colour."""
    clusters = ClusterSettings(features="colour", n_clusters=3, foreground="dark")
    mask = fit_pseudo_masker(None, [pixels], MPP, _stains(pixels), MaskSettings(clusters=clusters))
    return cut_mask(mask(pixels), haematoxylin(pixels, blend_stains(_stains(pixels))), MPP)


def find_by_otsu(pixels: np.ndarray) -> np.ndarray:
    """What is dark in haematoxylin."""
    return cut_mask(fit_otsu([pixels], MPP)(pixels), haematoxylin(pixels, blend_stains(_stains(pixels))), MPP)


def _stains(pixels: np.ndarray) -> np.ndarray | None:
    fit = fit_macenko(pixels.reshape(-1, 3))
    return fit and fit.stains


def network_finder(predictor: Predictor, threshold: float = 0.0) -> Find:
    """A model, its outlines painted, the most certain on top; ``threshold`` counts where it is above the card's."""

    def find(pixels: np.ndarray) -> np.ndarray:
        nuclei = detect_picture(predictor, pixels, MPP, fit_macenko(pixels.reshape(-1, 3)))
        nuclei = nuclei[nuclei.score >= threshold]
        nuclei = nuclei[np.argsort(nuclei.score, kind="stable")]
        return rings_to_labels(rays_to_rings(nuclei.xy, nuclei.rays, (MPP, MPP)), pixels.shape[:2])

    return find


def mask_finder(checkpoint: Path, config: UnitConfig) -> Find:
    """The fills of read masks, parted by their contours, in the colour that the detector is run in."""
    reader = build_reader(config).eval()
    trained = load_checkpoint(checkpoint)
    load_detector_weights(reader.detector(), trained, checkpoint)
    reader.translation.load_state_dict(trained.networks["translation"])
    reference = ColourReference(**trained.meta["colour"])

    @torch.no_grad()
    def find(pixels: np.ndarray) -> np.ndarray:
        height, width = (round(side * MPP / config.mpp) // STRIDE_PX * STRIDE_PX for side in pixels.shape[:2])
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        colour = torch.from_numpy(colour_of_fit(reference, fit_macenko(pixels.reshape(-1, 3))))
        mask = reader(torch.from_numpy(resized).permute(2, 0, 1)[None].float(), colour).mask[0].numpy()
        inside = (mask[1:].max(0) > INSIDE) & (mask[0] < 0)
        _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
        whole = cv2.resize(labels.astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return drop_small_labels(whole.astype(np.int32), MIN_PX)

    return find


def score(find: Find, data: Path) -> dict:
    """Per crop: matched, found and true nuclei, and the two areas whose ratio is the AJI."""
    tables: dict[str, dict] = {}
    for name, read in {"TNBC": read_tnbc, "NuCLS": read_nucls}.items():
        crops = {crop: [patient, *compare(find(pixels), true)] for crop, patient, pixels, true in read(data)}
        tables[name] = crops
    return {"columns": ["patient", "matched", "found", "true", "shared", "covered"], "crops": tables}


def read_tnbc(data: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, patient, pixels and instances of each crop."""
    folder, crops = data / "tnbc-nuclei", []
    for path in sorted((folder / "images").glob("*.png")):
        mask = cv2.imread(str(folder / "masks" / path.name), cv2.IMREAD_GRAYSCALE)
        _, labels, facts, _ = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8))
        kept = facts[:, cv2.CC_STAT_AREA] >= MIN_PX
        kept[0] = False
        crops.append((path.stem, path.stem.split("_")[0], read_rgb(path), labels * kept[labels]))
    return crops


def read_nucls(data: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Likewise; patients are not named."""
    folder = data / "nucls-cc0"
    return [
        (path.stem, path.stem, read_rgb(path), cv2.imread(str(folder / "instances" / path.name), -1).astype(np.int32))
        for path in sorted((folder / "images").glob("*.png"))
    ]


def compare(found: np.ndarray, true: np.ndarray) -> list[float]:
    """See ``score``."""
    found_xy, true_xy = (label_image_to_nuclei(one, (MPP, MPP), RAYS).xy for one in (found, true))
    matched = (match_points(found_xy, np.ones(len(found_xy)), true_xy, RADIUS_UM / MPP) >= 0).sum()
    return [int(matched), len(found_xy), len(true_xy), *map(float, jaccard_areas(overlap_labels(found, true)))]


def detection_f1(sums: np.ndarray) -> np.ndarray:
    """(..., 5) -> (...)."""
    return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


def aji(sums: np.ndarray) -> np.ndarray:
    """(..., 5) -> (...)."""
    return jaccard_ratio(sums[..., 3:])


def render_tables(runs: list[dict]) -> str:
    """Scores of both sets with 95 % intervals over patients, and differences from ``REFERENCE``, paired by patient."""
    return "\n\n".join(_render(name, runs) for name in ("TNBC", "NuCLS"))


def _render(name: str, runs: list[dict]) -> str:
    rows = [
        f"| {name} | seeds | detection F1 (95 %) | AJI (95 %) | change of F1 (95 %) | change of AJI (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    sums = {arm: mean_of_seeds([run for run in runs if run["arm"] == arm], name) for arm in ARMS}
    for arm, title in ARMS.items():
        if sums[arm] is None:
            continue
        values, patients, n = sums[arm]
        cells = [with_interval(measure, values, patients) for measure in (detection_f1, aji)]
        changes = ["", ""]
        if arm != REFERENCE and sums[REFERENCE]:
            changes = [change_from(measure, sums[REFERENCE][0], values, patients) for measure in (detection_f1, aji)]
        rows.append(f"| {title} | {n if arm in TRAINED else ''} | " + " | ".join((*cells, *changes)) + " |")
    return "\n".join(rows)


def mean_of_seeds(runs: list[dict], name: str) -> tuple[np.ndarray, list[str], int] | None:
    """(N, 5) sums of crops, their patients, and the number of seeds."""
    if not runs:
        return None
    values = np.mean([[row[1:] for row in run["crops"][name].values()] for run in runs], 0)
    return values, [row[0] for row in runs[0]["crops"][name].values()], len(runs)


def with_interval(measure: Callable, values: np.ndarray, patients: list[str]) -> str:
    """A measure of (N, ...) sums of crops, and its interval over patients."""
    low, high = percentile_interval(measure(resample_sums(values, patients)), patients)
    return f"{measure(values.sum(0)):.3f} ({low:.3f} to {high:.3f})"


def change_from(measure: Callable, before: np.ndarray, after: np.ndarray, patients: list[str]) -> str:
    """The difference of a measure, paired by crop, and its interval over patients."""
    found = compare_scores(before, after, patients, measure)
    low, high = found["interval"]
    return f"{found['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
