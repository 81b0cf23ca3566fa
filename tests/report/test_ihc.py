"""IHC scores, compared with values computed by hand, and the counts of a slide, its annotations and its regions."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from nuclei_example import CLASSES, MPP, draw_nuclei, drawn_provenance

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.provenance import RegionArea, Regions
from muse_pipeline.features.catalogue import DAB_OF_CELL
from muse_pipeline.nuclei.parquet import BORDER, REGION, REGION_PROB, NucleiWriter, OptionalColumns
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.report.counts import count_intensities, score, score_values
from muse_pipeline.settings import RunSettings
from muse_pipeline.tissue.mask import RoiAnnotation

LIMITS = (0.2, 0.4, 0.6)


@pytest.mark.parametrize(
    ("counts", "percent", "h_score", "allred"),
    [
        ((100, 0, 0, 0), 0, 0, 0),
        ((0, 0, 0, 100), 100, 300, 8),
        ((50, 20, 20, 10), 50, 90, 6),  # 4 for the proportion, 2 for the mean intensity (20 + 40 + 30) / 50 = 1.8
        ((995, 5, 0, 0), 0.5, 0.5, 2),
        ((70, 0, 0, 30), 30, 90, 6),
        ((90, 10, 0, 0), 10, 10, 3),  # 2 for a proportion of 1 to 10 %
    ],
)
def test_scores_by_hand(counts, percent, h_score, allred):
    assert score(counts) == {"percent_positive": percent, "h_score": h_score, "allred": allred}


def test_nothing_is_no_score():
    assert score((0, 0, 0, 0)) == {"percent_positive": None, "h_score": None, "allred": None}
    assert score_values(None) == {}


def test_counts_of_the_slide_its_annotations_and_regions(tmp_path):
    random = np.random.default_rng(1)
    density = random.uniform(0, 0.8, 400)
    nuclei = replace(draw_nuclei(400, side_px=4000), dab_od=density[:, None].astype(np.float32))
    cytoplasm = np.where(np.arange(400) % 5, random.uniform(0, 0.8, 400), np.nan)
    region = random.integers(-1, 2, 400).astype(np.int32)
    areas = tuple(RegionArea(name, (0, 0, 0), True, 1.0) for name in ("Tumor", "Stroma"))
    made = replace(drawn_provenance(), intensities_od=LIMITS, regions=Regions("drawn", "ok", "", classes=areas))
    columns = {REGION: region, REGION_PROB: np.ones(400), BORDER: np.zeros(400)}
    features = [each.name for each in DAB_OF_CELL]
    columns |= {features[0]: cytoplasm, features[1]: density}
    optional = OptionalColumns(positive_od=0.2, regions=["Tumor", "Stroma"], features=features)
    rings = rays_to_rings(nuclei.xy, nuclei.rays, MPP)
    with NucleiWriter(tmp_path / "nuclei.parquet", CLASSES, made, 32, optional) as writer:
        writer.write(nuclei, rings_to_polygons(rings)[0], measure_shapes(rings, MPP) | columns)
    box = RoiAnnotation("Hot spot", None, shapely.box(0, 0, 2000, 4000), 1.0, 1.0)
    found = count_intensities(tmp_path / "nuclei.parquet", made, [box])

    def expected(values, chosen):
        return np.histogram(values[chosen & np.isfinite(values)], [-1, *LIMITS, 9])[0].tolist()

    left, everywhere = nuclei.xy[:, 0] < 2000, np.ones(400, bool)
    density = density.astype(np.float32)
    assert found["slide"] == {
        "nucleus": expected(density, everywhere),
        "cytoplasm": expected(cytoplasm.astype(np.float32), everywhere),
        "membrane": expected(density, everywhere),
    }
    assert found["annotations"][0]["nucleus"] == expected(density, left)
    assert found["regions"]["Stroma"]["nucleus"] == expected(density, region == 1)
    values = score_values(found["slide"]) | score_values(found["annotations"][0], "Hot spot")
    assert values["n_3plus"] == found["slide"]["nucleus"][3]
    assert values["cytoplasm_h_score_in_Hot spot"] == score(found["annotations"][0]["cytoplasm"])["h_score"]


@pytest.mark.parametrize("limits", [[0.2, 0.2, 0.6], [0, 0.4, 0.6], [0.2, 0.4], ["a", 0.4, 0.6], [0.6, 0.4, 0.2]])
def test_intensities_ascend(limits):
    with pytest.raises(ConfigError, match="3\\+ begin at three ascending optical densities"):
        RunSettings({"intensities": limits})


def test_intensities_of_the_command_line_are_numbers():
    assert RunSettings({"intensities": ["0.1", "0.3", "0.5"]}).intensities == [0.1, 0.3, 0.5]
