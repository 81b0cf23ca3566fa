"""From looks at slides to the cohort: who is there twice, what mix it is, and what the run will take.

Everything is measured in the looks but two figures for the writing of results, which grow with the nuclei and hardly
differ between machines (docs/performance.md, "Writers").
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from muse_pipeline.preflight.look import Look
from muse_pipeline.slides.url import SlideUrl

N_STEPS = 7  # of a slide, each a process: inspect, tissue, tile, detect, stitch, geojson, overlay
SECONDS_PER_NUCLEUS = 1 / 31_000
RESULT_BYTES_PER_NUCLEUS, SHARD_BYTES_PER_NUCLEUS = 576, 190
PICTURE_BYTES = 2_000_000  # of a slide: tissue.png, density.png, overlays, and its JSON files


def sum_up(looks: Sequence[Look], threads: int, start_seconds: float) -> dict[str, Any]:
    """The cohort in one JSON-ready dictionary.

    Args:
        looks: one per slide.
        threads: how many threads the run will have.
        start_seconds: of the processor that a step takes before it begins.
    """
    runnable = [look for look in looks if not look.problem]
    elsewhere = [look for look in runnable if look.fetch_bytes is not None]
    return {
        "n_slides": len(looks),
        "n_problems": len(looks) - len(runnable),
        "duplicates": find_duplicates(looks),
        "scanners": count_scanners(looks),
        "elsewhere": {"slides": len(elsewhere), "fetch_bytes": sum(look.fetch_bytes for look in elsewhere)},
        "price": price_run([look for look in runnable if look.fetch_bytes is None], threads, start_seconds),
        "slides": [asdict(look) for look in looks],
    }


def find_duplicates(looks: Sequence[Look]) -> list[list[str]]:
    """Names of slides with the same content, group by group; of those at URLs, with the same file name and size."""
    here = {(Path(look.path).name, look.file_bytes): look.fingerprint for look in looks if look.fingerprint}
    same = defaultdict(list)
    for look in looks:
        if look.fetch_bytes is not None:
            file = SlideUrl(look.path).file_name, look.fetch_bytes
            same[here.get(file, file)].append(look.slide_id)
        elif look.fingerprint:
            same[look.fingerprint].append(look.slide_id)
    return [names for names in same.values() if len(names) > 1]


def count_scanners(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """How many slides are of which vendor and mpp (to 0.001 um), the most common first."""
    kinds = Counter((look.vendor, *(round(side, 3) for side in look.mpp)) for look in looks if look.mpp)
    return [{"vendor": vendor, "mpp": [x, y], "slides": n} for (vendor, x, y), n in kinds.most_common()]


def price_run(looks: Sequence[Look], threads: int, start_seconds: float) -> dict[str, Any]:
    """What the slides that can run will take.

    ``processor_hours`` is on one thread; ``hours`` is that shared evenly by all, which many slides or shards achieve.
    """
    nuclei = [look.n_windows * look.nuclei_per_window for look in looks]
    reading = sum(look.tissue_seconds + look.n_chunks * look.chunk_seconds for look in looks)
    model = sum(look.n_windows * look.window_seconds for look in looks)
    rest = len(looks) * N_STEPS * start_seconds + sum(nuclei) * SECONDS_PER_NUCLEUS
    hours = (reading + model + rest) / 3600
    stores = [
        look.n_chunks * look.chunk_bytes + SHARD_BYTES_PER_NUCLEUS * n for look, n in zip(looks, nuclei, strict=True)
    ]
    return {
        "slides": len(looks),
        "tissue_mm2": sum(look.tissue_mm2 for look in looks),
        "nuclei": round(sum(nuclei)),
        "threads": threads,
        "hours": hours / threads,
        "processor_hours": hours,
        "processor_hours_by_part": {"reading": reading / 3600, "model": model / 3600, "the rest": rest / 3600},
        "peak_memory_mib": max((look.peak_memory_mib for look in looks), default=0),
        "scratch_bytes": round(sum(stores)),
        "largest_scratch_bytes": round(max(stores, default=0)),
        "result_bytes": round(RESULT_BYTES_PER_NUCLEUS * sum(nuclei) + PICTURE_BYTES * len(looks)),
    }
