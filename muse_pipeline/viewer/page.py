"""The folder ``viewer`` of a slide: ``index.html``, its scripts, the tiles of the image and the
nuclei.

The image is a pyramid of JPEG tiles made from a store, with the colour of glass where nothing was
stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from html import escape
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import cv2
import numpy as np
import shapely
import simplejpeg
from shapely.geometry.base import BaseGeometry

from muse_pipeline import __version__
from muse_pipeline.cohort.layout import CohortFiles, SlideFiles
from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import NucleiError, OutputError
from muse_pipeline.core.files import complete_file, find_json
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference import stains
from muse_pipeline.nuclei.parquet import footer_checksum, open_nuclei, read_provenance
from muse_pipeline.qupath.regions import read_class_areas
from muse_pipeline.report.plots import COLOR_BLIND_SAFE
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import BACKGROUND, PYRAMID, Store, open_store
from muse_pipeline.tissue.background import estimate_glass
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.outline import trace_outline
from muse_pipeline.viewer.nuclei import ChunkWriter, Gallery, Overview, iterate_batches

TILE_PX = 1024
QUALITY = 75


class Block(NamedTuple):
    """A square of 2 x 2 tiles of a level (0 has the store's pixels), and its column and row in the
    level above.
    """

    level: int
    column: int
    row: int


def write_tiles(store: Store, folder: Path, threads: int = 1) -> dict[str, Any]:
    """Write ``LEVEL/COLUMN_ROW.jpg`` for every tile with stored pixels; level k is reduced ``2**k``
    times.

    Returns the geometry of the pyramid, the colour of the glass, and for every level the names
    "COLUMN_ROW" of the tiles that exist. Each thread holds a block of four tiles in memory. Levels
    that are reduced 64 times or more are read from the store's smallest level, so their blocks may
    take the memory of the whole slide at that level.
    """
    n_levels, smallest = count_levels(store.size_px), store.at(store.mpp * PYRAMID[-1])
    glass = np.round(estimate_glass(smallest.read((0, 0), smallest.size_px))).astype(np.uint8)
    plate = np.broadcast_to(glass, (2 * TILE_PX, 2 * TILE_PX, 3)).copy()
    for level in range(n_levels):
        (folder / str(level)).mkdir(parents=True)
    tiles: list[list[str]] = [[] for _ in range(n_levels)]
    blocks = [
        Block(level, column, row)
        for level in range(0, n_levels, 2)
        for row, column in np.ndindex(
            *(-(-side // (2 * TILE_PX << level)) for side in store.size_px[::-1])
        )
    ]
    for names in map_in_order(
        lambda block: _write_block(store, block, folder, n_levels, plate), blocks, threads
    ):
        for level, name in names:
            tiles[level].append(name)
    return {
        "size_px": list(store.size_px),
        "mpp": store.mpp,
        "tile_px": TILE_PX,
        "glass": glass.tolist(),
        "tiles": tiles,
    }


def count_levels(size_px: tuple[int, int]) -> int:
    """The number of levels, each half the size of the one before, down to the first that fits into
    a single tile.
    """
    n_tiles = -(-max(size_px) // TILE_PX)
    return (n_tiles - 1).bit_length() + 1


def _write_block(
    store: Store, block: Block, folder: Path, n_levels: int, glass: np.ndarray
) -> list[tuple[int, str]]:
    """Write the tiles of a block that have stored pixels, and the tile above them; return (level,
    name) of each.

    ``glass`` (2 * TILE_PX, 2 * TILE_PX, 3) replaces pixels that were not stored, which are read as
    white.
    """
    level_store = store.at(store.mpp * 2**block.level)
    corner = 2 * TILE_PX * block.column, 2 * TILE_PX * block.row
    size = [
        min(2 * TILE_PX, side - start)
        for side, start in zip(level_store.size_px, corner, strict=True)
    ]
    pixels = level_store.read(corner, tuple(size))
    tiles = {
        f"{2 * block.column + column}_{2 * block.row + row}": tile
        for row, column in np.ndindex(-(-size[1] // TILE_PX), -(-size[0] // TILE_PX))
        if (tile := pixels[row * TILE_PX :, column * TILE_PX :][:TILE_PX, :TILE_PX]).min()
        < BACKGROUND
    }
    if not tiles:
        return []
    white = cv2.inRange(pixels, (BACKGROUND,) * 3, (BACKGROUND,) * 3)
    cv2.copyTo(glass[: size[1], : size[0]], white, pixels)
    for name, tile in tiles.items():
        _write_tile(tile, folder / f"{block.level}/{name}.jpg")
    written = [(block.level, name) for name in tiles]
    if block.level + 1 < n_levels:
        half = cv2.resize(
            pixels, (-(-size[0] // 2), -(-size[1] // 2)), interpolation=cv2.INTER_AREA
        )
        name = f"{block.column}_{block.row}"
        written.append((block.level + 1, name))
        _write_tile(half, folder / f"{block.level + 1}/{name}.jpg")
    return written


def _write_tile(pixels: np.ndarray, path: Path) -> None:
    path.write_bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), QUALITY, colorsubsampling="420")
    )


FORMAT = 3
SCRIPTS = ("nuclei.js", "draw.js", "viewer.js", "controls.js", "gallery.js", "teach.js", "start.js")
VENDORED = ("openseadragon.min.js", "OPENSEADRAGON-LICENSE.txt")
TISSUE, ROI = "Tissue", "Region of interest"
SIMPLER_UM = 2.0  # tolerance of simplified outlines of areas


def write_viewer(folder: Path, threads: int = 1) -> Path:
    """Write the viewer of the finished slide in ``folder``, unless it has an up-to-date one; return
    its ``index.html``.

    Pixels come from the image store. If that was removed, an earlier viewer of the same nuclei is
    kept; if there is none, the nuclei are shown on white.
    """
    files = SlideFiles(folder)
    viewer, nuclei = files.viewer.parent, files.nuclei
    provenance, info = read_provenance(nuclei), read_info(files.info)
    store_path = files.store(provenance.model_mpp)
    made_from = {"nuclei": footer_checksum(nuclei), "version": __version__, "format": FORMAT}
    if _is_current(viewer, made_from, store_path.exists()):
        return files.viewer
    store = open_store(store_path) if store_path.exists() else None
    with complete_file(viewer) as partial:
        partial.mkdir()
        image = (
            {**write_tiles(store, partial / "tiles", threads), "folder": "tiles"} if store else None
        )
        slide = _describe(info, provenance, made_from["nuclei"])
        slide |= {
            "image": image,
            "n_nuclei": provenance.n_nuclei,
            "n_left_out": provenance.n_left_out,
        }
        slide |= _write_nuclei(nuclei, info, slide, partial)
        slide["layers"] = list(_layers(files, info))
        _write_page(partial, slide)
        record = json.dumps({"made_from": made_from, "image": image}, sort_keys=True)
        (partial / "made_from.json").write_text(record, encoding="utf-8")
    return files.viewer


def _is_current(viewer: Path, made_from: dict[str, Any], has_store: bool) -> bool:
    """True if a viewer can be kept; if its image cannot be made again, only new nuclei or a new
    format prevent it.
    """
    record = find_json(viewer / "made_from.json")
    if not record or record["made_from"]["format"] != FORMAT:
        return False
    if record["image"] and not has_store:
        return record["made_from"]["nuclei"] == made_from["nuclei"]
    return record["made_from"] == made_from and bool(record["image"]) == has_store


def _describe(info: SlideInfo, provenance: Provenance, checksum: str) -> dict[str, Any]:
    """Facts about slide and model for the page."""
    by_stain = provenance.positive_od is not None
    classes = stains.CLASSES if by_stain else provenance.classes
    return {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "checksum": checksum,
        "model": provenance.model.name,
        "version": __version__,
        "size_px": list(info.size_px),
        "mpp": list(info.mpp),
        "offset_px": list(qupath_offset_px(info.bounds)),
        "scanned_px": list(info.scanned_box),
        "by_stain": by_stain,
        "threshold": provenance.threshold,
        "classes": [
            {"name": kind.name, "color": list(kind.color), "safe_color": safe}
            for kind, safe in zip(classes, cycle(COLOR_BLIND_SAFE), strict=False)
        ],
    }


def _write_nuclei(
    path: Path, info: SlideInfo, slide: dict[str, Any], folder: Path
) -> dict[str, Any]:
    with open_nuclei(path) as file:
        n_rays, n_nuclei = file.schema_arrow.field("rays").type.list_size, file.metadata.num_rows
    n_classes = len(slide["classes"])
    chunks = ChunkWriter(folder / "nuclei", info, n_rays)
    overview, gallery = Overview(info, n_classes, n_nuclei), Gallery(n_classes)
    for batch in iterate_batches(path, slide["by_stain"]):
        for part in (chunks, overview, gallery):
            part.add(batch)
    return {
        "chunks": chunks.finish(),
        "overview": overview.write(folder / "overview.js"),
        "gallery": gallery.entries(),
    }


def _layers(files: SlideFiles, info: SlideInfo) -> Iterator[dict[str, Any]]:
    """Yield areas to draw over the image: tissue, region of interest, tissue regions and artefacts
    by class.
    """
    if files.mask.is_file():
        tissue = TissueMask.load(files.mask, info)
        yield _layer(TISSUE, "#555555", trace_outline(tissue, info), info)
        if tissue.roi is not None:
            yield _layer(ROI, "#000000", tissue.roi, info)
    for path, what in ((files.region_outlines, "Region"), (files.artefacts, "Artefact")):
        areas = read_class_areas(path, info, may_lack=True)
        for name in sorted({area.class_name for area in areas}):
            own = [area for area in areas if area.class_name == name]
            color = "#{:02x}{:02x}{:02x}".format(*own[0].color)
            yield _layer(
                f"{what}: {name}", color, shapely.union_all([area.shape for area in own]), info
            )


def _layer(name: str, color: str, shape: BaseGeometry, info: SlideInfo) -> dict[str, Any]:
    """An area as rings in absolute level-0 px."""
    rings = shapely.get_rings(
        shapely.get_parts(shapely.simplify(shape, SIMPLER_UM / max(info.mpp)))
    )
    coordinates = [np.round(shapely.get_coordinates(ring), 1).ravel().tolist() for ring in rings]
    return {"name": name, "color": color, "rings": coordinates}


def _write_page(folder: Path, slide: dict[str, Any]) -> None:
    own = files("muse_pipeline.viewer")
    for subfolder, names in (("vendor", VENDORED), ("page", (*SCRIPTS, "viewer.css"))):
        for name in names:
            (folder / name).write_bytes(own.joinpath(subfolder, name).read_bytes())
    (folder / "slide.js").write_text(f"muse.slide = {json.dumps(slide)};\n", encoding="ascii")
    page = own.joinpath("page", "index.html").read_text(encoding="utf-8")
    title = escape(slide["slide_id"], quote=True)
    (folder / "index.html").write_text(page.replace("<!-- title -->", title), encoding="utf-8")


ADDRESS = "127.0.0.1"


class ResultsHandler(SimpleHTTPRequestHandler):
    """Answers requests for the files of one folder, if they are addressed to this machine."""

    def do_GET(self) -> None:
        """Send a file, but not to a page from elsewhere whose host name resolves to this machine
        (DNS rebinding).
        """
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in {ADDRESS, "localhost"}:
            self.send_error(HTTPStatus.FORBIDDEN, "this server only answers this machine")
        else:
            super().do_GET()

    do_HEAD = do_GET

    def end_headers(self) -> None:
        """Disable caching, since results may be replaced while they are viewed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing, since a page requests thousands of tiles."""


def start_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Create a server of ``folder`` on 127.0.0.1; port 0 means any free port.

    ``serve_forever`` runs the server.
    """
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(ResultsHandler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise OutputError(f"port {port} cannot be used ({error}); give another --port") from error


def find_pages(results: Path) -> list[str]:
    """The report and viewers of a folder, relative to it; for the folder of a slide its viewer,
    updated if needed.
    """
    if SlideFiles(results).nuclei.is_file():
        return [write_viewer(results).relative_to(results).as_posix()]
    report = CohortFiles(results).report
    pages = [
        *([report] if report.is_file() else []),
        *sorted(results.glob(f"*/{SlideFiles.viewer}")),
    ]
    if not pages:
        raise NucleiError(
            f"{results}: has no report.html and no slide with nuclei; give the output folder of"
            " a run"
        )
    return [quote(page.relative_to(results).as_posix()) for page in pages]
