"""The script with which QuPath imports our files line by line."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from muse_pipeline.core.files import complete_file

IMPORT_SCRIPT = "import_nuclei.groovy"


def copy_import_script(folder: Path | str) -> Path:
    """Copy the import script into ``folder``, from where QuPath opens it; returns its path."""
    target = Path(folder) / IMPORT_SCRIPT
    with as_file(files("muse_pipeline.qupath") / IMPORT_SCRIPT) as source, complete_file(target) as partial:
        shutil.copyfile(source, partial)
    return target
