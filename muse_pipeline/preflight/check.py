"""Check of one slide before the run: its readability, and the cost of its steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import cv2
import numpy as np
from numcodecs import Zstd
from shapely.geometry.base import BaseGeometry

from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.coords import work_to_level0
from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.core.errors import LeftOutWarning, MissingPackageError, ModelError, MuseError, SlideError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.provenance import OTHER_STAIN
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.inference.appearance import judge_appearance
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.detect import plan_windows
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.qupath.regions import read_roi
from muse_pipeline.slides.base import open_slide, overlap, white_canvas
from muse_pipeline.slides.fetch import ask_size
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.slides.isolation import LIMITS, Limits, map_isolated
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.store.chunks import chunks_with_tissue
from muse_pipeline.store.resample import AreaReader, warn_enlarged
from muse_pipeline.store.store import CHUNK_PX
from muse_pipeline.store.write import MARGIN_UM
from muse_pipeline.tissue.colour import SlideColour, measure_colour
from muse_pipeline.tissue.find import find_tissue, is_fluorescence
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import IDENTITY

N_TILES, N_TILES_AFTER_A_BAD_ONE = 12, 64
N_WINDOWS = 4
MANY_CORRUPT = 2  # of the sampled tiles; a single one may be the only one of the slide
PYRAMID_SHARE = 1 + 1 / 16 + 1 / 256  # bytes of all levels of a store over those of its first


@dataclass(frozen=True)
class SlideCheck:
    """Result of checking one slide.

    Attributes:
        slide_id: name of the slide.
        path: file of the slide.
        problem: reason that the slide cannot run, in one sentence; "" if it can.
        warnings: sentences about peculiarities that do not stop a run.
        vendor: maker of the scanner, as in ``SlideInfo``; this and the following are None if the check stopped earlier.
        mpp: (x, y) um per level-0 pixel.
        mpp_source: source of the mpp.
        fingerprint: checksum of the content.
        file_bytes: size of the slide's file.
        fetch_bytes: size of a slide at a URL; such slides are not fetched.
        tissue_mm2: area of tissue, within the ROI if there is one.
        n_chunks: number of chunks of the image that detection reads.
        n_windows: number of windows that the model runs on.
        tissue_seconds: time to find the tissue and measure its stain.
        chunk_seconds: time to read and compress a chunk, mean of the sampled ones.
        chunk_bytes: size of a compressed chunk, the smaller levels included.
        window_seconds: time of the model per window, on one thread.
        nuclei_per_window: mean number of nuclei, if all tissue has the density of the sampled windows.
        peak_memory_mib: peak memory of the check.
    """

    slide_id: str
    path: str
    problem: str = ""
    warnings: tuple[str, ...] = ()
    vendor: str | None = None
    mpp: tuple[float, float] | None = None
    mpp_source: str | None = None
    fingerprint: str | None = None
    file_bytes: int | None = None
    fetch_bytes: int | None = None
    tissue_mm2: float | None = None
    n_chunks: int | None = None
    n_windows: int | None = None
    tissue_seconds: float | None = None
    chunk_seconds: float | None = None
    chunk_bytes: float | None = None
    window_seconds: float | None = None
    nuclei_per_window: float | None = None
    peak_memory_mib: int | None = None


@dataclass(frozen=True)
class Trial:
    """Model and limits of the check.

    Attributes:
        model: ONNX file of the model.
        provider: runtime provider.
        max_corrupt: fraction of the tissue that may be unreadable.
    """

    model: Path
    provider: str = "cpu"
    max_corrupt: float = 0.01


def check_slides(
    rows: Iterable[SheetRow], trial: Trial, threads: int = 1, limits: Limits = LIMITS
) -> Iterator[tuple[int, SlideCheck]]:
    """Check slides, each in a separate process; yields their index in ``rows`` and the result as they finish.

    Raises:
        ModelError, ProviderError: the model cannot be used.
    """
    rows = list(rows)
    for number, found in map_isolated(_check, [(row.path, row, trial) for row in rows], threads, limits):
        if isinstance(found, SlideCheck):
            yield number, found
        elif isinstance(found, (SlideError, MissingPackageError)):
            yield number, SlideCheck(rows[number].slide_id, rows[number].path, str(found))
        else:
            raise found


def read_check(path: Path) -> SlideCheck:
    """Read a check that was written as JSON.

    Raises:
        SlideError: the file is missing or of another version.
    """
    try:
        values = read_json(path)
        return SlideCheck(**{**values, "warnings": tuple(values["warnings"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        names = ", ".join(field.name for field in fields(SlideCheck))
        raise SlideError(f"{path}: not a check of this version ({names}); write it with `muse preflight`") from error


def _check(path: str, row: SheetRow, trial: Trial) -> SlideCheck:
    if isinstance(row.path, SlideUrl):
        return SlideCheck(row.slide_id, path, fetch_bytes=ask_size(row.path))
    cv2.setNumThreads(1)
    predictor = Predictor(trial.model, trial.provider)
    known: dict[str, Any] = {}
    warnings: list[str] = []
    try:
        info = inspect_slide(row.path, row.slide_id, row.mpp)
        known |= {name: getattr(info, name) for name in ("vendor", "mpp", "mpp_source", "fingerprint")}
        known["file_bytes"] = Path(row.path).stat().st_size
        warnings += info.warnings
        with catch_warnings(record=True, action="always", category=LeftOutWarning) as left_out:
            roi = read_roi(Path(row.roi), info) if row.roi else None
        warnings += [str(one.message) for one in left_out]
        slide = open_slide(row.path, info.reader)
        reader = AreaReader(slide, info, predictor.card.mpp)  # first: a slide too coarse for the model needs no tissue
        warnings += warn_enlarged(info, predictor.card.mpp)
        tissue, colour, measured = _measure_tissue(slide, info, roi)
        known |= measured
        warnings += dict.fromkeys([*colour.warnings, *_compare(colour, predictor.card)])
        chunks = chunks_with_tissue(tissue, reader.mpp, reader.size_px, MARGIN_UM)
        known["n_chunks"] = int(chunks.sum())
        sampled, unread = _sample_tiles(reader, chunks, trial.max_corrupt)
        known |= sampled
        warnings += unread
        known |= _time_model(predictor, reader, info, tissue)
    except ModelError:  # the same for every slide
        raise
    except MuseError as error:
        known["problem"] = one_line(error)
    return SlideCheck(row.slide_id, path, **known, warnings=tuple(warnings), peak_memory_mib=peak_memory_mib())


def _measure_tissue(
    slide: Slide, info: SlideInfo, roi: BaseGeometry | None
) -> tuple[TissueMask, SlideColour, dict[str, float]]:
    """Tissue and stain as ``muse tissue`` finds them, the area and the time it took."""
    started = time.perf_counter()
    found = find_tissue(slide, info, roi)
    colour = measure_colour(slide, info, found.tissue, is_fluorescence(found.overview.pixels), found.warnings)
    seconds = time.perf_counter() - started
    return found.tissue, colour, {"tissue_mm2": found.tissue.area_mm2, "tissue_seconds": seconds}


def _compare(colour: SlideColour, card: ModelCard) -> list[str]:
    """Differences between a slide and the training pictures of a model, in sentences."""
    verdict = judge_appearance(card.appearance, colour)
    unlike = [
        f"unlike the training pictures of {card.name}, check the result before use: {reason}"
        for reason in verdict.sentences()
    ]
    if verdict.verdict == OTHER_STAIN:
        unlike.append("of another stain: its nuclei will be in no total of the report")
    return unlike


def _sample_tiles(reader: AreaReader, chunks: np.ndarray, max_corrupt: float) -> tuple[dict[str, float], list[str]]:
    """Cost of reading and storing a chunk among ``chunks`` (rows, columns) bool, and a warning about corrupt ones.

    Raises:
        SlideError: too many tiles cannot be decoded.
    """
    corners = _sample(np.argwhere(chunks)[:, ::-1] * CHUNK_PX, N_TILES_AFTER_A_BAD_ONE)
    if not len(corners):
        return {"chunk_seconds": 0.0, "chunk_bytes": 0.0}, []
    n_tried, seconds, sizes, failures = 0, 0.0, [], []
    for corner in corners.tolist():
        if n_tried >= N_TILES and not failures:
            break
        n_tried += 1
        started = time.perf_counter()
        try:
            pixels = _read(reader, tuple(corner), (CHUNK_PX, CHUNK_PX))
            sizes.append(len(Zstd(level=1).encode(np.ascontiguousarray(pixels.transpose(2, 0, 1)))))
            seconds += time.perf_counter() - started
        except SlideError as error:
            failures.append(error)
    warnings = []
    if failures:
        lost = f"{len(failures)} of {n_tried} sampled tiles cannot be decoded ({failures[-1]})"
        if not sizes or (len(failures) >= MANY_CORRUPT and len(failures) / n_tried > max_corrupt):
            raise SlideError(f"{reader.slide.path}: {lost}; at most {max_corrupt:.1%} of the tissue may be corrupt")
        warnings.append(lost)
    return {"chunk_seconds": seconds / len(sizes), "chunk_bytes": float(np.mean(sizes)) * PYRAMID_SHARE}, warnings


def _time_model(predictor: Predictor, reader: AreaReader, info: SlideInfo, tissue: TissueMask) -> dict[str, float]:
    """Number of windows that the model will run on, time and nuclei per window.

    Raises:
        SlideError: no sampled window can be decoded.
    """
    card = predictor.card
    positions = plan_windows(predictor, tissue, reader.size_px)
    # On a processor the thread's own time, which other load does not lengthen; a GPU's is visible on the clock only.
    clock = time.process_time if predictor.provider in {"cpu", "openvino", "torch-cpu"} else time.perf_counter
    if not len(positions):
        return {"n_windows": 0, "window_seconds": 0.0, "nuclei_per_window": 0.0}
    seconds, n_px, n_nuclei, area_mm2 = [], [], 0, 0.0
    for x, y, width, height in _sample(positions, N_WINDOWS).tolist():
        try:
            batch = np.repeat(_read(reader, (x, y), (width, height))[None], card.batch, axis=0)
        except SlideError:
            continue  # counted among the tiles
        if not seconds:
            predictor(batch, IDENTITY)  # the first call allocates
        started = clock()
        found = predictor(batch, IDENTITY)[0]
        seconds.append((clock() - started) / card.batch)
        n_px.append(width * height)
        first, last = owned_box((x, y), (width, height), card.halo_px, reader.size_px)
        xy = found.xy + np.array([x, y])
        own = xy[((first <= xy) & (xy < last)).all(1)]
        n_nuclei += tissue.kept.contains(work_to_level0(own, info.mpp, card.mpp), info.mpp).sum()
        area_mm2 += tissue_within(tissue, first * card.mpp, last * card.mpp)
    if not seconds:
        raise SlideError(
            f"{reader.slide.path}: none of its sampled windows can be decoded; copy it again from its source"
        )
    mean_px = (positions[:, 2] * positions[:, 3]).mean()
    return {
        "n_windows": len(positions),
        "window_seconds": float(np.sum(seconds) / np.sum(n_px) * mean_px),
        "nuclei_per_window": float(n_nuclei / area_mm2 * tissue.area_mm2 / len(positions)) if area_mm2 else 0.0,
    }


def owned_box(
    corner: tuple[int, int], size_px: tuple[int, int], halo_px: int, slide_px: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """First and last (x, y) of the core of a window; at the slide's edge the core extends to the edge."""
    start, end = np.array(corner), np.add(corner, size_px)
    first = np.maximum(start, 0) + np.where(start > 0, halo_px, 0)
    last = np.minimum(end, slide_px) - np.where(end < slide_px, halo_px, 0)
    return first, np.maximum(last, first)


def tissue_within(tissue: TissueMask, first_um: np.ndarray, last_um: np.ndarray) -> float:
    """mm2 of tissue in a rectangle of the slide, (x, y) to (x, y) in um: mask pixels whose centre is inside."""
    left, top, right, bottom = np.round(np.concatenate([first_um, last_um]) / np.tile(tissue.mask_mpp, 2)).astype(int)
    return float(tissue.mask[top:bottom, left:right].sum() * np.prod(tissue.mask_mpp) / 1e6)


def _sample(positions: np.ndarray, n: int) -> np.ndarray:
    """Up to ``n`` random rows of ``positions``, the same at every call."""
    return np.random.default_rng(0).permutation(positions)[:n]


def _read(reader: AreaReader, corner: tuple[int, int], size_px: tuple[int, int]) -> np.ndarray:
    """``size_px`` = (width, height) as (height, width, 3) uint8 at ``corner``, white beyond the slide."""
    canvas = white_canvas(size_px)
    meeting = overlap(corner, size_px, reader.size_px)
    if meeting is not None:
        (rows, columns), inside = meeting
        size = columns.stop - columns.start, rows.stop - rows.start
        canvas[inside] = reader.read((columns.start, rows.start), size)
    return canvas
