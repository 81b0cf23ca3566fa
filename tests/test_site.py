"""The documentation's site: links have targets, all public names are documented, and the notebooks
run.
"""

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

import muse_pipeline

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from site_hooks import move_link  # noqa: E402


@pytest.mark.parametrize(
    "source, link, moved",
    [
        ("docs/guide/slide.md", "outputs.md", "../guide/outputs.md"),
        ("docs/guide/slide.md", "../../config/README.md", "../config/README.md"),
        ("docs/README.md", "../CONTRIBUTING.md", "CONTRIBUTING.md"),
        ("config/README.md", "../docs/guide/labels.md", "../guide/labels.md"),
        ("CONTRIBUTING.md", "docs/design.md", "design.md"),
        ("experiments/lfov/README.md", "../../docs/guide/labels.md", "../../guide/labels.md"),
    ],
)
def test_links_between_files_become_links_of_the_site(source, link, moved):
    assert move_link(link, PurePosixPath(source)) == moved


def test_the_page_of_the_api_has_every_public_name():
    listed = {
        line.rsplit(".", 1)[1]
        for line in (ROOT / "docs/api.md").read_text().splitlines()
        if line[:4] == "::: "
    }
    assert listed == set(muse_pipeline.__all__) - {"__version__"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_builds(tmp_path):
    build = f"{sys.executable} -m mkdocs build --strict --site-dir {tmp_path / 'site'}".split()
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Tissue of" in (tmp_path / "site/notebooks/python_api/index.html").read_text()
