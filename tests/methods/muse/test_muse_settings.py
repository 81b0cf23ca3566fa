"""Every setting of a pretraining changes its data, its batches or its updates."""

import pytest
from every_setting import IN_VIEWS, NAMES, SCHEDULE, Kind, last_stage
from pretraining import SETTINGS, draw_pictures

LABELLED = {"images": "images", "labels": "labels", "format": "row column class", "mpp": 0.5}
RUN = {
    **SETTINGS,
    "method": "muse",
    "sources": [{"labelled": {**LABELLED, "exclude": names}} for names in (["P2"], ["P0", "P1"])],
    "schedule": SCHEDULE,
    "distillation": {"n_prototypes": 16, "hidden": 16, "bottleneck": 8},
}
SETTINGS_OF_RUN = Kind(
    RUN,
    last_stage,
    "distillation schedule",
    {
        **IN_VIEWS,
        "balance": (
            {"balance": 0.0, "seed": 3},
            1.0,
        ),  # with the first seed, both draw the same images
        **{f"sources.{number}.weight": 1e-9 for number in (0, 1)},
        "distillation.balance": "sinkhorn",
        "distillation.frozen": 0.5,
    },
    {
        **dict.fromkeys(
            ("augmentation.scale", "augmentation.free_rotation"),
            "views have a geometry of their own",
        ),
        **NAMES,
        **dict.fromkeys(("sources.0.mpp", "sources.1.mpp"), "of `images`: test_pretrain.py"),
        "diameter_um": "of label masks; stands for `mpp`",
        **dict.fromkeys(("margin_um", "purity"), "of areas"),
        "labelled.weight": "is rejected: tests/mistakes.yaml",
    },
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with P0 and P1 with 36 nuclei each, and P2 with nuclei in one quarter only."""
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder)
    points = folder / "labels/P2_points.txt"
    lines = [
        line for line in points.read_text().splitlines() if max(map(int, line.split()[:2])) < 125
    ]
    points.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("name", SETTINGS_OF_RUN.names)
def test_every_setting_acts(pictures, name):
    assert SETTINGS_OF_RUN.difference(name, pictures) is not None
