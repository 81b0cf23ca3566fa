"""Accuracy of the registration of a partner to its H&E slide, for known deformations.

    python -m experiments.registration.run --data DATA --threads 2  # registers what is not recorded
    python -m experiments.registration.run --table                     # prints the table

Each pair is an H&E picture and the same tissue restained by a rule, rotated, scaled and moved by a
known map, at a different um per pixel; `bend` is also bent, which an affine map cannot follow. Half
of the pairs are synthetic. In the others, the H&E is a real slide of skin
(DATA/wsi-cmu-small-region), whose haematoxylin and eosin are unmixed and recoloured as
immunohistochemistry with a brown marker in a third of the area. Errors are distances on the partner
at points of the tissue. `large` is a synthetic pair of 100 mm2, written as tiled JPEG pyramids, for
which the time and memory of `muse register` are measured too.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from experiments.common.runs import TOP, add_run, is_recorded, read_runs, runs_of

sys.path.append(str(TOP / "tests/support"))  # for drawn_pair and slide_files

from drawn_pair import Section, Warp, draw_partner, draw_section, errors_um, open_drawn, stain_he
from slide_files import write_pyramid

from muse_pipeline.core.files import read_json
from muse_pipeline.demo.field import smooth_noise
from muse_pipeline.registration.record import read_registered
from muse_pipeline.registration.register import open_pair, register_partner
from muse_pipeline.registration.transform import Transform
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.stain import fit_macenko, optical_density

RUNS = runs_of(__file__)
MPP, PARTNER_MPP = 0.5, 0.6
WARPS = {
    "shift": Warp(shift_um=(240, 130)),
    "turn-7": Warp(degrees=7, shift_um=(150, 60)),
    "turn-183": Warp(degrees=183, shift_um=(0, 210)),
    "scale": Warp(degrees=-21, scale=1.05),
    "bend": Warp(degrees=3, bend_um=15),
    "all": Warp(degrees=183, scale=0.95, shift_um=(200, 90)),
    "mirrored": Warp(degrees=97, scale=1.02, mirrored=True),
}
TITLES = {
    "shift": "shift",
    "turn-7": "shift, turned by 7 degrees",
    "turn-183": "shift, turned by 183 degrees",
    "scale": "turned by -21 degrees, 5 % larger",
    "bend": "turned by 3 degrees, bent by 15 um",
    "all": "shift, turned by 183 degrees, 5 % smaller",
    "mirrored": "mirrored, turned by 97 degrees, 2 % larger",
    "large": "100 mm2: shift, turned by 7 degrees, 5 % larger",
}
LARGE = Warp(degrees=7, scale=1.05, shift_um=(300, 200))
LARGE_UM, LARGE_MPP = (12500.0, 12000.0), 1.0  # generated at 1 um/px, written at 0.5 um/px


def main() -> None:
    """Register the pairs that are not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with wsi-cmu-small-region/")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/registration"),
        help="folder of slides (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table())
        return
    if args.data is None:
        parser.error("give --data DATA, or --table")
    sections = {
        "drawn": lambda: draw_section((2800.0, 2400.0), MPP),
        "skin": lambda: unmix_slide(args.data),
    }
    for tissue, make in sections.items():
        missing = [name for name in WARPS if not is_recorded(RUNS, tissue=tissue, pair=name)]
        section = make() if missing else None
        for name in missing:
            record(run_pair(section, WARPS[name], args.threads), tissue, name)
    if not is_recorded(RUNS, tissue="drawn", pair="large"):
        record(run_large(args.work, args.threads), "drawn", "large")


def record(result: dict, tissue: str, pair: str) -> None:
    """Record a run, and print its name."""
    add_run(RUNS, {"tissue": tissue, "pair": pair, **result})
    print(tissue, pair, flush=True)


def run_pair(section: Section, warp: Warp, threads: int) -> dict:
    """Register one pair in memory, and return its errors, residuals, tiles and processor
    seconds.
    """
    he, partner = stain_he(section.amounts), draw_partner(section, warp, PARTNER_MPP)
    started = time.process_time()
    pair = open_pair(
        *open_drawn(he, section.mpp, "he"), *open_drawn(partner, PARTNER_MPP, "partner"), threads
    )
    found = register_partner(pair)
    seconds = time.process_time() - started
    steps = {"identity": identity(), "final": found.transform}
    kept = found.tiles.is_kept
    measured = found.tiles.residual_um[kept & found.tiles.is_measured]
    return {
        "errors_um": {
            name: percentiles(errors_um(step, section, warp)) for name, step in steps.items()
        },
        "residuals_um": percentiles(measured),
        "tiles": len(kept),
        "kept": int(kept.sum()),
        "processor_seconds": round(seconds, 1),
    }


def run_large(work: Path, threads: int) -> dict:
    """Register a pair of 100 mm2 with `muse register`, and return its errors, residuals, tiles,
    time and memory.
    """
    slides = {name: work / f"{name}.tif" for name in ("he", "partner")}
    if not all(path.is_file() for path in slides.values()):
        write_large(slides)
    command = [
        "muse",
        "register",
        *map(str, slides.values()),
        "-o",
        str(work / "out"),
        "--threads",
        str(threads),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--ledger", str(work / "out/ledger.json")], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    registered, ledger = (
        read_registered(work / "out/transform.json"),
        read_json(work / "out/ledger.json"),
    )
    residuals = read_json(work / "out/transform.json")["residuals"]
    ground = draw_section(LARGE_UM, 4.0)  # the same tissue at a coarser scale
    steps = {"identity": identity(), "final": registered.transform}
    return {
        "errors_um": {
            name: percentiles(errors_um(step, ground, LARGE)) for name, step in steps.items()
        },
        "residuals_um": [residuals["median_um"], residuals["p95_um"]],
        "tiles": residuals["tiles"],
        "kept": residuals["kept"],
        "tissue_mm2": round(float((ground.amounts[..., 2] > 0.05).sum()) * ground.mpp**2 / 1e6, 1),
        "seconds": ledger["seconds"],
        "processor_seconds": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
        ),
        "peak_mib": ledger["peak_memory_mib"],
    }


def write_large(slides: dict[str, Path]) -> None:
    """Write the pair of 100 mm2, which takes 8 GB of memory and some minutes."""
    section = draw_section(LARGE_UM, LARGE_MPP)
    for name, pixels in (
        ("he", stain_he(section.amounts)),
        ("partner", draw_partner(section, LARGE, LARGE_MPP)),
    ):
        slides[name].parent.mkdir(parents=True, exist_ok=True)
        twice = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        write_pyramid(slides[name], twice, (4, 16), LARGE_MPP / 2, compression="jpeg")


def unmix_slide(data: Path) -> Section:
    """The real slide as amounts of haematoxylin, without and with a marker, and of eosin."""
    path = data / "wsi-cmu-small-region" / "CMU-1-Small-Region.svs"
    info = inspect_slide(path, "skin")
    with open_slide(path) as slide:
        pixels = slide.read_region((0, 0), 0, info.size_px)
    density = optical_density(pixels).astype(np.float32)
    fit = fit_macenko(pixels.reshape(-1, 3)[::7])
    amounts = (
        density @ np.linalg.pinv(fit.stains).astype(np.float32) / fit.strong.astype(np.float32)
    )
    blue, pink = np.moveaxis(amounts.clip(0, 1.5), -1, 0)
    side = 512
    marker = (
        smooth_noise(side, 12.0, np.random.default_rng(0)) > 0.43
    )  # a third of the area, in patches
    marker = (
        cv2.resize(marker.astype(np.uint8), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        > 0
    )
    return Section(
        np.dstack([blue * ~marker, blue * marker, pink]),
        info.mpp[0],
        np.zeros((0, 2)),
        np.zeros(0, bool),
    )


def identity() -> Transform:
    """The identity, with which the corners of both slides coincide."""
    return Transform(np.eye(2, 3))


def percentiles(um: np.ndarray) -> list[float]:
    """Median and 95th percentile."""
    return [round(float(value), 2) for value in np.percentile(um, [50, 95])]


def render_table() -> str:
    """A row per pair: errors, measured residuals, tiles, time."""
    rows = [
        "| pair | registered | measured residuals | tiles kept | processor s |",
        "|---|---|---|---|---|",
    ]
    recorded = {(run["tissue"], run["pair"]): run for run in read_runs(RUNS)}
    for tissue, name in [
        *((tissue, name) for tissue in ("drawn", "skin") for name in WARPS),
        ("drawn", "large"),
    ]:
        run = recorded.get((tissue, name))
        if run is None:
            continue
        cells = [
            f"{tissue}: {TITLES[name]}",
            both(run["errors_um"].get("final")),
            both(run["residuals_um"]),
        ]
        rows.append(
            f"| {' | '.join(cells)} | {run['kept']} of {run['tiles']} |"
            f" {run['processor_seconds']:.0f} |"
        )
    return "\n".join(rows)


def both(um: list[float] | None) -> str:
    """Text of a cell with median / 95th percentile."""
    if um is None:
        return ""
    return " / ".join(f"{value:.1f}" if value < 100 else f"{value:,.0f}" for value in um)


if __name__ == "__main__":
    main()
