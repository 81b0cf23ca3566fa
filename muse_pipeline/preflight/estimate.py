"""From looks at slides to the cohort: who is there twice, what mix it is, and what the run will take.

Everything is measured in the looks but two figures for the writing of results, which grow with the nuclei and hardly
differ between machines (docs/results.md, "Writers").
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from muse_pipeline.preflight.look import Look
from muse_pipeline.slides.remote import SlideUrl

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


MAX_ROWS = 40  # of the table of slides: longer ones are for the JSON file


def render_preflight(cohort: dict[str, Any]) -> str:
    """What ``price.sum_up`` says, worst first."""
    parts = [
        _problems(cohort),
        _remarks(cohort),
        _slides(cohort),
        _scanners(cohort),
        _elsewhere(cohort),
        _price(cohort["price"]),
    ]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part)))


def _problems(cohort: dict[str, Any]) -> Iterator[str]:
    for slide in cohort["slides"]:
        if slide["problem"]:
            yield f"cannot run  {slide['slide_id']}: {slide['problem']}"


def _remarks(cohort: dict[str, Any]) -> Iterator[str]:
    for names in cohort["duplicates"]:
        yield f"the same slide  {', '.join(names)}"
    for slide in cohort["slides"]:
        for warning in slide["warnings"]:
            yield f"note  {slide['slide_id']}: {warning}"


def _slides(cohort: dict[str, Any]) -> Iterator[str]:
    runnable = [slide for slide in cohort["slides"] if not slide["problem"] and slide["fetch_bytes"] is None]
    if not runnable or len(runnable) > MAX_ROWS:
        return
    width = max(len("slide_id"), *(len(slide["slide_id"]) for slide in runnable))
    yield f"{'slide_id':{width}}  {'vendor':>14}  {'mpp':>7}  {'tissue, mm2':>11}  {'windows':>8}  {'nuclei, ~':>9}"
    for slide in runnable:
        yield (
            f"{slide['slide_id']:{width}}  {slide['vendor']:>14}  {slide['mpp'][0]:7.4f}  {slide['tissue_mm2']:11.2f}  "
            f"{slide['n_windows']:8,}  {slide['n_windows'] * slide['nuclei_per_window']:9,.0f}"
        )


def _scanners(cohort: dict[str, Any]) -> Iterator[str]:
    if cohort["scanners"]:
        yield "slides  vendor and um per pixel"
    for kind in cohort["scanners"]:
        x, y = kind["mpp"]
        yield f"{kind['slides']:6}  {kind['vendor']}, {x:g}" + (f" x {y:g}" if x != y else "")


def _elsewhere(cohort: dict[str, Any]) -> Iterator[str]:
    if n_slides := cohort["elsewhere"]["slides"]:
        size = _size(cohort["elsewhere"]["fetch_bytes"])
        yield f"at URLs  {n_slides} of them, all there, {size} to fetch; not looked into, and not in what follows"


def _price(price: dict[str, Any]) -> Iterator[str]:
    parts = ", ".join(f"{name} {_duration(hours)}" for name, hours in price["processor_hours_by_part"].items())
    yield f"{price['slides']} can run: {price['tissue_mm2']:,.1f} mm2 of tissue, about {price['nuclei']:,} nuclei"
    yield f"time     about {_duration(price['hours'])} on {price['threads']} threads (of one thread: {parts})"
    yield f"memory   {price['peak_memory_mib']:,} MiB at most, measured with one thread"
    yield (
        f"scratch  {_size(price['scratch_bytes'])} for images and shards; with keep_stores: false, "
        f"{_size(price['largest_scratch_bytes'])} at most for a slide at a time"
    )
    yield f"results  {_size(price['result_bytes'])}"
    yield "not in it: proposals, further images (extra_mpps) and training, where the config asks for them"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"
