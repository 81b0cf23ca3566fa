"""Cost of the viewer of a large slide: seconds, memory and bytes per mm2, and the time of a frame
in Chromium.

    python benchmarks/draw_slides.py big --areas-mm2 4 --repeat-px 48000
    (then muse inspect, tissue and tile, as `muse run` does, into big/results/demo)
    python benchmarks/viewer.py big/results/demo --nuclei 1000000 --output benchmarks/viewer.json
    python benchmarks/viewer.py --table  # prints the table of the committed figures

The nuclei are synthetic, with uneven outlines at random positions: 5,000 per mm2 of tissue to write
the page, then --nuclei over the whole glass to view it. Writing is measured in processor seconds,
on which other work on the machine has little effect. Frames are measured while the view pans and
zooms: the time from one frame to the next, which depends on the load (recorded in the JSON), and
the processor time of the whole browser per frame, which hardly does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.viewer.page import TILE_PX, write_viewer

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/support"))

BATCH = 50_000
PER_MM2 = 5000  # density of nuclei in dense tissue
ZOOMS = (16.0, 8.0, 2.0, 1.0, 0.25)  # um per screen px
MEASURED = TOP / "benchmarks/viewer.json"
# Pans and zooms a little over 90 frames, and returns the times from one frame to the next in ms.
WATCH = """async (umPerPx) => {
  const [width, height] = muse.slide.size_px.map((n, i) => n * muse.slide.mpp[i]);
  muse.goTo(width / 2, height / 2, umPerPx);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const times = [];
  let last = performance.now();
  return new Promise((resolve) => {
    const step = (now) => {
      times.push(now - last);
      last = now;
      const turn = times.length / 30;
      const shift = new OpenSeadragon.Point(Math.cos(2 * turn) * 12, Math.sin(2 * turn) * 12);
      muse.osd.viewport.panBy(muse.osd.viewport.deltaPointsFromPixels(shift), true);
      muse.osd.viewport.zoomBy(1 + 0.02 * Math.sin(3 * turn), null, true);
      if (times.length < 90) requestAnimationFrame(step);
      else resolve(times.slice(1));
    };
    requestAnimationFrame(step);
  });
}"""


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="results of a slide: slide.json, tissue.npz and its store",
    )
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=MEASURED)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_json(MEASURED)))
        return
    mask = TissueMask.load(args.folder / "tissue.npz")
    draw_nuclei(args.folder, round(PER_MM2 * mask.area_mm2), mask.mask)
    made = measure_making(args.folder, args.threads, mask.area_mm2)
    draw_nuclei(args.folder, args.nuclei, np.ones_like(mask.mask))
    write_viewer(args.folder, args.threads)
    frames = measure_frames(args.folder / "viewer")
    write_json(
        args.output, {"nuclei": args.nuclei, **made, **frames, "load": round(os.getloadavg()[0], 1)}
    )
    print(render_table(read_json(args.output)))


def draw_nuclei(folder: Path, n_nuclei: int, mask: np.ndarray) -> None:
    """Write a table of nuclei, from top to bottom, at random positions in ``mask``, of the
    shape of the tissue mask.
    """
    from finished_slide import CLASSES, provenance

    from muse_pipeline.core.types import Frame
    from muse_pipeline.nuclei.parquet import NucleiWriter
    from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
    from muse_pipeline.nuclei.shape import measure_shapes
    from muse_pipeline.nuclei.table import Nuclei

    info, tissue = read_info(folder / "slide.json"), TissueMask.load(folder / "tissue.npz")
    random = np.random.default_rng(0)
    rows, columns = np.nonzero(mask)
    chosen = np.sort(random.integers(len(rows), size=n_nuclei))
    angles = 2 * np.pi * np.arange(32) / 32
    with NucleiWriter(
        folder / "nuclei.parquet", list(CLASSES), provenance(info), n_rays=32
    ) as writer:
        for first in range(0, n_nuclei, BATCH):
            own = chosen[first : first + BATCH]
            cell = np.column_stack([columns[own], rows[own]])
            label = random.integers(len(CLASSES), size=len(own)).astype(np.int32)
            waves = 1 + 0.25 * np.cos(2 * angles + random.uniform(0, 6, (len(own), 1)))
            prob = random.dirichlet(np.ones(len(CLASSES)), len(own)).astype(np.float32)
            nuclei = Nuclei(
                (cell + random.random(cell.shape)) * tissue.mask_mpp / info.mpp,
                Frame.LEVEL0,
                rays=(random.uniform(2.5, 5, (len(own), 1)) * waves).astype(np.float32),
                label=label,
                score=random.uniform(0.4, 1, len(own)).astype(np.float32),
                prob=prob,
            )
            rings = rays_to_rings(nuclei.xy, nuclei.rays, info.mpp)
            writer.write(nuclei, rings_to_polygons(rings)[0], measure_shapes(rings, info.mpp))


def measure_making(folder: Path, threads: int, area_mm2: float) -> dict[str, float]:
    """Processor seconds and bytes per mm2 of tissue, and peak memory, for writing the page."""
    shutil.rmtree(folder / "viewer", ignore_errors=True)
    wall, cpu = time.monotonic(), time.process_time()
    write_viewer(folder, threads)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    tiles = len(list((folder / "viewer/tiles/0").iterdir()))
    files = [path for path in (folder / "viewer").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {
        "tissue_mm2": round(area_mm2, 1),
        "image_mm2": round(
            tiles * (TILE_PX * read_provenance(folder / "nuclei.parquet").model_mpp / 1000) ** 2, 1
        ),
        "cpu_seconds_per_mm2": round(cpu / area_mm2, 4),
        "wall_seconds_per_mm2": round(wall / area_mm2, 4),
        "mb_per_mm2": round(size / 1e6 / area_mm2, 3),
        "files": len(files),
        "peak_mib": peak_memory_mib(),
    }


def measure_frames(viewer: Path) -> dict[str, object]:
    """Seconds until the page can be used, and the frame times in milliseconds at every zoom."""
    from browsers import launched_chromium
    from viewer_tab import Tab

    with launched_chromium() as browser:
        started = time.monotonic()
        tab = Tab(browser, viewer)
        usable = time.monotonic() - started
        frames = {}
        for zoom in ZOOMS:
            before = processor_seconds()
            times = np.array(tab.page.evaluate(WATCH, zoom))
            cost = 1000 * (processor_seconds() - before) / len(times)
            frames[f"{zoom:g}"] = [
                round(float(each), 1) for each in (*np.percentile(times, (50, 95)), cost)
            ]
    return {"usable_seconds": round(usable, 2), "frames_ms": frames}


def processor_seconds() -> float:
    """Processor seconds of all processes and threads of the browser."""
    return sum(sum(each.cpu_times()[:2]) for each in psutil.Process().children(recursive=True))


def render_table(found: dict) -> str:
    """The figures as a Markdown table."""
    seconds = found["cpu_seconds_per_mm2"]
    per_image = seconds * found["tissue_mm2"] / found["image_mm2"]
    lines = [
        "| | |",
        "|---|---|",
        (
            f"| tissue, and image around it | {found['tissue_mm2']:g} mm2, {found['image_mm2']:g}"
            " mm2 |"
        ),
        (
            f"| processor seconds | {seconds:.3f} per mm2 of tissue, {per_image:.3f} per mm2 of"
            " image |"
        ),
        f"| peak memory | {found['peak_mib']:,} MiB |",
        f"| size | {found['mb_per_mm2']:.2f} MB per mm2 of tissue, {found['files']:,} files |",
    ]
    for zoom, (_, _, cost) in sorted(found["frames_ms"].items(), key=lambda item: -float(item[0])):
        lines.append(
            f"| processor time of a frame of {found['nuclei']:,} nuclei, at {zoom} um/px |"
            f" {cost:.0f} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
