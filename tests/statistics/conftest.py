"""Fixtures: results of a small cohort, with tables without outlines, and larger nuclei in group
b.
"""

import json

import numpy as np
import pytest
import shapely
from nuclei_example import drawn_provenance

from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.parquet import NucleiWriter, OptionalColumns
from muse_pipeline.nuclei.shape import SHAPE_COLUMNS
from muse_pipeline.nuclei.table import Nuclei

CLASSES = ("Lymphocyte", "Epithelial")
QUALITY = {
    "mpp": 0.5,
    "cell_um": 16.0,
    "model_sha256": "",
    "asked": ["blurred"],
    "subtract": ["blurred"],
    "area_mm2": {"blurred": 0.1, "ink": 0.3},
}
SIZES = {
    "nuclear_size": {"median_area_um2": 30.0, "mean_class_probability": 0.9},
    "class_sizes": {"by_class": {}},
}
REGIONS = {
    "source": "drawn",
    "status": "ok",
    "reason": "",
    "classes": [
        {"name": "tumour", "color": [1, 2, 3], "is_inside": True, "area_mm2": 0.25},
        {"name": "stroma", "color": [4, 5, 6], "is_inside": False, "area_mm2": 0.2},
    ],
    "bands": [{"um": 50, "inside_mm2": 0.1, "outside_mm2": 0.05}],
}


@pytest.fixture
def results(tmp_path):
    """Results of six slides from five patients; ten nuclei per slide are in tumour, five of these
    near its border.
    """
    lines, rows, random = ["slide_id\tpath\tpatient\tlabel"], [], np.random.default_rng(0)
    for number, group in enumerate("aaabbb"):
        slide, patient = f"s{number}", f"P{number // 2 if number < 2 else number}"
        write_slide(tmp_path / slide, 50 + 20 * (group == "b"), random)
        lines.append(f"{slide}\tslides.tsv\t{patient}\t{group}")
        rows.append({"slide_id": slide, "path": "/x.svs", "patient": patient, "label": group})
    (tmp_path / "slides.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "sheet.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.fixture
def flagged(tmp_path):
    """A slide with 20 nuclei, of which 12 are out of focus and enormous, and 8 are in ink."""
    write_slide(tmp_path / "flagged", 50, np.random.default_rng(0), n_flagged=12)
    return tmp_path / "flagged"


@pytest.fixture
def write_doubtful(results):
    """A function that writes a slide with doubts in its provenance, and replaces a slide of the
    same name.
    """
    random = np.random.default_rng(7)

    def write(name, area_um2, unlike=(None, None), is_ihc=False, **doubts):
        known = {kind: SIZES[kind] | {"doubt": doubt} for kind, doubt in doubts.items()}
        of_regions = dict(zip(("n_unlike_region", "n_judged"), unlike, strict=True))
        write_slide(
            results / name, area_um2, random, doubts=known, of_regions=of_regions, is_ihc=is_ihc
        )

    return write


def write_slide(
    folder, area_um2, random, n_flagged=None, doubts=None, of_regions=None, is_ihc=False
):
    folder.mkdir(exist_ok=True)
    card = {"classes": [{"name": name, "color": [1, 2, 3]} for name in CLASSES]}
    card["organs"] = {"Lymphocyte": ["breast"], "Epithelial": ["breast", "colon"]}
    provenance = {"slide_id": folder.name, "fingerprint": folder.name, "card": card}
    provenance |= doubts or {}
    nuclei = Nuclei(
        random.uniform(0, 99, (20, 2)), Frame.LEVEL0, rays=np.ones((20, 4)), label=np.arange(20) % 2
    )
    nuclei.prob = np.ones((20, 2), np.float32)
    if is_ihc:  # a quarter of the nuclei is positive
        nuclei.dab_od = np.where(np.arange(20) % 4 == 0, 0.5, 0.1)[:, None]
        reasons = ["immunohistochemistry, as stated"]
        provenance["appearance"] = {"verdict": "other stain", "reasons": reasons}
    columns = dict.fromkeys(SHAPE_COLUMNS, random.normal(area_um2, 1, 20))
    in_tumour = np.arange(20) < 10
    columns |= {"region": np.where(in_tumour, 0, 1).astype(np.int32), "region_prob": np.ones(20)}
    distance = np.where(np.arange(20) % 10 < 5, 20, 400)
    columns["border_distance_um"] = np.where(in_tumour, -distance, distance)
    columns["neighbours_tissue_edge_um"] = np.full(20, 500.0)
    columns["neighbours_fraction_Lymphocyte"] = np.where(np.arange(20) % 2 == 0, 0.25, 0.75)
    columns["neighbours_fraction_Epithelial"] = 1 - columns["neighbours_fraction_Lymphocyte"]
    features = [name for name in columns if name.startswith("neighbours")]
    regions = [one["name"] for one in REGIONS["classes"]]
    provenance["regions"] = REGIONS | (of_regions or {})
    more = {"regions": regions, "features": features}
    if is_ihc:
        provenance["positive_od"] = more["positive_od"] = 0.2
    if n_flagged is not None:
        provenance["quality"] = QUALITY
        more["artefacts"] = ["blurred", "ink"]
        columns["quality"] = np.where(np.arange(20) < n_flagged, 0, 1).astype(np.int32)
        columns["area_um2"] = np.where(np.arange(20) < n_flagged, 1e6, columns["area_um2"])
    path, provenance = folder / "nuclei.parquet", drawn_provenance(**provenance)
    with NucleiWriter(path, CLASSES, provenance, 4, OptionalColumns(**more)) as writer:
        writer.write(nuclei, shapely.box(0, 0, np.arange(1, 21), 1), columns)
    np.savez(folder / "tissue.npz", area_mm2=0.5)
