"""A cohort in which nothing is default, for the comparison with tests/oracle.py.

Three slides of one patient, in Leica's format: um per pixel that differ in x and y, scanner bounds,
two of H&E and one of DAB, a ROI with a hole, nested areas with classes, a fold, and ink over tissue
that is out of focus. A tissue microarray has 27 rows.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import shapely
import yaml
from drawn_ihc import BROWN, HAEMATOXYLIN, mix_stains
from drawn_shapes import feature, write_features
from nuclei_example import write_table
from openslide import OpenSlide
from slide_files import write_leica

from muse_pipeline.cli.main import main
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.parquet import OptionalColumns
from muse_pipeline.nuclei.table import Nuclei

INTENSITIES, EXPAND_UM, SUBTRACT = (0.3, 0.5, 0.7), 6.0, ("blurred",)
BLURRED_PX = 1500  # first column of S1 that is out of focus
SHEET = """slide_id\tpath\tpatient\tgrade\tstain\troi\tregions
S1\tS1.scn\tP\thigh\tH&E\troi.geojson\tregions.geojson
S2\tS2.scn\tP\thigh\tH&E\t\t
S3\tS3.scn\tP\tlow\tKi-67\t\tstained.geojson
"""
CORES = sorted({(row, column) for row in range(27) for column in range(2)} - {(1, 1), (25, 0)})
CORE_UM, PITCH_UM, MICROARRAY_MPP = 100.0, 330.0, (0.9, 0.98)


def run_cohort(folder: Path, demo: Path) -> Path:
    """Draw the slides, from parts of a synthetic one at 0.25 um/px, run `muse run`, and return its
    folder.
    """
    with OpenSlide(demo) as slide:
        write_folded(folder, read(slide, (1900, 4900), (2700, 2300)))
        cut = read(slide, (2600, 1800), (2000, 1900))  # the scan ends within the tissue
        write_leica(folder / "S2.scn", cut, (0.25, 0.27), (108, 100))
    write_stained(folder)
    (folder / "slides.tsv").write_text(SHEET)
    return run_sheet(folder / "slides.tsv", folder / "results", shards=2, threads=1)


def run_sheet(sheet: Path, output: Path, shards: int, threads: int) -> Path:
    """Run `muse run` on slides of the cohort, and return its folder."""
    config = output.with_suffix(".yaml")
    settings = {
        "cells": {"expand_um": EXPAND_UM},
        "features": "all",
        "anndata": True,
        "csv": True,
        "shards": shards,
        "intensities": list(INTENSITIES),
        "quality": {"subtract": list(SUBTRACT)},
        "measurements": ["h_mean"],
    }
    config.write_text(yaml.safe_dump(settings))
    assert main(f"run {sheet} -o {output} --threads {threads} --config {config}".split()) == 0
    return output


def read(slide: OpenSlide, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    return np.array(slide.read_region(xy, 0, size).convert("RGB"))


def write_folded(folder: Path, pixels: np.ndarray) -> None:
    """Write S1: folded tissue, with ink and, over half of the ink, out of focus."""
    cv2.line(pixels, (1200, 200), (2300, 1500), (40, 60, 150), 260, cv2.LINE_AA)
    pixels[:, BLURRED_PX:] = cv2.GaussianBlur(pixels[:, BLURRED_PX:], (0, 0), 8)
    write_leica(folder / "S1.scn", pixels, (0.27, 0.23), (400, 600))
    most = [(150, 100), (2500, 150), (2450, 2000), (150, 2000)]
    areas = [(None, "most", [most, square(1000, 1000, 130)])]
    areas += [("Tumor: Positive", None, [square(700, 700, 320)])]
    write_areas(folder / "roi.geojson", [*areas, ("Ignore*", None, [square(500, 1300, 140)])])
    tumour, gland = square(900, 1000, 600), square(1000, 900, 250)
    areas = [("Tumour", None, [tumour]), ("Gland", None, [gland])]
    write_areas(folder / "regions.geojson", areas)


def square(x: float, y: float, half: float) -> list[tuple[float, float]]:
    return [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]


def write_areas(path: Path, areas: list[tuple[str | None, str | None, list]]) -> None:
    """Write annotations (class, name, rings) as QuPath does; positions count from the corner of the
    bounds.
    """
    names = [{"name": name} if name else {} for _, name, _ in areas]
    shapes = [shapely.Polygon(ring, holes) for _, _, (ring, *holes) in areas]
    words = [word for word, _, _ in areas]
    drawn = zip(shapes, words, names, strict=True)
    write_features(path, *[feature(shape, word, **name) for shape, word, name in drawn])


def write_stained(folder: Path) -> None:
    """Write S3: blue nuclei and nuclei with four strengths of DAB, some of them in pairs a little
    apart.
    """
    mpp, size_um, rng = np.array([0.54, 0.48]), np.array([400.0, 330.0]), np.random.default_rng(4)
    width, height = (size_um / mpp).round().astype(int)
    amounts = np.zeros((2, height, width), np.float32)
    amounts[0, 60 : height - 60, 60 : width - 60] = 0.15
    axes = np.arange(50, 345, 18.0), np.arange(50, 280, 16.0)
    xy_um = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    xy_um = np.concatenate([xy_um, xy_um[::4] + np.array([9, 0])])  # 1 um between the outlines
    for centre in xy_um:
        dab = rng.choice([0.0, 0.25, 0.4, 0.6, 0.9])
        middle = tuple(centre / mpp - 0.5)
        if dab > 0.5:  # brown cytoplasm
            cv2.ellipse(amounts[1], (middle, tuple(14 / mpp), 0.0), float(1.5 * dab), -1)
        ellipse = middle, tuple(8 / mpp), 0.0
        cv2.ellipse(amounts[0], ellipse, 0.2 if dab else 0.7, -1)
        cv2.ellipse(amounts[1], ellipse, float(dab * np.log(10)), -1)
    pixels = mix_stains(amounts, (HAEMATOXYLIN, BROWN), 0.6, 0.05, rng)
    write_leica(folder / "S3.scn", pixels, tuple(mpp), (60, 40), (2,))
    tumour, other = square(250, 250, 150), square(550, 350, 90)
    areas = [("Tumor", None, [tumour]), ("Other", None, [other])]
    write_areas(folder / "stained.geojson", areas)


def run_microarray(folder: Path, demo: Path) -> Path:
    """Draw a microarray of 27 rows, in which two cores are missing, run `muse run`, and return the
    slide's folder.
    """
    with OpenSlide(demo) as slide:
        tissue = read(slide, (2300, 5600), (800, 800))
    radii = CORE_UM / np.array(MICROARRAY_MPP)
    width, height = np.ceil(2 * radii).astype(int).tolist()
    core = cv2.resize(tissue, (width, height), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:height, :width]
    circle = ((x + 0.5) / radii[0] - 1) ** 2 + ((y + 0.5) / radii[1] - 1) ** 2 < 1
    # A multiple of 8, so that levels are not truncated.
    size = (np.array([2.2, 27.6]) * PITCH_UM / MICROARRAY_MPP).astype(int) // 8 * 8
    pixels = np.full((size[1], size[0], 3), 243, np.uint8)
    for row, column in CORES:
        left, top = (np.array([column + 0.3, row + 0.5]) * PITCH_UM / MICROARRAY_MPP).astype(int)
        pixels[top : top + height, left : left + width][circle] = core[circle]
    write_leica(folder / "T.scn", pixels, MICROARRAY_MPP, (90, 700), (4,))
    options = "--tma --stain H&E --features none --no-quality --no-viewer --threads 1"
    assert main(f"run {folder / 'T.scn'} -o {folder / 'tma'} {options}".split()) == 0
    return folder / "tma/T"


N_PATIENTS = 130
SIZE = {"median_area_um2": 30.0, "mean_class_probability": 0.9}


def write_patients(folder: Path) -> Path:
    """Write results of 133 slides without pictures, and ``slides.tsv``, whose column "case" joins
    slides to patients.

    The first patient has three slides and the second two. One feature is known for one patient of a
    group only, and one slide is doubtful.
    """
    rng, lines = np.random.default_rng(8), ["slide_id\tpath\tgrade\tcase"]
    cases = [0, 0, 0, 1, 1, *range(2, N_PATIENTS)]
    for number, case in enumerate(cases):
        slide, grade = f"s{number:03d}", ("low", "high")[case % 2]
        doubt = {"nuclear_size": {**SIZE, "doubt": "the mpp"}, "mpp_source": "sheet"}
        write_patient(folder / "patients" / slide, rng, case, doubt if number == 90 else {})
        lines.append(f"{slide}\tnone.svs\t{grade}\tcase {case}")
    (folder / "none.svs").touch()
    (folder / "slides.tsv").write_text("\n".join(lines) + "\n")
    return folder / "patients"


def write_patient(folder: Path, rng: np.random.Generator, case: int, doubt: dict) -> None:
    """Write the nuclei of a slide, with one rare class, and larger nuclei in every second
    patient.
    """
    folder.mkdir(parents=True)
    n, mpp, classes = 14, (0.25, 0.29), ("Lymphocyte", "Epithelial", "Stroma")
    label = rng.choice(3, n, p=[0.5, 0.45, 0.05])
    nuclei = Nuclei(
        rng.uniform(40, 900, (n, 2)), Frame.LEVEL0, rays=rng.uniform(2, 4, (n, 8)), label=label
    )
    nuclei.rays *= 1 + 0.06 * (case % 2) + rng.normal(0, 0.05)
    nuclei.prob = np.eye(3, dtype=np.float32)[label]
    features = {
        "h_mean": rng.uniform(0, 1, n),
        "h_ring_mean": np.full(n, case if case < 3 else np.nan),
    }
    facts = {"slide_id": folder.name, "fingerprint": f"of {folder.name}", "slide_mpp": mpp, **doubt}
    facts["card"] = {"classes": [{"name": name, "color": [1, 2, 3]} for name in classes]}
    more = {"columns": features, "optional": OptionalColumns(features=list(features))}
    write_table(folder / "nuclei.parquet", nuclei, classes, mpp, **more, **facts)
    np.savez(folder / "tissue.npz", area_mm2=rng.uniform(0.1, 0.2))
