"""Dotted names of modules, functions and classes in docstrings, comments and documentation exist."""

import ast
import pkgutil
import re
from pathlib import Path

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "muse_pipeline"
PARTS = {path.stem for path in PACKAGE.iterdir()}
IN_PAGES = re.compile(r"\bmuse_pipeline(?:\.\w+)+")
DOTTED = re.compile(r"``(?:muse_pipeline\.)?([a-z_]+(?:\.\w+)+)(?:\(\))?``")
FILES = re.compile(r"\.(csv|dcm|geojson|h5ad|json|npz|parquet|png|pt|py|svs|tsv)(\.gz)?$")
SETTINGS = {"export.threshold"}  # a setting, not a module


def names_in(tree):
    """The names that a module or class defines; members of classes are listed as "member" and as "Class.member"."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = names_in(node)
            names |= members | {f"{node.name}.{member}" for member in members}
    return names


def read_names():
    names = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        names |= {module, *(f"{module}.{name}" for name in names_in(ast.parse(path.read_text("utf-8"))))}
    return names


def unknown_names(path, names):
    """Dotted names in a file that begin with a part of the package or a module next to the file, but do not exist."""
    begin, folders = PARTS | {each.stem for each in path.parent.iterdir()}, path.relative_to(PACKAGE).parts[:-1]
    for name in DOTTED.findall(path.read_text("utf-8")):
        is_name = name.split(".")[0] in begin and not FILES.search(name) and name not in SETTINGS
        if is_name and not names & {".".join([*folders[:n], name]) for n in range(len(folders) + 1)}:
            yield name


def test_names_with_a_path_exist():
    names = read_names()
    found = {path.relative_to(PACKAGE).as_posix(): [*unknown_names(path, names)] for path in PACKAGE.rglob("*.py")}
    assert not {path: unknown for path, unknown in found.items() if unknown}


def test_names_in_the_documentation_exist():
    pages = [*TOP.glob("*.md"), *(path for folder in ("docs", "config") for path in (TOP / folder).rglob("*.md"))]
    names = {name for page in pages for name in IN_PAGES.findall(page.read_text("utf-8"))}
    assert names
    for name in names:
        pkgutil.resolve_name(name)
