"""False artefacts in clean tissue from twelve sets: the share of nuclei in each kind of artefact.

    python -m experiments.clean_tissue.run --data DATA    # measures what is not recorded
    python -m experiments.clean_tissue.run --table        # prints the table

Each crop is run as a slide, as users do; up to 40 crops of each set are chosen, evenly spread over
its files. A nucleus counts for every kind of artefact that it lies in, although the column
``quality`` has only one. "Left out" are the nuclei that totals lack by default: those out of focus,
unless most of a crop is out of focus. The model ``artefacts`` was trained on CMU-1-Small-Region,
BRCA-M2C, TNBC and ORION, as the background of synthetic artefacts, and the rules about colours and
lengths were chosen on these sets.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.inference.artefacts import CELL_UM, KINDS, MPP, find_masks
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import read_colour
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.pipeline import Models, plan_slides, run_slide
from muse_pipeline.settings import RunSettings
from muse_pipeline.store.store import open_store

RUNS = runs_of(__file__)
N_CROPS = 40
COLUMNS = *KINDS, "left out"


class Crops(NamedTuple):
    """File pattern of a set's pictures, and their um per pixel (None if the files state it)."""

    pattern: str
    mpp: float | None


SETS = {
    "brca-m2c": Crops("images/*.png", 0.5),
    "tnbc-nuclei": Crops("images/*.png", 0.25),
    "nucls-cc0": Crops("images/*.png", 0.25),
    "orion-crc-tiles": Crops("images/*.tif", 0.5),
    "camelyon16-patches": Crops("[nt]*/*.png", 0.25),
    "ebhi-seg-colon": Crops("images/*.jpg", 0.5),
    "nuinsseg-oesophagus": Crops("images/*.jpg", 0.2),
    "oral-scc": Crops("images/*.jpg", 0.5),
    "osteosarcoma-ut": Crops("images/*.jpg", 0.5),
    "oesophagus-tcga-unlabelled": Crops("images/*.jpg", 0.2485),
    "dsb2018-brightfield": Crops("images/*.png", 0.25),
    "wsi-cmu-small-region": Crops("*.svs", None),
}


def main() -> None:
    """Measure what is not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the folders of SETS")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    predictor = Predictor(find_model("compact"))
    for name, crops in SETS.items():
        if not is_recorded(RUNS, set=name):
            found = {
                path.name: measure(path, crops.mpp, predictor)
                for path in choose(args.data / name, crops)
            }
            add_run(RUNS, {"set": name, "mpp": crops.mpp, "crops": found})
            print(name, sum_up(found), flush=True)


def choose(folder: Path, crops: Crops) -> list[Path]:
    """At most ``N_CROPS`` pictures of a set, evenly spread over its files."""
    paths = sorted(folder.glob(crops.pattern))
    if (
        folder.name == "dsb2018-brightfield"
    ):  # a third of its pictures are smears of single cells, not tissue
        lines = (folder / "manifest.csv").read_text().splitlines()
        smears = {line.split(",")[0] for line in lines if "smear" in line}
        paths = [path for path in paths if path.stem not in smears]
    return paths[:: -(-len(paths) // N_CROPS)]


def measure(path: Path, mpp: float | None, predictor: Predictor) -> dict[str, float]:
    """Number of nuclei in a picture, how many of them lie in each kind of artefact, and how many
    are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = SlideFiles(Path(folder) / "crop")
        settings = RunSettings({"output": folder, "features": "none", "viewer": False})
        row, models = SheetRow("crop", str(path), mpp=mpp), Models(predictor)
        with redirect_stdout(None):
            run_slide(
                row, plan_slides([row], models, settings).records(row.slide_id), models, settings
            )
        xy, store = read_nuclei(files.nuclei).xy, open_store(files.store(MPP))
        column, row = (xy * store.slide_mpp / CELL_UM).astype(int).T
        masks = find_masks(store, read_colour(files.colour).macenko)
        return {
            "nuclei": len(xy),
            **{kind: int(mask[row, column].sum()) for kind, mask in zip(KINDS, masks, strict=True)},
            "left out": read_provenance(files.nuclei).n_left_out,
        }


def sum_up(crops: dict[str, dict[str, int]]) -> dict[str, int]:
    """Sums over the crops of a set."""
    return {name: sum(each[name] for each in crops.values()) for name in ("nuclei", *COLUMNS)}


def table() -> str:
    """Markdown of all sets."""
    lines = [
        f"| set | crops | nuclei | {' | '.join(COLUMNS)} |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    recorded = {run["set"]: run["crops"] for run in read_runs(RUNS)}
    for name in SETS:
        crops = recorded[name]
        total = sum_up(crops)
        shares = " | ".join(f"{100 * total[kind] / total['nuclei']:.2f} %" for kind in COLUMNS)
        lines.append(f"| {name} | {len(crops)} | {total['nuclei']:,} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
