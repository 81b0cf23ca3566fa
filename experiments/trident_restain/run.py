"""A second stain as the partner of H&E in which a class of nuclei hardly shows, from slides to
features.

    python -m experiments.trident_restain.run            # runs what is not recorded
    python -m experiments.trident_restain.run --table    # prints the table

A third of the nuclei of a synthetic section has a marker: brown in the second stain, which is
rotated and moved, and a trace more eosin in H&E. The workflow registers the partner, finds nuclei
without labels and trains. The frozen features at the true nuclei of a different section, which has
only H&E, are classified from the labels of five fields of the first section, by the 20 nearest
neighbours and by a linear layer. The fields are chosen at random five times.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from experiments.common.frozen_features import count_predictions, render_arms
from experiments.common.runs import TOP, run_arms, runs_of

sys.path.append(str(TOP / "tests/support"))  # for drawn_pair and slide_files

from drawn_pair import Section, Warp, brown_nuclei, draw_partner, draw_section, stain_he
from slide_files import write_pyramid

from muse_pipeline.core.types import Frame
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.stain import fit_macenko

RUNS, SNAKEFILE = runs_of(__file__), TOP / "workflow/Snakefile"
SIZE_UM, MPP, FIELD_PX = (1500.0, 1300.0), 0.5, 256
WARP = Warp(degrees=25, scale=1.02, shift_um=(60, 35))
TRACE = 0.2  # eosin added to nuclei with the marker; its amount elsewhere varies by about 0.08
ARMS = {
    "three": 3,
    "three-plain": 3,
    "three-shapes": 3,
    "siamese": 1,
    "untrained": 0,
}  # number of branches
TITLES = {
    "three": "two H&E views and the second stain (TriDeNT)",
    "three-plain": "likewise, a second stain without the marker",
    "three-shapes": (
        "TriDeNT with a partner network like the backbone, which sees shapes and neighbours"
    ),
    "siamese": "two H&E views (Siamese)",
    "untrained": "random weights",
}
ALIGNMENT = {  # only nuclei are aligned, since a batch has hundreds of nuclei but few views
    "loss": "infonce",
    "temperature": 0.2,
    "image_weight": 0.0,
    "nucleus_weight": 1.0,
    "hidden": 256,
    "width": 256,
}
SETTINGS = {
    "method": "trident",
    "name": "restain",
    "backbone": "muse_compact_32",
    "partner_backbone": "colour_cnn",
    "views": {"global_px": 64, "mpp": [0.5, 1.0]},
    "batch": 12,
    "schedule": {
        "steps": 400,
        "learning_rate": 2e-3,
        "warmup": 0.1,
        "weight_decay": 1e-4,
        "clip": 30.0,
    },
}


def run_arm(arm: str, seed: int, work: Path) -> dict:
    """Run the workflow on one section, and classify the nuclei of a second one from the backbone's
    features.
    """
    known, judged = (draw_section(SIZE_UM, MPP, seed=2 * seed + number) for number in range(2))
    checkpoint, agreement = None, {}
    if arm != "untrained":
        checkpoint = train_arm(arm, seed, known, work / f"{arm}-{seed}")
        store = work / f"{arm}-{seed}" / "results/a/partner/image-500nm.zarr"
        if arm == "three":
            brown, has_marker = brown_nuclei(open_store(store), known)
            agreement = {
                "isolated_nuclei": len(brown),
                "agreeing": int((brown == has_marker).sum()),
            }
    fields = [cut_fields(section) for section in (known, judged)]
    found = count_predictions(SETTINGS["backbone"], checkpoint, *fields, seed)
    return {"steps": SETTINGS["schedule"]["steps"], **agreement, **found}


def train_arm(arm: str, seed: int, section: Section, folder: Path) -> Path:
    """Write both slides, run the workflow up to the backbone, and return its checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    stained = section
    if arm == "three-plain":
        without, marked, ground = np.moveaxis(section.amounts, 2, 0)
        stained = Section(
            np.dstack([without + marked, 0 * marked, ground]),
            MPP,
            section.xy_um,
            section.has_marker,
        )
    for name, pixels in (("he", stain_faintly(section)), ("ihc", draw_partner(stained, WARP, MPP))):
        if not (folder / f"{name}.tif").is_file():
            write_pyramid(folder / f"{name}.tif", pixels, (2, 4), mpp=MPP)
    (folder / "slides.tsv").write_text(
        "slide_id\tpath\tpatient\tpartner\na\the.tif\tP1\tihc.tif\n", encoding="utf-8"
    )
    settings = {**SETTINGS, "seed": seed, "alignment": {"branches": ARMS[arm], **ALIGNMENT}}
    if arm == "three-shapes":
        settings["partner_backbone"] = SETTINGS["backbone"]
    (folder / "restain.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = {"slides": "slides.tsv", "pretrain": {"run": "restain.yaml", "compare": False}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    checkpoint = "results/pretraining/restain/checkpoint.pt"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        SNAKEFILE,
        "--configfile",
        "config.yaml",
    ]
    subprocess.run([*command, "--cores", "1", checkpoint], cwd=folder, check=True)
    return folder / checkpoint


def stain_faintly(section: Section) -> np.ndarray:
    """H&E picture (h, w, 3) uint8 with a trace more eosin in nuclei with the marker."""
    without, marked, ground = np.moveaxis(section.amounts, 2, 0)
    return stain_he(np.dstack([without, marked, ground + TRACE * marked]))


def cut_fields(section: Section) -> list[LabelledImage]:
    """Fields of the H&E picture that contain nuclei of both classes; each counts as a separate
    patient.
    """
    pixels, xy, fields = stain_faintly(section), section.xy_um / MPP, []
    stain = fit_macenko(pixels.reshape(-1, 3))
    for top in range(0, pixels.shape[0] - FIELD_PX + 1, FIELD_PX):
        for left in range(0, pixels.shape[1] - FIELD_PX + 1, FIELD_PX):
            inside = ((xy >= (left, top)) & (xy < (left + FIELD_PX, top + FIELD_PX))).all(1)
            label = section.has_marker[inside].astype(int)
            if 0 < label.sum() < len(label):
                nuclei = Nuclei(xy=xy[inside] - (left, top), frame=Frame.WINDOW, label=label)
                field = pixels[top : top + FIELD_PX, left : left + FIELD_PX]
                where = {"name": f"{left}-{top}", "patient": f"{left}-{top}"}
                fields.append(
                    LabelledImage(pixels=field, nuclei=nuclei, stain=stain, weight=1.0, **where)
                )
    return fields


if __name__ == "__main__":
    run_arms(
        __doc__,
        RUNS,
        ARMS,
        lambda arm, seed, args: run_arm(arm, seed, args.work.resolve()),
        lambda runs: render_arms(runs, TITLES, "siamese"),
    )
