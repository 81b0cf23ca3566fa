"""The Nextflow module: its script writes the outputs that it declares, and its description lists
the same ports.
"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from workflow_runs import draw_stained_slide

from muse_pipeline.core.files import read_tsv

MODULE = Path(__file__).parents[2] / "contrib/nextflow/modules/muse/run"
TEXT = (MODULE / "main.nf").read_text()


def script_of(values: dict[str, str]) -> str:
    """The process's Bash script with ``values`` filled in as Nextflow does."""
    script = re.search(r"script:.*?\"\"\"\n(.*?)\"\"\"", TEXT, re.DOTALL)[1]
    script = re.sub(r"\$\{(.*?)\}", lambda match: values[match[1]], script)
    return (
        "\n".join(line[4:] for line in script.splitlines())
        .replace("\\\\", "\\")
        .replace("\\$", "$")
    )


@pytest.mark.slow
def test_the_script_writes_what_the_process_outputs(tmp_path):
    draw_stained_slide(tmp_path / "slide.tif")
    values = {
        "slide": "slide.tif", "prefix": "out", "task.cpus": "1", "task.process": "MUSE_RUN",
        "named": "", "mpp": "", "organ": "--organ 'left breast'",
        "stain": "--stain 'HE'", "args": "--no-viewer",
    }  # fmt: skip
    subprocess.run(
        ["bash", "-ec", script_of(values)], cwd=tmp_path, check=True, capture_output=True
    )
    (row,) = read_tsv(tmp_path / "out/cohort.tsv")
    assert (row["organ"], row["stain"]) == ("left breast", "H&E")
    patterns = re.findall(r"path\(?\s*\"(\S+?)\"\)?,\s+emit", TEXT)
    assert len(patterns) == 6
    assert all(list(tmp_path.glob(pattern.replace("${prefix}", "out"))) for pattern in patterns)
    assert yaml.safe_load((tmp_path / "versions.yml").read_text())["MUSE_RUN"]["muse-pipeline"]


def test_the_description_names_the_ports_of_the_process():
    described = yaml.safe_load((MODULE / "meta.yml").read_text())
    assert list(described["output"]) == re.findall(r"emit: (\w+)", TEXT)
    inputs = re.findall(r"(?:val|path)\((\w+)", TEXT.split("input:")[1].split("output:")[0])
    assert [name for port in described["input"] for item in port for name in item] == inputs
