"""Synthetic slides processed by the real steps up to `tile`, and the two steps that follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
from openslide import OpenSlide
from slide_files import shrink, write_pyramid

from muse_pipeline.cli.main import main
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.detect import ModelFinder, WindowChoice, detect_shard
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.grid import Shard
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.tissue.mask import TissueMask


@dataclass
class TiledSlide:
    """A slide after `tile`, with methods for the two steps that follow."""

    folder: Path
    info: SlideInfo
    tissue: TissueMask
    store: Store
    colour: np.ndarray
    predictor: Predictor

    def detect(
        self, folder: Path, n_shards: int = 1, threads: int = 1, offset_px: int = 0
    ) -> list[Path]:
        """Detect every shard of the slide, and return their paths."""
        paths = [folder / f"{Shard(i, n_shards)}.parquet" for i in range(1, n_shards + 1)]
        finder = ModelFinder(self.predictor, self.colour)
        for index, path in enumerate(paths, 1):
            choice = WindowChoice(Shard(index, n_shards), offset_px=offset_px)
            detect_shard(self.store, finder, path, choice, threads=threads, in_processes=True)
        return paths

    def nuclei(self, folder: Path, **how) -> Path:
        """Detect and stitch the nuclei, and return the path of the table."""
        output = folder / "nuclei.parquet"
        stitch_shards(self.detect(folder, **how), self.info, self.tissue.kept, output)
        return output


AREA_MM2, STORE = 0.6, "image-500nm.zarr"


def take_to_store(folder: Path, mpp: float) -> Path:
    """Draw a slide, run the steps up to `tile`, and return the folder of their files."""
    assert main(f"demo-slide {folder} --area-mm2 {AREA_MM2} --mpp {mpp}".split()) == 0
    return tile_slide(folder, folder / "demo.svs")


def take_half_to_store(fine: Path, folder: Path) -> Path:
    """Write the slide in ``fine``, and its truth, with pixels twice as wide, and run the steps up
    to `tile`.

    Drawing it again would take ten times as long, because `demo-slide` always starts from pixels of
    0.25 um.
    """
    with OpenSlide(fine / "demo.svs") as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        mpp = 2 * float(slide.properties["openslide.mpp-x"])
    how = {"factors": (4, 16), "mpp": mpp, "compression": "jpeg"}
    write_pyramid(folder / "demo.svs", shrink(pixels, 2), **how)
    truth = pandas.read_csv(fine / "truth.csv")
    truth[["x", "y"]] /= 2
    truth.to_csv(folder / "truth.csv", index=False)
    return tile_slide(folder, folder / "demo.svs")


def tile_slide(folder: Path, path: Path, slide_id: str = "drawn") -> Path:
    """Run the steps up to `tile` on a slide, and return the folder of their files."""
    info, mask, store = (f"{folder}/{name}" for name in ("slide.json", "tissue.npz", STORE))
    files = f"--mask {mask} --picture {folder}/tissue.png --outline {folder}/tissue.geojson"
    for step in (
        f"inspect {path} --slide-id {slide_id} --output {info}",
        f"tissue {path} --info {info} {files} --colour {folder}/colour.json",
        f"tile {path} --info {info} --tissue {mask} --mpp 0.5 --output {store}",
    ):
        assert main(["step", *step.split()]) == 0
    return folder


def open_tiled(folder: Path) -> TiledSlide:
    """Open the files that `take_to_store` wrote, with the built-in model."""
    predictor = Predictor(find_model("compact"))
    return TiledSlide(
        folder,
        read_info(folder / "slide.json"),
        TissueMask.load(folder / "tissue.npz"),
        open_store(folder / "image-500nm.zarr"),
        colour_of_fit(predictor.card.colour, read_colour(folder / "colour.json").macenko),
        predictor,
    )
