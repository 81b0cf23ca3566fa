"""Size of the report of a cohort of thousands of slides, and the time that Chromium takes to show
it.

    python benchmarks/report.py --output benchmarks/report.json       # measures
    python benchmarks/report.py --table  # prints the table of the committed figures

Summaries are synthetic, so that no slides are needed: figures, classes, regions, warnings, steps
and provenance as in a run, without pictures. Seconds are counted from opening the file until the
rows of the table of slides are on the screen, and until the whole page has loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from muse_pipeline.cohort.ledgers import STEPS, StepRecord
from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.features.catalogue import FIRST_COLUMNS, features_of
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.page import write_page

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/support"))

MEASURED = TOP / "benchmarks/report.json"
CLASSES = {"Lymphocyte": (44, 92, 214), "Epithelial": (220, 38, 38), "Stroma": (22, 148, 72)}
REGIONS = ("Tumour", "Stroma", "Necrosis")
FEATURES = [each.name for each in (*FIRST_COLUMNS, *features_of("basic", list(CLASSES)))]
ROWS = "document.querySelectorAll('.slides tbody tr').length"
DRAWN = (
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
)


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--output", type=Path, default=MEASURED)
    parser.add_argument(
        "--keep", type=Path, help="folder for the pages (default: pages are deleted)"
    )
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        found = [measure(n_slides, args.keep) for n_slides in args.slides]
        write_json(args.output, {"pages": found, "load": round(os.getloadavg()[0], 1)})
    print(render_table(read_json(args.output if not args.table else MEASURED)["pages"]))


def measure(n_slides: int, keep: Path | None) -> dict[str, float]:
    """Figures of writing and opening the page of ``n_slides`` slides."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(keep or scratch) / str(n_slides)
        folder.mkdir(parents=True, exist_ok=True)
        slides = [draw_slide(number, folder) for number in range(n_slides)]
        started = time.process_time()
        write_page(slides, folder / "report.html")
        written = time.process_time() - started
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {
            "slides": n_slides,
            "written_cpu_seconds": round(written, 1),
            "written_peak_mib": peak_memory_mib(),
            "mb": round(size / 1e6, 2),
            **open_page(folder / "report.html", n_slides),
        }


def draw_slide(number: int, folder: Path) -> SlideResult:
    """A finished slide with random figures."""
    random = np.random.default_rng(number)
    name, mm2 = f"TCGA-{number:05d}-01Z-00-DX1", float(random.lognormal(5, 0.5))
    per_mm2 = random.lognormal(8, 0.4)
    n_by_class = random.multinomial(int(per_mm2 * mm2), random.dirichlet((2, 4, 3)))
    shares = random.dirichlet((4, 3, 1))
    regions = [
        {
            "name": one,
            "area_mm2": round(float(share * mm2), 3),
            "n_nuclei": int(share * n_by_class.sum()),
        }
        | {
            "n_by_class": {
                kind: int(share * n) for kind, n in zip(CLASSES, n_by_class, strict=True)
            }
        }
        for one, share in zip(REGIONS, shares, strict=True)
    ]
    info = SlideInfo(
        name,
        f"/slides/{name}.svs",
        "openslide",
        "aperio",
        (90_000, 60_000),
        (0.25, 0.25),
        "file",
        ((90_000, 60_000),),
        ((1.0, 1.0),),
        f"{number:032x}",
    )
    classes = [
        {"name": one, "color": list(color), "n_nuclei": int(n)}
        for (one, color), n in zip(CLASSES.items(), n_by_class, strict=True)
    ]
    summary = {
        "n_nuclei": int(n_by_class.sum()),
        "classes": classes,
        "immunohistochemistry": None,
        "annotations": [],
        "regions": {"status": "ok", "classes": regions, "bands": []},
        "features": {feature: float(random.lognormal(1, 0.1)) for feature in FEATURES},
        "proposals": None,
        "thumbnail": None,
        "fields": [],
        "has_pixels": True,
        "full_windows_level0": [],
        "corrupt_level0": [],
        "provenance": draw_provenance(info, CLASSES),
    }
    steps = [
        StepRecord(step, "ok", seconds=float(random.uniform(1, 90)), peak_memory_mib=900)
        for step in STEPS
    ]
    return SlideResult(
        slide_id=name,
        path=info.path,
        folder=folder / name,
        status="ok",
        step="",
        reason="",
        progress=steps,
        patient=name[:10],
        group=("centre A", "centre B", "centre C")[number % 3],
        info=info,
        tissue_mm2=mm2,
        summary=summary,
        warnings=(
            ["the um per pixel of the file differs from that of the sheet"]
            if number % 10 == 0
            else []
        ),
    )


def draw_provenance(info: SlideInfo, colors: dict[str, tuple[int, int, int]]) -> dict:
    """A provenance as large as that of a run."""
    return {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "slide_mpp": info.mpp,
        "mpp_source": info.mpp_source,
        "reader": info.reader,
        "bounds": None,
        "model": {"name": "compact", "sha256": "0123456789abcdef" * 4},
        "provider": "cpu",
        "n_windows": 900,
        "full_windows": [],
        "corrupt_fraction": 0.0,
        "tissue_sha256": "0123456789abcdef" * 4,
        "card": {
            "classes": [{"name": name, "color": color} for name, color in colors.items()],
            "mpp": 0.5,
            "input_px": 1024,
            "halo_px": 32,
            "threshold": 0.4,
        },
        "appearance": {"verdict": "ok", "reasons": []},
        "colour": [[0.65, 0.7, 0.29, 1.5], [0.07, 0.99, 0.11, 1.2], [0.2, 0.1, 0.9, 0]],
        "nuclear_size": {"median_area_um2": 31.2, "mean_class_probability": 0.81, "doubt": ""},
        "versions": {
            name: "1.2.3"
            for name in ("muse-pipeline", "numpy", "onnxruntime", "opencv", "pyarrow", "zarr")
        },
    }


def open_page(page: Path, n_slides: int) -> dict[str, float]:
    """Seconds until the table of slides is drawn, until the page has loaded and to sort it, and
    its number of nodes.
    """
    from browsers import launched_chromium

    with launched_chromium() as browser:
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        started = time.monotonic()
        tab.goto(page.as_uri(), wait_until="commit")
        while tab.evaluate(ROWS) < min(n_slides, 20):
            pass
        tab.evaluate(DRAWN)
        first = time.monotonic() - started
        tab.wait_for_load_state("load", timeout=200_000)
        tab.evaluate(DRAWN)
        whole = time.monotonic() - started
        started = time.monotonic()
        tab.locator(".slides thead button").nth(3).click()
        tab.evaluate(DRAWN)
        sort = time.monotonic() - started
        session = tab.context.new_cdp_session(tab)
        session.send("Performance.enable")
        metrics = {
            each["name"]: each["value"]
            for each in session.send("Performance.getMetrics")["metrics"]
        }
        return {
            "first_table_seconds": round(first, 2),
            "loaded_seconds": round(whole, 2),
            "sort_seconds": round(sort, 2),
            "nodes": int(metrics["Nodes"]),
        }


def render_table(pages: list[dict]) -> str:
    """The figures as a Markdown table."""
    rows = [
        "| | " + " | ".join(f"{page['slides']:,} slides" for page in pages) + " |",
        "|---|" + "---|" * len(pages),
    ]
    for what, name in (
        ("size without pictures", "{mb:.1f} MB"),
        ("table on the screen after", "{first_table_seconds:.1f} s"),
        ("whole page after", "{loaded_seconds:.1f} s"),
        ("sorted by a column in", "{sort_seconds:.1f} s"),
        ("written in", "{written_cpu_seconds:.1f} processor seconds"),
    ):
        rows.append(f"| {what} | " + " | ".join(name.format(**page) for page in pages) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
