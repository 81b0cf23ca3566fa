"""Which provider runs a model, how it is chosen, and whether all of them find the same nuclei."""

import re
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from muse_pipeline.core.errors import ProviderError
from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.inference import model as providers
from muse_pipeline.inference.model import (
    AUTO,
    PREFERRED,
    RUNTIMES,
    TORCH,
    choose_provider,
    examine_providers,
    find_fault,
    find_model,
)
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.parquet import read_nuclei

OTHERS = [name for name in (*RUNTIMES, *TORCH) if name != "cpu"]


@pytest.mark.parametrize("provider", OTHERS)
def test_a_provider_that_is_not_there_is_rejected_with_what_to_install(provider):
    if not providers._lacks(provider):
        pytest.skip(f"{provider} is there")
    assert choose_provider(provider) == provider  # a plan for a different machine may name it
    extra = providers.EXTRAS.get(provider, "train")
    with pytest.raises(ProviderError, match=rf"'{provider}' is .* the extra `{extra}`"):
        Predictor(find_model("compact-fp32"), provider)


def test_a_provider_that_is_there_and_cannot_start_is_rejected(monkeypatch):
    if not find_fault("cuda"):
        pytest.skip("CUDA starts here")
    # As with a GPU package on a machine without a GPU, the provider is listed, but no session can
    # use it.
    listed = [RUNTIMES["cuda"], *onnxruntime.get_available_providers()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    with pytest.warns(UserWarning, match="not in available"):
        assert choose_provider(AUTO) == "cpu"
    with pytest.warns(UserWarning), pytest.raises(ProviderError, match="installed"):
        Predictor(find_model("compact-fp32"), "cuda")
    with pytest.warns(UserWarning):
        found = {finding.topic: finding for finding in examine_providers()}
    assert not found["provider cuda"].usable
    assert "does not start here" in found["provider cuda"].found


def test_auto_takes_the_first_that_starts(monkeypatch):
    assert PREFERRED[-1] == "cpu"
    assert not find_fault(choose_provider(AUTO))
    for able in (["cuda", "cpu"], ["cpu"], ["openvino", "tensorrt", "cpu"]):
        monkeypatch.setattr(providers, "find_fault", lambda name, able=able: name not in able)
        assert choose_provider(AUTO) == able[0 if able[0] in PREFERRED else -1]


def test_what_auto_takes_is_recorded_by_its_own_name(muse, tmp_path):
    resolved = tmp_path / "model.json"
    muse.ok(f"step model compact --provider auto --resolved {resolved}")
    taken = choose_provider(AUTO)
    assert re.search(r'"provider": "(\w+)"', resolved.read_text())[1] == taken
    assert Predictor(find_model("compact-fp32"), AUTO).provider == taken


@pytest.mark.slow  # test_torch_runtime.py is fast and compares PyTorch on one window
@pytest.mark.parametrize("provider", OTHERS)
def test_another_provider_finds_the_same_nuclei(provider, request, tmp_path):
    if find_fault(provider):
        pytest.skip(f"{provider} does not start here")
    slide, nuclei = request.getfixturevalue("tiled_slide"), {}
    for run in ("cpu", provider, f"{provider} again"):
        predictor = Predictor(find_model("compact-fp32"), run.split()[0])
        nuclei[run] = read_nuclei(
            replace(slide, predictor=predictor).nuclei(tmp_path / run, threads=2)
        )
    expected, found, again = nuclei.values()
    assert len(expected) > 500
    assert len(expected) == len(found)
    partner = match_points(found.xy, found.score, expected.xy, 1.0)
    assert sorted(partner) == list(range(len(expected)))
    for name, tolerance in (("xy", 0.01), ("score", 1e-3), ("prob", 5e-3), ("rays", 0.02)):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected[partner], name), rtol=0, atol=tolerance
        )
    for name in ("xy", "score", "prob", "rays"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
