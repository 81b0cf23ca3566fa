"""Processor seconds of `muse statistics` and of cohort.h5ad for a large cohort: one slide under
many names.

    muse demo-slide demo --area-mm2 8 --mpp 0.25 && muse run demo/demo.svs -o results --features all
    python benchmarks/cohort_statistics.py results/demo --slides 1000

Every patient has two slides, and half of the patients are in each of two groups.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from muse_pipeline.cli.main import main as muse
from muse_pipeline.nuclei.parquet import read_provenance


def main() -> None:
    """Link the slide under all names, run both commands, and print their costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path, help="results of a slide with all features")
    parser.add_argument("--slides", type=int, default=1000, metavar="N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results, rows = Path(folder), []
        for number in range(args.slides):
            (results / f"s{number}").symlink_to(args.slide.resolve(), target_is_directory=True)
            rows.append(
                {
                    "slide_id": f"s{number}",
                    "patient": f"P{number // 2}",
                    "label": "ab"[number // 2 % 2],
                }
            )
        (results / "sheet.json").write_text(json.dumps(rows))
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
        (results / "slides.tsv").write_text("\n".join(lines) + "\n")
        commands = {
            "statistics": [
                folder,
                "--sheet",
                f"{folder}/slides.tsv",
                "--group",
                "label",
                "-o",
                f"{folder}/x.tsv",
            ],
            "anndata": [folder, "-o", f"{folder}/cohort.h5ad"],
        }
        for verb, words in commands.items():
            begin, used = time.monotonic(), time.process_time()
            if muse([verb, *words]):
                raise SystemExit(1)
            seconds = {
                "seconds": time.monotonic() - begin,
                "processor_seconds": time.process_time() - used,
            }
            nuclei = read_provenance(args.slide / "nuclei.parquet").n_nuclei
            found = {
                "verb": verb,
                "slides": args.slides,
                "nuclei": nuclei,
                "load": os.getloadavg()[0],
                **seconds,
            }
            print(
                json.dumps(
                    {name: round(x, 1) if isinstance(x, float) else x for name, x in found.items()}
                )
            )


if __name__ == "__main__":
    main()
