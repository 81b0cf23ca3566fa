"""A cohort before its run, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
