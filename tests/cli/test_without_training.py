"""What an installation without the extra `train` can do, and how it states what it cannot."""

import subprocess
import sys

import pytest

BLOCK = """
import sys
for name in ("torch", "lightning_fabric", "onnx", "onnxscript", "matplotlib", "skimage"):
    sys.modules[name] = None
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BLOCK + code], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("method", ["haematoxylin", "otsu", "imported"])
def test_proposers_without_a_network_need_no_torch(method):
    done = python(f"from muse_pipeline.proposals import PROPOSERS; print(PROPOSERS[{method!r}].Settings)")
    assert done.returncode == 0, done.stderr


def test_a_misspelt_method_is_answered_with_the_nearest():
    done = python("from muse_pipeline.proposals import PROPOSERS; PROPOSERS['otzu']")
    assert "unknown proposer 'otzu'; did you mean 'otsu'?" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("psm", "{config}"), ("finetune", "{config}"), ("export", "{config}")],
)
def test_a_verb_that_trains_names_the_extra(arguments, tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("name: a\n")
    words = [*(word.format(config=config) for word in arguments), "-o", str(tmp_path / "out")]
    done = python(f"from muse_pipeline.cli.main import main; sys.exit(main({words!r}))")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "not installed; install the extra `train`" in done.stderr
