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
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
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
    commands: tuple[tuple[str, ...], ...]
    mutations: tuple[Mutation, ...]
    tree: tuple[str, ...] = ()


INSPECT = (
    "step",
    "inspect",
    "{file}",
    "--slide-id",
    "S",
    "--output",
    "{out}/slide.json",
    "--ledger",
    "{out}/l.json",
)
TISSUE_OUT = (
    *("--mask", "{out}/tissue.npz", "--picture", "{out}/tissue.png"),
    *(
        "--outline",
        "{out}/tissue.geojson",
        "--colour",
        "{out}/colour.json",
        "--ledger",
        "{out}/l.json",
    ),
)
TILE_OUT = ("--mpp", "0.5", "--output", "{out}/image-500nm.zarr", "--ledger", "{out}/l.json")
SLIDE, INFO, TISSUE, COLOUR = "slide.tif", "S/slide.json", "S/tissue.npz", "S/colour.json"
STORE, SHARD, NUCLEI = "S/image-500nm.zarr", "S/shards/1-of-1.parquet", "S/nuclei.parquet"


def at(name: str) -> str:
    """The path of a copied file in a command line: ``{here}/`` and its name."""
    return f"{{here}}/{name}"


TISSUE_RUN = [*f"step tissue {at(SLIDE)} --info {at(INFO)}".split(), *TISSUE_OUT]
TILE_RUN = [*f"step tile {at(SLIDE)} --info {at(INFO)} --tissue {at(TISSUE)}".split(), *TILE_OUT]
DETECT_RUN = [
    *f"step detect {at(STORE)} --colour {at(COLOUR)} --output".split(),
    "{out}/1.parquet",
    "--ledger",
    "{out}/l.json",
]
STITCH_RUN = [
    *f"step stitch {at(SHARD)} --info {at(INFO)} --tissue {at(TISSUE)} --output".split(),
    "{out}/nuclei.parquet",
]
GEOJSON_RUN = [
    *f"step geojson {at(NUCLEI)} --info {at(INFO)} --output".split(),
    "{out}/nuclei.geojson.gz",
]
EVALUATE = ("evaluate", at(NUCLEI), "--truth", "{file}", "--json", "{out}/scores.json")

SPECIMENS = (
    Specimen("pyramid", SLIDE, (INSPECT, TISSUE_RUN, TILE_RUN), mutations.TIFF, (INFO, TISSUE)),
    Specimen("jpeg slide", "jpeg.svs", (INSPECT,), mutations.TIFF),
    Specimen("OME-TIFF", "slide.ome.tif", (INSPECT,), (mutations.bomb_in_xml, *mutations.TIFF)),
    Specimen("plain TIFF", "plain.tif", (INSPECT,), mutations.TIFF),
    Specimen("PNG", "picture.png", ((*INSPECT, "--mpp", "0.5"),), mutations.PICTURE),
    Specimen("JPEG", "picture.jpg", ((*INSPECT, "--mpp", "0.5"),), mutations.PICTURE),
    Specimen("preflight", "jpeg2.svs", (("preflight", "{file}"),), mutations.TIFF),
    Specimen(
        "slide.json",
        INFO,
        (TISSUE_RUN, TILE_RUN, STITCH_RUN, GEOJSON_RUN),
        mutations.JSON,
        (SLIDE, TISSUE, SHARD, NUCLEI),
    ),
    Specimen(
        "ROI", "roi.geojson", ((*TISSUE_RUN, "--roi", "{file}"),), mutations.JSON, (SLIDE, INFO)
    ),
    Specimen("tissue.npz", TISSUE, (TILE_RUN, STITCH_RUN), mutations.ARCHIVE, (SLIDE, INFO, SHARD)),
    Specimen("colour.json", COLOUR, (DETECT_RUN,), mutations.JSON, (STORE,)),
    Specimen(
        "store's attributes", f"{STORE}/zarr.json", (DETECT_RUN,), mutations.JSON, (STORE, COLOUR)
    ),
    Specimen(
        "array's metadata", f"{STORE}/0/zarr.json", (DETECT_RUN,), mutations.JSON, (STORE, COLOUR)
    ),
    Specimen(
        "tissue label",
        f"{STORE}/labels/tissue/0/zarr.json",
        (DETECT_RUN,),
        mutations.JSON,
        (STORE, COLOUR),
    ),
    Specimen(
        "image's shard", f"{STORE}/0/c/0/0/0", (DETECT_RUN,), mutations.ANY_BYTES, (STORE, COLOUR)
    ),
    Specimen(
        "ONNX",
        "model.onnx",
        (
            ("step", "model", "{file}", "--resolved", "{out}/model.json"),
            (*DETECT_RUN, "--model", "{file}"),
        ),
        mutations.BINARY,
        (STORE, COLOUR),
    ),
    Specimen("shard", SHARD, (STITCH_RUN,), mutations.BINARY, (INFO, TISSUE)),
    Specimen("nuclei.parquet", NUCLEI, (GEOJSON_RUN,), mutations.BINARY, (INFO,)),
    Specimen(
        "results of a slide",
        NUCLEI,
        ([*f"step overlay {at('S')} --ledger".split(), "{out}/l.json"],),
        mutations.BINARY,
        ("S",),
    ),
    Specimen("labels, GeoJSON", "truth.geojson", (EVALUATE,), mutations.JSON, (NUCLEI,)),
    Specimen("labels, table", "truth.tsv", (EVALUATE,), mutations.TABLE, (NUCLEI,)),
    Specimen("labels, mask", "truth.png", (EVALUATE,), mutations.PICTURE, (NUCLEI,)),
    Specimen(
        "sheet",
        "slides.tsv",
        (("sheet", "--check", "{file}", "--resolved", "{out}/sheet.json"),),
        mutations.TABLE,
        (SLIDE,),
    ),
    Specimen(
        "report's sheet",
        "sheet.json",
        (
            (
                "report",
                at("."),
                "--slides",
                "{file}",
                "--output",
                "{out}/r.html",
                "--table",
                "{out}/c.tsv",
            ),
        ),
        mutations.JSON,
        ("S",),
    ),
    Specimen(
        "training run",
        "train/tiny.yaml",
        (("step", "model", "{file}", "--resolved", "{out}/model.json"),),
        mutations.YAML,
        ("train",),
    ),
    Specimen(
        "checkpoint",
        "model.pt",
        (("step", "import-checkpoint", "{file}", "-o", "{out}/c.pt"),),
        mutations.ANY_BYTES,
    ),
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
    out, here = str(folder / "S"), str(folder)
    inspect = INSPECT[:-2]
    for command in (
        inspect,
        TISSUE_RUN[:-2],
        TILE_RUN[:-2],
        DETECT_RUN[:-2],
        STITCH_RUN,
        GEOJSON_RUN,
    ):
        arguments = [word.format(out=out, here=here, file=folder / SLIDE) for word in command]
        if arguments[1] == "detect":
            arguments[arguments.index("--output") + 1] = str(folder / SHARD)
        assert main(arguments) == 0, arguments
    assert main(["step", "overlay", out]) == 0
    shutil.copy(find_model("compact"), folder / "model.onnx")
    shutil.copy(BUILT_IN / "compact.pt", folder / "model.pt")
    _write_labels(folder)
    write_training_config(draw_labelled_folder(folder / "train", n_pictures=1))
    return folder


def _write_labels(folder: Path) -> None:
    square = [[100, 100], [700, 100], [700, 700], [100, 700], [100, 100]]
    shapes = {
        "roi.geojson": [("Polygon", [square], "ROI")],
        "truth.geojson": [("Point", [200 + 9 * i, 300], "Tumour") for i in range(9)],
    }
    for name, objects in shapes.items():
        features = [
            {
                "type": "Feature",
                "geometry": {"type": kind, "coordinates": where},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": called, "color": [1, 2, 3]},
                },
            }
            for kind, where, called in objects
        ]
        (folder / name).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
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
