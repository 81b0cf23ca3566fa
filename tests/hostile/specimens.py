"""A small slide processed by all steps, and the commands that a user would run on each of its
files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from drawn_shapes import feature, write_features
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from shapely.geometry import Point, box
from slide_files import write_pyramid
from workflow_runs import draw_stained_slide

from hostile import mutations
from hostile.mutations import Mutation
from muse_pipeline.cli.main import main
from muse_pipeline.inference.model import BUILT_IN, find_model


@dataclass(frozen=True)
class Specimen:
    """A file, the commands that read it, and the ways to damage it.

    Attributes:
        name: name of the specimen in the table of results.
        file: path of the file in the folder of specimens; ``{file}`` in commands is its damaged
            copy.
        commands: command lines; ``{here}`` is the folder with the copies, and ``{out}`` an empty
            folder next to it.
        mutations: ways to damage the file.
        tree: other files and folders of specimens that the commands read and that are copied too.
    """

    name: str
    file: str
    commands: tuple[str, ...]
    mutations: tuple[Mutation, ...]
    tree: tuple[str, ...] = ()


INSPECT = "step inspect {file} --slide-id S --output {out}/slide.json --ledger {out}/l.json"
TISSUE = (
    "step tissue {here}/slide.tif --info {here}/S/slide.json --mask {out}/tissue.npz"
    " --picture {out}/tissue.png --outline {out}/tissue.geojson --colour {out}/colour.json"
    " --ledger {out}/l.json"
)
TILE = (
    "step tile {here}/slide.tif --info {here}/S/slide.json --tissue {here}/S/tissue.npz"
    " --mpp 0.5 --output {out}/image-500nm.zarr --ledger {out}/l.json"
)
DETECT = (
    "step detect {here}/S/image-500nm.zarr --colour {here}/S/colour.json"
    " --output {out}/1.parquet --ledger {out}/l.json"
)
STITCH = (
    "step stitch {here}/S/shards/1-of-1.parquet --info {here}/S/slide.json"
    " --tissue {here}/S/tissue.npz --output {out}/nuclei.parquet"
)
GEOJSON = (
    "step geojson {here}/S/nuclei.parquet --info {here}/S/slide.json"
    " --output {out}/nuclei.geojson.gz"
)
OVERLAY = "step overlay {here}/S --ledger {out}/l.json"
EVALUATE = "evaluate {here}/S/nuclei.parquet --truth {file} --json {out}/scores.json"
MODEL = "step model {file} --resolved {out}/model.json"
REPORT = "report {here}/. --slides {file} --output {out}/r.html --table {out}/c.tsv"
CHECK = "sheet --check {file} --resolved {out}/sheet.json"
IMPORT = "step import-checkpoint {file} -o {out}/c.pt"

SLIDE, INFO, MASK, COLOUR = "slide.tif", "S/slide.json", "S/tissue.npz", "S/colour.json"
STORE, SHARD, NUCLEI = "S/image-500nm.zarr", "S/shards/1-of-1.parquet", "S/nuclei.parquet"
TO_DETECT = STORE, COLOUR
TIFF, JSON, BINARY = mutations.TIFF, mutations.JSON, mutations.BINARY
PICTURE, TABLE, ANY_BYTES = mutations.PICTURE, mutations.TABLE, mutations.ANY_BYTES

SPECIMENS = (
    Specimen("pyramid", SLIDE, (INSPECT, TISSUE, TILE), TIFF, (INFO, MASK)),
    Specimen("jpeg slide", "jpeg.svs", (INSPECT,), TIFF),
    Specimen("OME-TIFF", "slide.ome.tif", (INSPECT,), (mutations.bomb_in_xml, *TIFF)),
    Specimen("plain TIFF", "plain.tif", (INSPECT,), TIFF),
    Specimen("PNG", "picture.png", (INSPECT + " --mpp 0.5",), PICTURE),
    Specimen("JPEG", "picture.jpg", (INSPECT + " --mpp 0.5",), PICTURE),
    Specimen("preflight", "jpeg2.svs", ("preflight {file}",), TIFF),
    Specimen(
        "slide.json", INFO, (TISSUE, TILE, STITCH, GEOJSON), JSON, (SLIDE, MASK, SHARD, NUCLEI)
    ),
    Specimen("ROI", "roi.geojson", (TISSUE + " --roi {file}",), JSON, (SLIDE, INFO)),
    Specimen("tissue.npz", MASK, (TILE, STITCH), mutations.ARCHIVE, (SLIDE, INFO, SHARD)),
    Specimen("colour.json", COLOUR, (DETECT,), JSON, (STORE,)),
    Specimen("store's attributes", "S/image-500nm.zarr/zarr.json", (DETECT,), JSON, TO_DETECT),
    Specimen("array's metadata", "S/image-500nm.zarr/0/zarr.json", (DETECT,), JSON, TO_DETECT),
    Specimen(
        "tissue label",
        "S/image-500nm.zarr/labels/tissue/0/zarr.json",
        (DETECT,),
        JSON,
        TO_DETECT,
    ),
    Specimen("image's shard", "S/image-500nm.zarr/0/c/0/0/0", (DETECT,), ANY_BYTES, TO_DETECT),
    Specimen("ONNX", "model.onnx", (MODEL, DETECT + " --model {file}"), BINARY, TO_DETECT),
    Specimen("shard", SHARD, (STITCH,), BINARY, (INFO, MASK)),
    Specimen("nuclei.parquet", NUCLEI, (GEOJSON,), BINARY, (INFO,)),
    Specimen("results of a slide", NUCLEI, (OVERLAY,), BINARY, ("S",)),
    Specimen("labels, GeoJSON", "truth.geojson", (EVALUATE,), JSON, (NUCLEI,)),
    Specimen("labels, table", "truth.tsv", (EVALUATE,), TABLE, (NUCLEI,)),
    Specimen("labels, mask", "truth.png", (EVALUATE,), PICTURE, (NUCLEI,)),
    Specimen("sheet", "slides.tsv", (CHECK,), TABLE, (SLIDE,)),
    Specimen("report's sheet", "sheet.json", (REPORT,), JSON, ("S",)),
    Specimen("training run", "train/tiny.yaml", (MODEL,), mutations.YAML, ("train",)),
    Specimen("checkpoint", "model.pt", (IMPORT,), ANY_BYTES),
)


def make_specimens(folder: Path) -> Path:
    """Draw all specimens and run every step on the slide."""
    folder.mkdir(parents=True)
    draw_stained_slide(folder / SLIDE, size_px=800, n_nuclei=160)
    image = tifffile.imread(folder / SLIDE)
    for name in ("jpeg.svs", "jpeg2.svs"):
        about = "Aperio Image Library v0\r\n800x800 (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = 0.5"
        write_pyramid(folder / name, image, description=about, compression="jpeg")
    write_pyramid(folder / "slide.ome.tif", image, ome=True)
    tifffile.imwrite(
        folder / "plain.tif", image, rowsperstrip=64, resolution=(20_000, 20_000), resolutionunit=3
    )
    for name in ("picture.png", "picture.jpg"):
        cv2.imwrite(str(folder / name), image[..., ::-1])
    for command in (INSPECT, TISSUE, TILE, DETECT, STITCH, GEOJSON):
        words = command.removesuffix(" --ledger {out}/l.json")
        words = words.replace("{out}/1.parquet", "{here}/" + SHARD)
        words = [
            word.format(out=folder / "S", here=folder, file=folder / SLIDE)
            for word in words.split()
        ]
        assert main(words) == 0, words
    assert main(["step", "overlay", str(folder / "S")]) == 0
    shutil.copy(find_model("compact"), folder / "model.onnx")
    shutil.copy(BUILT_IN / "compact.pt", folder / "model.pt")
    _write_labels(folder)
    write_training_config(draw_labelled_folder(folder / "train", n_pictures=1))
    return folder


def _write_labels(folder: Path) -> None:
    write_features(folder / "roi.geojson", feature(box(100, 100, 700, 700), "ROI"))
    points = [feature(Point(200 + 9 * i, 300), "Tumour") for i in range(9)]
    write_features(folder / "truth.geojson", *points)
    (folder / "truth.tsv").write_text(
        "x\ty\tclass\n" + "".join(f"{200 + 9 * i}\t300\tTumour\n" for i in range(9))
    )
    mask = np.zeros((800, 800), np.uint16)
    for i in range(9):
        cv2.circle(mask, (200 + 40 * i, 300), 8, i + 1, -1)
    cv2.imwrite(str(folder / "truth.png"), mask)
    (folder / "slides.tsv").write_text(
        f"slide_id\tpath\tmpp\tshards\nA\t{SLIDE}\t0.5\t1\nB\t{SLIDE}\t\t\n"
    )
    (folder / "sheet.json").write_text(json.dumps([{"slide_id": "S", "path": SLIDE, "shards": 1}]))


def every_case() -> Iterator[tuple[Specimen, int, int]]:
    """Yield (specimen, index of a command, index of a mutation) in endless rounds over all
    specimens.
    """
    turn = 0
    while True:
        for specimen in SPECIMENS:
            yield specimen, turn % len(specimen.commands), turn % len(specimen.mutations)
        turn += 1
