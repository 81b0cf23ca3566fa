"""Write the files generated from the settings of a run and the columns of a sheet: the config, the
schemas of both, and the table of config/README.md.

    python docs/make_settings.py

``muse_pipeline/settings.py`` and the modules of ``muse_pipeline/outputs`` describe the settings,
``SheetRow`` in ``muse_pipeline/cohort/sheet.py`` the columns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from muse_pipeline.cohort.sheet import sheet_schema
from muse_pipeline.core.setting import Setting, plain, schema_of
from muse_pipeline.settings import list_groups, list_settings

ROOT = Path(__file__).parents[1]
NOTE = "made by docs/make_settings.py"
BEGIN, END = f"<!-- settings: {NOTE} -->\n", "<!-- end of settings -->\n"


def make_config() -> str:
    """Content of ``config/config.yaml``."""
    groups = ["\n".join(make_line(setting) for setting in group) for group in list_groups()]
    head = (
        "# Settings of a run with their defaults, explained in config/README.md. Leave out what"
        " suits you."
    )
    return "\n\n".join([head, *groups]) + "\n"


def default_of(setting: Setting) -> str:
    """The default of a setting as text."""
    default = setting.default
    return default if isinstance(default, str) else json.dumps(default)


def make_line(setting: Setting) -> str:
    """A setting with its default, as a line of a config file."""
    return f"{setting.name}: {default_of(setting)} # {plain(setting.text)}"


def make_schema(schema: dict[str, Any]) -> str:
    """Content of a file in ``workflow/schemas``."""
    return f"# {NOTE[0].upper()}{NOTE[1:]}.\n" + yaml.safe_dump(schema, sort_keys=False)


def make_row(setting: Setting) -> str:
    """A setting as a row of a Markdown table."""
    sentences = ". ".join(filter(None, [setting.text, setting.details]))
    return f"| `{setting.name}` | `{default_of(setting)}` | {sentences} |"


def make_table(page: str) -> str:
    """``page`` with its table of settings replaced by the current one."""
    before, rest = page.split(BEGIN)
    rows = map(make_row, list_settings().values())
    table = "\n".join(["| setting | default | what |", "|---|---|---|", *rows])
    return f"{before}{BEGIN}\n{table}\n\n{END}{rest.split(END)[1]}"


def make_files() -> dict[Path, str]:
    """Content of each file, by its path."""
    readme, schemas = ROOT / "config/README.md", ROOT / "workflow/schemas"
    return {
        ROOT / "config/config.yaml": make_config(),
        schemas / "config.schema.yaml": make_schema(schema_of(list_settings().values())),
        schemas / "slides.schema.yaml": make_schema(sheet_schema()),
        readme: make_table(readme.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for path, text in make_files().items():
        path.write_text(text, encoding="utf-8")
