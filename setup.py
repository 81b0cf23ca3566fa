"""The build step that `pyproject.toml` cannot describe: the workflow, which stays at the top,
becomes package data.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).parent
PARTS = "workflow", "config"
WORKFLOW = (
    "workflow/Snakefile",
    "workflow/**/*.smk",
    "config/README.md",
    *(f"{part}/**/*.yaml" for part in PARTS),
)


class BuildWithWorkflow(build_py):
    """Copies the workflow to ``muse_pipeline/deployed``; an editable installation reads it from the
    repository.
    """

    def run(self):
        """Build the package, then copy the workflow."""
        super().run()
        for source in [] if self.editable_mode else list_workflow():
            target = Path(self.build_lib, "muse_pipeline/deployed", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(TOP / source, target)

    def get_source_files(self):
        """All sources, for the source distribution."""
        return [*super().get_source_files(), *list_workflow()]


def list_workflow():
    """The files of the workflow, relative to the top."""
    return sorted(
        str(path.relative_to(TOP))
        for pattern in WORKFLOW
        for path in TOP.glob(pattern)
        if path.is_file()
    )


setup(cmdclass={"build_py": BuildWithWorkflow})
