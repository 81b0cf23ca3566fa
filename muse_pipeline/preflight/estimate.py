"""Sum up the checks of slides for the cohort: duplicates, scanners, and the cost of the run.

All costs are measured by the checks except those of writing results, which grow with the nuclei and hardly
differ between machines (docs/results.md, "Writers").
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from muse_pipeline.core.text import count_noun
from muse_pipeline.preflight.check import SlideCheck
from muse_pipeline.slides.remote import SlideUrl

N_STEPS = 7  # of a slide, each a process: inspect, tissue, tile, detect, stitch, geojson, overlay
SECONDS_PER_NUCLEUS = 1 / 31_000
RESULT_BYTES_PER_NUCLEUS, SHARD_BYTES_PER_NUCLEUS = 576, 190
VIEWER_BYTES_PER_MM2 = 1_500_000  # its picture; docs/results.md, "The viewer of a large slide"
PICTURE_BYTES = 9_000_000  # of a slide: tissue.png, density.png, overlays, its JSON files, its part of the report
LARGEST_JOB_MIB = 600  # of 25 mm2 or more with two threads; docs/results.md, "A whole run"


def sum_up(checks: Sequence[SlideCheck], threads: int, start_seconds: float) -> dict[str, Any]:
    """The cohort in one JSON-ready dictionary.

    Args:
        checks: one per slide.
        threads: threads of the run.
        start_seconds: processor time that a step takes to start.
    """
    runnable = [check for check in checks if not check.problem]
    elsewhere = [check for check in runnable if check.fetch_bytes is not None]
    return {
        "n_slides": len(checks),
        "n_problems": len(checks) - len(runnable),
        "duplicates": find_duplicates(checks),
        "scanners": count_scanners(checks),
        "elsewhere": {"slides": len(elsewhere), "fetch_bytes": sum(check.fetch_bytes for check in elsewhere)},
        "estimate": estimate_run([check for check in runnable if check.fetch_bytes is None], threads, start_seconds),
        "slides": [asdict(check) for check in checks],
    }


def find_duplicates(checks: Sequence[SlideCheck]) -> list[list[str]]:
    """Names of slides with the same content; at URLs, with the same file name and size."""
    here = {(Path(check.path).name, check.file_bytes): check.fingerprint for check in checks if check.fingerprint}
    same = defaultdict(list)
    for check in checks:
        if check.fetch_bytes is not None:
            file = SlideUrl(check.path).file_name, check.fetch_bytes
            same[here.get(file, file)].append(check.slide_id)
        elif check.fingerprint:
            same[check.fingerprint].append(check.slide_id)
    return [names for names in same.values() if len(names) > 1]


def count_scanners(checks: Sequence[SlideCheck]) -> list[dict[str, Any]]:
    """Number of slides per vendor and mpp (to 0.001 um), the most common first."""
    kinds = Counter((check.vendor, *(round(side, 3) for side in check.mpp)) for check in checks if check.mpp)
    return [{"vendor": vendor, "mpp": [x, y], "slides": n} for (vendor, x, y), n in kinds.most_common()]


def estimate_run(checks: Sequence[SlideCheck], threads: int, start_seconds: float) -> dict[str, Any]:
    """Cost of the slides that can run.

    ``processor_hours`` is for one thread; ``hours`` divides it evenly, which many slides or shards achieve.
    """
    nuclei = [check.n_windows * check.nuclei_per_window for check in checks]
    reading = sum(check.tissue_seconds + check.n_chunks * check.chunk_seconds for check in checks)
    model = sum(check.n_windows * check.window_seconds for check in checks)
    rest = len(checks) * N_STEPS * start_seconds + sum(nuclei) * SECONDS_PER_NUCLEUS
    hours = (reading + model + rest) / 3600
    tissue_mm2 = sum(check.tissue_mm2 for check in checks)
    stores = [
        check.n_chunks * check.chunk_bytes + SHARD_BYTES_PER_NUCLEUS * n
        for check, n in zip(checks, nuclei, strict=True)
    ]
    return {
        "slides": len(checks),
        "tissue_mm2": tissue_mm2,
        "nuclei": round(sum(nuclei)),
        "threads": threads,
        "hours": hours / threads,
        "processor_hours": hours,
        "processor_hours_by_part": {"reading": reading / 3600, "model": model / 3600, "the rest": rest / 3600},
        "peak_memory_mib": max((check.peak_memory_mib for check in checks), default=0),
        "scratch_bytes": round(sum(stores)),
        "largest_scratch_bytes": round(max(stores, default=0)),
        "result_bytes": round(
            RESULT_BYTES_PER_NUCLEUS * sum(nuclei) + VIEWER_BYTES_PER_MM2 * tissue_mm2 + PICTURE_BYTES * len(checks)
        ),
    }


MAX_ROWS = 40  # of the table of slides: longer ones are for the JSON file


def render_preflight(cohort: dict[str, Any]) -> str:
    """``sum_up`` as text, worst first."""
    parts = [
        _problems(cohort),
        _remarks(cohort),
        _slides(cohort),
        _scanners(cohort),
        _elsewhere(cohort),
        _estimate(cohort["estimate"]),
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
        yield f"at URLs  {n_slides} of them, all found, {size} to fetch; not opened, and not in what follows"


def _estimate(estimate: dict[str, Any]) -> Iterator[str]:
    parts = ", ".join(f"{name} {_duration(hours)}" for name, hours in estimate["processor_hours_by_part"].items())
    tissue, nuclei = estimate["tissue_mm2"], estimate["nuclei"]
    yield f"{estimate['slides']} can run: {tissue:,.1f} mm2 of tissue, about {count_noun(nuclei, 'nucleus', 'nuclei')}"
    yield f"time     about {_duration(estimate['hours'])} on {estimate['threads']} threads (of one thread: {parts})"
    checks_mib = estimate["peak_memory_mib"]
    later = f"about {LARGEST_JOB_MIB} in later steps of `compact`, by two"
    yield f"memory   {checks_mib:,} MiB in these checks, by one thread; {later}"
    yield (
        f"scratch  {_size(estimate['scratch_bytes'])} for images and shards; with keep_stores: false, "
        f"{_size(estimate['largest_scratch_bytes'])} at most for a slide at a time"
    )
    yield f"results  {_size(estimate['result_bytes'])}"
    yield "not included: proposals, embeddings, further images (extra_mpps) and training, if the config asks for them"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"
