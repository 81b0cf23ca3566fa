"""``nuclei.geojson.gz``: what QuPath opens, written from ``nuclei.parquet`` in batches of bounded size."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

from muse_pipeline.coords import qupath_offset_px
from muse_pipeline.errors import GeoJSONError, NucleiError
from muse_pipeline.files import remove, write_json
from muse_pipeline.nuclei.feature_file import FeatureFile, encode, split_name
from muse_pipeline.nuclei.feature_text import COLUMNS, FeatureRenderer, measurements_of
from muse_pipeline.nuclei.parquet import CLUSTER, iterate_rows, open_nuclei, read_provenance
from muse_pipeline.parallel import map_in_order
from muse_pipeline.types import SlideInfo

BATCH = 8_192


def write_geojson(
    nuclei_path: Path | str,
    info: SlideInfo,
    output: Path | str,
    frame: str = "qupath",
    max_features: int | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Write the nuclei of a slide for QuPath, and a sidecar ``<name>.provenance.json`` beside them.

    Args:
        nuclei_path: a ``nuclei.parquet``.
        info: its slide.
        output: ends in ``.geojson.gz``, or in ``.geojson`` to leave it uncompressed.
        frame: "qupath" or "openslide": where positions are counted from, see ``coords.qupath_offset_px``.
        max_features: where there are more nuclei, write ``<name>.part-001.geojson.gz`` and so on as well, with at most
            so many each.
        threads: that render and compress; the bytes do not depend on them.

    Returns:
        The sidecar's content.

    Raises:
        GeoJSONError: the output's name or an option cannot be used.
        NucleiError: the table is not one of ours, or of another slide.
    """
    output = Path(output)
    provenance = read_provenance(nuclei_path)
    _check_slide(nuclei_path, provenance, info)
    offset_px = qupath_offset_px(info.bounds, frame)
    run = f"{provenance['slide_id']}|{provenance['model']['sha256']}"
    renderer = FeatureRenderer(provenance["card"]["classes"], run, offset_px)
    with open_nuclei(nuclei_path) as file:
        columns = [*COLUMNS, *({CLUSTER} & set(file.schema_arrow.names))]
    parts = _write_files(nuclei_path, columns, renderer, output, provenance["n_nuclei"], max_features, threads)
    sidecar = {
        "slide_id": info.slide_id,
        "slide_file": Path(info.path).name,
        "slide_path": info.path,
        "size_px": list(_find_size(info, frame)),
        "frame": frame,
        "offset_px": list(offset_px),
        "measurements": [name for name, _, _ in measurements_of(columns)],
        "parts": [path.name for path in parts],
        "provenance": provenance,
    }
    write_json(output.with_name(f"{split_name(output)[0]}.provenance.json"), sidecar)
    return sidecar


def _find_size(info: SlideInfo, frame: str) -> tuple[int, int]:
    """(width, height) of the image as the program that ``frame`` is named for opens it."""
    return (info.bounds.width, info.bounds.height) if frame == "qupath" and info.bounds else info.size_px


def _check_slide(nuclei_path: Path | str, provenance: dict[str, Any], info: SlideInfo) -> None:
    if provenance["fingerprint"] != info.fingerprint:
        raise NucleiError(
            f"{nuclei_path}: made from slide '{provenance['slide_id']}' with fingerprint {provenance['fingerprint']}, "
            f"while slide '{info.slide_id}' has {info.fingerprint}; run the slide again or give its own slide.json"
        )


def _write_files(
    nuclei_path: Path | str,
    columns: list[str],
    renderer: FeatureRenderer,
    output: Path,
    n_nuclei: int,
    max_features: int | None,
    threads: int,
) -> list[Path]:
    """Write the whole file and, beside it, the parts, whose paths are returned."""
    suffix = split_name(output)[1]
    n_batches, batch_size = _divide_into_batches(BATCH if max_features is None else max_features)
    n_parts = 0 if max_features is None else -(-n_nuclei // (n_batches * batch_size))
    parts = [_part_path(output, f"{number:03d}") for number in range(1, n_parts + 1)] if n_parts > 1 else []
    of_any_number = re.compile(re.escape(split_name(output)[0]) + r"\.part-\d{3,}" + re.escape(suffix))
    for stale in [path for path in output.parent.glob("*.part-*") if of_any_number.fullmatch(path.name)]:
        remove(stale)
    tables = iterate_rows(nuclei_path, batch_size, columns)
    batches = map_in_order(lambda table: encode(renderer.render(table), suffix), tables, threads)
    with FeatureFile(output) as whole:
        for path in parts:
            with FeatureFile(path) as part:
                for batch in islice(batches, n_batches):
                    whole.write(batch)
                    part.write(batch)
        for batch in batches:  # all of them, where there are no parts
            whole.write(batch)
    return parts


def _divide_into_batches(n_features: int) -> tuple[int, int]:
    """How many batches of which size, at most ``BATCH``, make up ``n_features`` or a few less.

    Raises:
        GeoJSONError: there is nothing to divide.
    """
    if n_features < 1:
        raise GeoJSONError(f"parts of at most {n_features} nuclei hold none; give 1 or more")
    n_batches = -(-n_features // BATCH)
    return n_batches, n_features // n_batches


def _part_path(output: Path, number: str) -> Path:
    stem, suffix = split_name(output)
    return output.with_name(f"{stem}.part-{number}{suffix}")
