"""Numbers that no step can work with are refused before any work begins."""

import pytest

from muse_pipeline.cli.main import main


@pytest.mark.parametrize(
    ("verb", "option", "value"),
    [
        *[(verb, "--threads", "0") for verb in ("tile", "detect", "run", "finetune", "demo-slide")],
        ("detect", "--threads", "two"),
        ("run", "--shards", "0"),
        ("run", "--mpp", "0"),
        ("tile", "--mpp", "nan"),
        ("tile", "--max-corrupt", "1.5"),
        ("geojson", "--max-features", "0"),
    ],
)
def test_a_number_out_of_range_is_named(capsys, verb, option, value):
    with pytest.raises(SystemExit) as end:
        main([verb, option, value])
    assert end.value.code == 2
    assert f"argument {option}: '{value}' is not a" in capsys.readouterr().err
