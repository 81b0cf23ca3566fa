"""Check slides before a run, and summarise a cohort's problems, duplicates, scanners and download
size.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import cv2
import numpy as np

from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.errors import LeftOutWarning, MissingPackageError, MuseError, SlideError
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import OTHER_STAIN
from muse_pipeline.core.specimen import IHC
from muse_pipeline.core.text import one_line
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.doubts import judge_appearance
from muse_pipeline.qupath.regions import read_roi
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.slides.isolation import call_isolated
from muse_pipeline.slides.remote import SlideUrl, ask_size
from muse_pipeline.store.resample import AreaReader, warn_enlarged
from muse_pipeline.store.write import Chunk, chunks_with_tissue
from muse_pipeline.tissue.colour import SlideColour, measure_colour
from muse_pipeline.tissue.find import find_tissue, is_fluorescence

N_TILES, N_TILES_AFTER_A_BAD_ONE = 12, 64
# with fewer bad samples, their fraction is ignored, since one may be the slide's only bad tile
MANY_CORRUPT = 2
MAX_ROWS = 40  # a longer table of slides is not printed; the JSON file always contains it


@dataclass(frozen=True)
class SlideCheck:
    """Result of checking one slide."""

    slide_id: str  # name of the slide
    path: str  # file of the slide
    problem: str = ""  # sentence that explains why the slide cannot run; "" if it can
    warnings: tuple[str, ...] = ()  # sentences about peculiarities that do not stop a run
    # maker of the scanner, as in ``SlideInfo``; None, like the values below, if the check ended
    # earlier
    vendor: str | None = None
    mpp: tuple[float, float] | None = None  # (x, y) um per level-0 pixel
    mpp_source: str | None = None  # description of where ``mpp`` comes from
    fingerprint: str | None = None  # checksum of the content
    file_bytes: int | None = None  # size of the slide's file
    fetch_bytes: int | None = None  # size of a slide at a URL, which the check does not fetch
    tissue_mm2: float | None = None  # area of tissue, within the ROI if there is one
    roi: str | None = None  # file of the ROI; None if there is none


def check_slides(
    rows: Iterable[SheetRow], card: ModelCard, max_corrupt: float = 0.01, threads: int = 1
) -> Iterator[SlideCheck]:
    """Check each slide in a separate process, and yield the results in the order of ``rows``.

    The card is that of the model that will run; at most ``max_corrupt`` of the tissue may be
    unreadable.
    """

    def check(row: SheetRow) -> SlideCheck:
        try:
            return call_isolated(_check, row.path, row, card, max_corrupt)
        except (SlideError, MissingPackageError) as error:
            return SlideCheck(row.slide_id, row.path, str(error))

    yield from map_in_order(check, rows, threads)


def _check(path: str, row: SheetRow, card: ModelCard, max_corrupt: float) -> SlideCheck:
    if isinstance(row.path, SlideUrl):
        return SlideCheck(row.slide_id, path, fetch_bytes=ask_size(row.path), roi=row.roi)
    cv2.setNumThreads(1)
    entries = {"roi": row.roi}
    warnings = []
    try:
        info = inspect_slide(row.path, row.slide_id, row.mpp)
        entries |= {
            name: getattr(info, name) for name in ("vendor", "mpp", "mpp_source", "fingerprint")
        }
        entries["file_bytes"] = Path(row.path).stat().st_size
        warnings += info.warnings
        with catch_warnings(record=True, action="always", category=LeftOutWarning) as left_out:
            roi = read_roi(Path(row.roi), info) if row.roi else None
        warnings += [str(one.message) for one in left_out]
        with open_slide(row.path, info.reader) as slide:
            # first, since it rejects a slide too coarse for the model
            reader = AreaReader(slide, info, card.mpp)
            warnings += warn_enlarged(info, card.mpp)
            search = find_tissue(slide, info, roi)
            colour = measure_colour(
                slide, info, search.tissue, is_fluorescence(search.overview.pixels), search.warnings
            )
            entries["tissue_mm2"] = search.tissue.area_mm2
            warnings += dict.fromkeys([*colour.warnings, *_compare(colour, card, row.stain)])
            chunks = chunks_with_tissue(search.tissue, reader.mpp, reader.size_px)
            warnings += _try_chunks(reader, chunks, max_corrupt)
    except MuseError as error:
        entries["problem"] = one_line(error)
    return SlideCheck(row.slide_id, path, **entries, warnings=tuple(warnings))


def _compare(colour: SlideColour, card: ModelCard, stain: str | None) -> list[str]:
    """Describe in sentences how a slide differs from the training pictures of a model."""
    verdict = judge_appearance(card.appearance, colour, stain)
    if verdict.is_ihc:
        if stain == IHC:
            return []
        return [f"{verdict.reasons[0]}: nuclei will be scored as positive or negative"]
    unlike = [
        f"unlike the training pictures of {card.name}, check the result before use: {reason}"
        for reason in verdict.sentences()
    ]
    if verdict.verdict == OTHER_STAIN:
        unlike.append("is not bright-field: the totals of the report will leave it out")
    return unlike


def _try_chunks(reader: AreaReader, chunks: np.ndarray, max_corrupt: float) -> list[str]:
    """Decode a random sample of the chunks that are True in ``chunks``, and return a warning if
    some are corrupt.

    The sample is the same in every call.
    """
    positions = np.random.default_rng(0).permutation(np.argwhere(chunks))[:N_TILES_AFTER_A_BAD_ONE]
    n_tried, failures = 0, []
    for chunk in (Chunk(row, column) for row, column in positions.tolist()):
        # A few good tiles suffice; after a bad one, more are read to estimate the fraction of bad
        # ones.
        if n_tried >= N_TILES and not failures:
            break
        n_tried += 1
        try:
            reader.read(chunk.xy, chunk.size(reader.size_px))
        except SlideError as error:
            failures.append(error)
    if not failures:
        return []
    n_bad = len(failures)
    lost = f"{n_bad} of {n_tried} sampled tiles cannot be decoded ({failures[-1]})"
    if n_bad == n_tried or (n_bad >= MANY_CORRUPT and n_bad / n_tried > max_corrupt):
        raise SlideError(
            f"{reader.slide.path}: {lost}; at most {max_corrupt:.1%} of the tissue may be corrupt"
        )
    return [lost]


def sum_up(checks: Sequence[SlideCheck]) -> dict[str, Any]:
    """Summarise the checks of a cohort in a JSON-ready dictionary, which also contains the
    checks.
    """
    runnable = [check for check in checks if not check.problem]
    elsewhere = [check for check in runnable if check.fetch_bytes is not None]
    kinds = Counter(
        (check.vendor, *(round(side, 3) for side in check.mpp)) for check in checks if check.mpp
    )
    return {
        "n_slides": len(checks),
        "n_problems": len(checks) - len(runnable),
        "duplicates": find_duplicates(checks),
        "scanners": [
            {"vendor": vendor, "mpp": [x, y], "slides": n}
            for (vendor, x, y), n in kinds.most_common()
        ],
        "elsewhere": {
            "slides": len(elsewhere),
            "fetch_bytes": sum(check.fetch_bytes for check in elsewhere),
        },
        "tissue_mm2": sum(check.tissue_mm2 for check in runnable if check.fetch_bytes is None),
        "slides": [asdict(check) for check in checks],
    }


def find_duplicates(checks: Sequence[SlideCheck]) -> list[list[str]]:
    """Group the slide_ids of slides with equal content and ROI; slides at URLs are compared by file
    name and size.
    """
    here = {
        (Path(check.path).name, check.file_bytes): check.fingerprint
        for check in checks
        if check.fingerprint
    }
    same = defaultdict(list)
    for check in checks:
        if check.fetch_bytes is not None:
            file = SlideUrl(check.path).file_name, check.fetch_bytes
            same[here.get(file, file), check.roi].append(check.slide_id)
        elif check.fingerprint:
            same[check.fingerprint, check.roi].append(check.slide_id)
    return [names for names in same.values() if len(names) > 1]


def render_preflight(cohort: dict[str, Any]) -> str:
    """Render the result of ``sum_up`` as text, with the problems first."""
    slides, elsewhere = cohort["slides"], cohort["elsewhere"]
    problems = [
        f"cannot run  {slide['slide_id']}: {slide['problem']}"
        for slide in slides
        if slide["problem"]
    ]
    remarks = [f"the same slide  {', '.join(names)}" for names in cohort["duplicates"]]
    remarks += [
        f"note  {slide['slide_id']}: {warning}" for slide in slides for warning in slide["warnings"]
    ]
    n_bytes = elsewhere["fetch_bytes"]
    size = f"{n_bytes / 1e6:,.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"
    fetched = (
        f"at URLs  {elsewhere['slides']} of them, all found, {size} to fetch; not opened, and not"
        " counted below"
    )
    n_opened = cohort["n_slides"] - cohort["n_problems"] - elsewhere["slides"]
    total = f"{n_opened} can run: {cohort['tissue_mm2']:,.1f} mm2 of tissue"
    parts = (
        problems,
        remarks,
        _slides(cohort),
        _scanners(cohort),
        [fetched] * bool(elsewhere["slides"]),
        [total],
    )
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part)))


def _slides(cohort: dict[str, Any]) -> Iterator[str]:
    runnable = [
        slide for slide in cohort["slides"] if not slide["problem"] and slide["fetch_bytes"] is None
    ]
    if not runnable or len(runnable) > MAX_ROWS:
        return
    width = max(len("slide_id"), *(len(slide["slide_id"]) for slide in runnable))
    yield f"{'slide_id':{width}}  {'vendor':>14}  {'mpp':>7}  {'tissue, mm2':>11}"
    for slide in runnable:
        yield (
            f"{slide['slide_id']:{width}}  {slide['vendor']:>14}  {slide['mpp'][0]:7.4f} "
            f" {slide['tissue_mm2']:11.2f}"
        )


def _scanners(cohort: dict[str, Any]) -> Iterator[str]:
    if cohort["scanners"]:
        yield "slides  vendor and um per pixel"
    for kind in cohort["scanners"]:
        x, y = kind["mpp"]
        yield f"{kind['slides']:6}  {kind['vendor']}, {x:g}" + (f" x {y:g}" if x != y else "")
