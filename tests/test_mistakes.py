"""Each mistake of a user in mistakes.yaml ends in one sentence with its keywords and writes
nothing.

A row makes a folder (``made``, ``files``, ``change``), in which a command (``run``) or a function
(``call``) fails.
"""

import importlib
import inspect
import re
import shlex
import shutil
from pathlib import Path

import mistake_makers
import pytest
import shapely
import yaml

from muse_pipeline.core.errors import MuseError

TABLE = Path(__file__).with_suffix("").parent / "mistakes.yaml"


def find(name: str):
    """``store.write.write_store`` of the package, or the action ``name`` of mistake_makers."""
    module, _, attribute = name.rpartition(".")
    if not module:
        return getattr(mistake_makers, name)
    is_class = module.rpartition(".")[2][0].isupper()
    owner = find(module) if is_class else importlib.import_module(f"muse_pipeline.{module}")
    return getattr(owner, attribute)


class Loader(yaml.SafeLoader):
    """YAML with ``!path``, ``!find`` (an object by its name), ``!default`` (a class, called),
    ``!shape`` (by its text), ``!tuple`` and ``!picture`` (a white PNG of this width and height).
    """


Loader.add_constructor("!path", lambda loader, node: Path(node.value))
Loader.add_constructor("!find", lambda loader, node: find(node.value))
Loader.add_constructor("!shape", lambda loader, node: shapely.from_wkt(node.value))
Loader.add_constructor("!default", lambda loader, node: find(node.value)())
Loader.add_constructor(
    "!tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)
Loader.add_constructor(
    "!picture", lambda loader, node: mistake_makers.white_png(*loader.construct_sequence(node))
)


def fill(value, names: dict):
    """``value`` with ``$name`` replaced by what ``names`` has for it."""
    if isinstance(value, dict):
        return {fill(key, names): fill(each, names) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(fill(each, names) for each in value)
    if isinstance(value, str) and value.startswith("$") and value[1:] in names:
        return names[value[1:]]
    if isinstance(value, str | Path):
        text = re.sub(r"\$(\w+)", lambda name: str(names.get(name[1], name[0])), str(value))
        return type(value)(text)
    return value


def flatten(words) -> list[str]:
    if isinstance(words, str):
        return [words]
    return [each for part in words for each in flatten(part)]


def read_rows() -> list:
    """A parameter for each case of each group."""
    rows = []
    for name, group in yaml.load(TABLE.read_text(encoding="utf-8"), Loader).items():
        columns = group.get("columns", [])
        for number, case in enumerate(group.get("cases", [{}]), 1):
            values = dict(zip(columns, case, strict=True)) if columns else {}
            row = {**group, **(case if isinstance(case, dict) else {})}
            template = {key: row[key] for key in row.keys() - {"cases", "columns"}}
            rows.append(pytest.param(fill(template, values), id=f"{name}-{number}"))
    return rows


def prepare(row: dict, folder: Path, once) -> None:
    for name in row.get("made", "").split():
        maker = getattr(mistake_makers, name)
        shutil.copytree(once(f"mistakes-{name}", maker), folder, dirs_exist_ok=True)
    for name, content in row.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, changes in row.get("change", {}).items():
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new, 1)
        (folder / name).write_text(text, encoding="utf-8")


def run(command: str, capsys, muse) -> str:
    """What a command that fails prints last."""
    try:
        status, _, printed = muse("", *shlex.split(command)[1:])
    except SystemExit as end:
        status, printed = end.code, capsys.readouterr().err
    assert status == 2, printed
    first, *others = [line for line in printed.splitlines() if re.match(r"muse[ \w-]*: ", line)]
    assert not others and printed.splitlines()[-1] == first
    return first


def call(row: dict) -> str:
    """What the error of a function says."""
    with pytest.raises(MuseError) as caught:
        found = find(row["call"])(*row.get("args", ()), **row.get("settings", {}))
        if inspect.isgenerator(found):
            list(found)
    assert row["error"] in {kind.__name__ for kind in type(caught.value).__mro__}
    return str(caught.value)


def list_files(folder: Path) -> dict:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", read_rows())
def test_a_mistake_is_one_sentence(row, once, tmp_path, monkeypatch, capsys, muse):
    prepare(row, tmp_path, once)
    monkeypatch.chdir(tmp_path)
    before = list_files(tmp_path)
    sentence = run(row["run"], capsys, muse) if "run" in row else call(row)
    assert [words for words in flatten(row["says"]) if words not in sentence] == [], sentence
    assert "\n" not in sentence or row.get("lines")
    assert list_files(tmp_path) == before or row.get("may_write")
