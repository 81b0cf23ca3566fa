"""Partners in the workflow: a section that was restained, turned and shifted, and a partner that
does not fit.
"""

import numpy as np
import pytest
import yaml
from drawn_pair import Warp, brown_nuclei, draw_partner, draw_section, stain_he
from slide_files import write_pyramid
from workflow_runs import inputs_of, planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline.core.files import read_json
from muse_pipeline.store.store import open_store
from muse_pipeline.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.timeout(1200)  # tests run the workflow, on a machine that may be busy

MPP = 0.5
WARP = Warp(degrees=25, scale=1.02, shift_um=(60, 35))
RUN = "results/pretraining/partners"
TRIDENT = {
    "method": "trident",
    "name": "partners",
    "backbone": "muse_compact_16",
    "alignment": {"hidden": 32, "width": 16, "nucleus_weight": 1.0},
    "views": {"global_px": 64, "mpp": [0.5, 1.0]},
    "batch": 4,
    "schedule": {"steps": 4, "log_every": 1},
}
ROWS = [
    {"slide_id": "a", "path": "a.tif", "patient": "P1", "partner": "ihc.tif"},
    {"slide_id": "b", "path": "b.tif", "patient": "P2", "partner": "glass.tif"},
]


def begin(folder):
    """Write the sheet and the configs of a run on two slides."""
    write_sheet(folder / "slides.tsv", ROWS)
    (folder / "partners.yaml").write_text(yaml.safe_dump(TRIDENT))
    write_config(folder, pretrain={"run": "partners.yaml"})


@pytest.mark.slow
def test_partners_are_registered_for_the_slides_that_are_learnt_from(tmp_path):
    for name in ("a", "b", "ihc", "glass"):
        (tmp_path / f"{name}.tif").touch()
    begin(tmp_path)
    run = run_snakemake(tmp_path, "--dry-run", "--printshellcmds")
    assert planned_jobs(run.stdout).get("partner") == 2, run.stdout
    read = inputs_of(run.stdout, "pretrain")
    assert {f"results/{name}/partner/partner.json" for name in "ab"} <= set(read)
    assert f"{tmp_path}/ihc.tif" in run.stdout
    write_config(
        tmp_path, pretrain={"run": "partners.yaml", "exclude": ["b"], "alignment": {"branches": 1}}
    )
    assert "partner" not in planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout)


@pytest.mark.slow
def test_a_restained_slide_is_paired_and_a_bad_partner_costs_its_pairs_alone(tmp_path):
    section = draw_section((1000.0, 900.0), MPP)
    he, partner = stain_he(section.amounts), draw_partner(section, WARP, MPP)
    part = np.ascontiguousarray(he[400:1200, 500:1300])
    for name, pixels in (
        ("a", he),
        ("b", part),
        ("ihc", partner),
        ("glass", np.full_like(part, 246)),
    ):
        write_pyramid(tmp_path / f"{name}.tif", pixels, (2, 4), mpp=MPP)
    begin(tmp_path)
    run = run_snakemake(tmp_path)
    assert run.returncode == 0, run.stdout
    results = tmp_path / "results"

    seen, hidden = brown_nuclei(open_store(results / "a/partner/image-500nm.zarr"), section)
    assert len(seen) > 100 and 0.2 < hidden.mean() < 0.5
    assert (seen == hidden).mean() >= 0.98
    assert load_checkpoint(tmp_path / RUN / "checkpoint.pt").meta["patients"] == ["P1", "P2"]

    record = read_json(results / "b/partner/partner.json")
    assert record["status"] == "failed" and "no tissue found" in record["reason"]
    log = (tmp_path / RUN / "logs/pretrain.log").read_text()
    assert "1 of 2 images have partners" in log and "b: trained without its partner" in log
    assert (results / "b/nuclei.geojson.gz").is_file()
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "partner not registered" in page
    assert "no partner (1 slide; correct" in run.stdout and "b: " in run.stdout

    (tmp_path / "glass.tif").write_bytes(
        (tmp_path / "ihc.tif").read_bytes()
    )  # replaces the wrong partner
    planned = planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout)
    assert planned.get("partner") == 1 and planned.get("pretrain") == 1
    assert "detect" not in planned and "image" not in planned
