"""Three rules about imports; for each, a made-up breach proves that breaches are found.

1. Parts only import parts in lower layers, and only data, models, methods, training, export and
inference.torch_runtime import torch. 2. Plug-ins of one kind never import each other. 3. The
workflow only imports the planning of a cohort, the settings and the outputs; it runs steps as
commands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "muse_pipeline"

# From the bottom up: a part may import itself and parts in lower layers (the lines above), but not
# its siblings.
LAYERS = (
    {"core"},
    {"slides"},
    {"cohort", "tissue"},
    {"store"},
    {"nuclei", "registration"},
    {"qupath", "models", "features"},
    {"inference", "scverse"},
    {"labels"},
    {"data"},
    {"evaluation", "proposals"},
    {"demo", "preflight", "training", "report", "statistics"},
    {"methods", "viewer"},
    {"export"},
    {"geodataframe", "steps"},
    {"outputs"},
    {"settings"},
    {"plan"},
    {"pipeline", "workflow"},
    {"api"},
    {"cli"},
)
NEVER = {("nuclei", "slides"), ("nuclei", "tissue")}
ALLOWED: set[tuple[str, str]] = set()

WITH_TORCH = {"data", "models", "methods", "training", "export"}
TORCH_RUNTIME = "muse_pipeline.inference.torch_runtime"  # only loaded if the provider is PyTorch
LOADS_ON_DEMAND = "cli"  # verbs import what they need in `run`


def part_of(module: str) -> str | None:
    """The part that a module belongs to, ``slides`` for ``muse_pipeline.slides.base``; None for
    other packages.
    """
    names = module.split(".")
    return names[1] if names[0] == PACKAGE and len(names) > 1 else None


def imported_modules(source: str) -> Iterator[str]:
    """Yield every module that the source imports, at any depth; for ``from a import b``, these are
    a and a.b.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point to"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def height(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


def breaches_of_direction(module: str, source: str) -> list[str]:
    """Breaches of rule 1 in a module."""
    part, breaches = part_of(module), []
    for imported in sorted(set(imported_modules(source))):
        target = part_of(imported)
        if imported.split(".")[0] == "torch" and part not in WITH_TORCH and module != TORCH_RUNTIME:
            breaches.append(f"{module} imports torch, which is not allowed in {part}")
        if target is None or target == part or target.startswith("__"):
            continue
        if (height(target) >= height(part) or (part, target) in NEVER) and (
            part,
            target,
        ) not in ALLOWED:
            breaches.append(
                f"{module} imports {imported}: from {part} that arrow does not point down"
            )
        if (
            target in WITH_TORCH
            and part not in WITH_TORCH | {LOADS_ON_DEMAND}
            and module != TORCH_RUNTIME
        ):
            breaches.append(f"{module} imports {imported}, and torch with it")
    return breaches


def plug_in_kind(module: str, source: str) -> str | None:
    """The registry that a module adds something to."""
    found = re.search(r"^@(\w+)\.register\(", source, re.MULTILINE)
    # Methods (``RECIPES``) are exempt: one may run another as a stage.
    return found[1] if found and found[1] != "RECIPES" else None


def breaches_between_plug_ins(sources: dict[str, str]) -> list[str]:
    """Breaches of rule 2 in a package, given as the sources of its modules."""
    kinds = {module: plug_in_kind(module, source) for module, source in sources.items()}
    return [
        f"{module} imports {imported}: plug-ins of one kind"
        for module, source in sources.items()
        for imported in sorted(set(imported_modules(source)))
        if kinds[module] and imported != module and kinds.get(imported) == kinds[module]
    ]


def breaches_in_workflow(names_and_texts: Iterable[tuple[str, str]]) -> list[str]:
    """Breaches of rule 3; Snakemake files are not Python, so they are searched by a regular
    expression.
    """
    allowed = (
        rf"(?!{PACKAGE}\.(cohort|core\.errors|core\.setting|outputs|plan|settings|workflow)\b)"
    )
    pattern = re.compile(
        rf"^\s*(from|import)\s+{allowed}{PACKAGE}\b|\bimport_module\(.{PACKAGE}", re.MULTILINE
    )
    return [f"{name} imports {PACKAGE}" for name, text in names_and_texts if pattern.search(text)]


def read_package() -> dict[str, str]:
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        sources[module] = path.read_text(encoding="utf-8")
    return sources


def test_every_part_has_its_layer():
    parts = {part_of(module) for module in read_package()} - {None}
    unknown = parts - set().union(*LAYERS)
    assert not unknown, f"add {unknown} to LAYERS"


def test_imports_point_down_and_torch_stays_where_it_belongs():
    sources = {module: source for module, source in read_package().items() if part_of(module)}
    assert not [
        breach
        for module, source in sources.items()
        for breach in breaches_of_direction(module, source)
    ]


def test_plug_ins_of_one_kind_do_not_import_each_other():
    sources = read_package()
    assert {plug_in_kind(module, source) for module, source in sources.items()} >= {"READERS"}
    assert not breaches_between_plug_ins(sources)


def test_the_workflow_imports_the_planning_alone():
    files = [ROOT / "Snakefile", ROOT / "workflow/Snakefile", *(ROOT / "workflow").rglob("*.smk")]
    assert not breaches_in_workflow((path.name, path.read_text(encoding="utf-8")) for path in files)
