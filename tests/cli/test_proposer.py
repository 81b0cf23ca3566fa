"""`muse step proposer` shows a proposer's settings, or what is wrong with them."""

from muse_pipeline.core.files import read_json


def test_settings_left_out_have_their_defaults(muse, tmp_path):
    assert "strictness 0.7, max_radius_um 10.0\n" in muse.ok(
        "step proposer haematoxylin --settings", "{}", "--resolved", tmp_path / "p.json"
    )
    settings = {"radii_um": [3.0, 4.0, 5.0], "min_distance_um": 3.0}
    settings |= {"strictness": 0.7, "max_radius_um": 10.0}
    assert read_json(tmp_path / "p.json") == {"method": "haematoxylin", "settings": settings}


def test_a_method_whose_packages_only_the_jobs_have_is_not_rejected(muse, tmp_path, monkeypatch):
    def lacking(*_):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("muse_pipeline.proposals.base.parse_settings", lacking)
    out = muse.ok(f"step proposer haematoxylin --resolved {tmp_path / 'p.json'}")
    assert out == "haematoxylin: not checked, as the package 'torch' is not installed here\n"


def test_settings_that_are_files_are_resolved_too(muse, tmp_path):
    resolved = tmp_path / "resolved.json"
    status, *_ = muse(
        "step proposer imported --settings", "{file: '{slide}.csv'}", "--resolved", resolved
    )
    assert (status, read_json(resolved)["settings"]["file"]) == (0, "{slide}.csv")
