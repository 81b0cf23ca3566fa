"""Write two scripts for QuPath's menu: to find the nuclei of the open image, and to train on
corrected regions.

Without --output, they are written for every QuPath version of this user. QuPath lists them in
Automate > User scripts > muse.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.resources import files
from pathlib import Path

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file


def run(output: Path | None = None, config: Path | None = None) -> None:
    """Write the scripts.

    Args:
        output: folder for the scripts of QuPath's menu
        config: training config (default: my_labels.yaml)
    """
    from muse_pipeline.cohort.study import find_workflow

    config = config or find_workflow().parent / "config/train/my_labels.yaml"
    if not config.is_file():
        raise ConfigError(
            f"{config}: there is no such file; give the training settings with --config"
        )
    muse = Path(sys.executable).with_name("muse.exe" if sys.platform == "win32" else "muse")
    folders = [output] if output else find_script_folders(Path.home())
    for folder in folders:
        for path in write_scripts(folder, muse, config.resolve()):
            print(path)


PARTS = {  # QuPath shows the names without underscores
    "Run_muse.groovy": ("run_muse", "muse_functions", "import_nuclei"),
    "Train_muse.groovy": ("train_muse", "muse_functions", "import_nuclei"),
}
_FUNCTIONS = "/** Change the open image,"  # start of the functions in the import script


def find_script_folders(home: Path) -> list[Path]:
    """The script folders of all QuPath versions of a user."""
    folders = sorted(
        version / "scripts/muse" for version in (home / "QuPath").glob("v*") if version.is_dir()
    )
    if not folders:
        raise ConfigError(
            f"{home / 'QuPath'}: has no folder of QuPath 0.4 or later; start QuPath once, or give"
            " --output with the folder that Automate > User scripts > Open script directory shows"
        )
    return folders


def write_scripts(folder: Path, muse: Path, config: Path) -> list[Path]:
    """Write the scripts of QuPath's menu, which run the command ``muse`` and train with the
    settings ``config``.
    """
    values = {"@MUSE@": _quote(muse), "@CONFIG@": _quote(config)}
    for name, parts in PARTS.items():
        text = join_parts(
            *(
                (files("muse_pipeline.qupath") / f"{part}.groovy").read_text("utf-8")
                for part in parts
            )
        )
        for mark, value in values.items():
            text = text.replace(mark, value)
        with complete_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return [folder / name for name in PARTS]


def join_parts(main: str, functions: str, importer: str) -> str:
    """Join a script with the shared functions and those of the import script; all imports come
    first.
    """
    parts = [main, functions, importer[importer.index(_FUNCTIONS) :]]
    imports = dict.fromkeys(
        re.findall(r"^import .*$", "\n".join([main, functions, importer]), re.MULTILINE)
    )
    head, *rest = (re.sub(r"^import .*\n", "", part, flags=re.MULTILINE).strip() for part in parts)
    comment, end, own = head.partition("*/\n")
    return "\n\n".join([comment + end + "\n".join(imports), own.strip(), *rest]) + "\n"


def _quote(path: Path) -> str:
    """A path as a string literal in Groovy."""
    # In double quotes, Groovy replaces $name by the value of a variable.
    return json.dumps(str(path)).replace("$", "\\$")
