"""Print how large the code is beside its budget; exit with status 1 above a limit.

Tokens are names, operators, numbers and strings outside docstrings and comments. ``BUDGETS``
has the limit and the goal of each figure; lower a limit once its figure is lower.
"""

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

TOP = Path(__file__).parents[1]
BUDGETS = {
    "tokens of muse_pipeline": (365_600, 335_000),
    "tokens of tests": (382_000, 350_000),
    "tokens of experiments and benchmarks": (54_000, 55_000),
    "lines of more than 100 columns": (0, 0),
    "verbs": (24, 24),
    "options of muse run": (22, 22),
    "recipes": (8, 8),
}
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def count_tokens(path: Path) -> int:
    """Tokens of a file."""
    text = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            docstrings |= set(range(first.lineno, first.end_lineno + 1))
    lines = iter(text.splitlines(keepends=True))
    return sum(
        token.type not in LAYOUT
        and not (token.type == tokenize.STRING and token.start[0] in docstrings)
        for token in tokenize.generate_tokens(lambda: next(lines, ""))
    )


def count_by_room(*folders: str) -> Counter:
    """Tokens of each folder in ``folders``."""
    rooms = Counter()
    for folder in folders:
        for path in (TOP / folder).rglob("*.py"):
            parts = path.relative_to(TOP).parts
            rooms["/".join(parts[:2])] += count_tokens(path)
    return rooms


def measure() -> dict[str, int]:
    """The figures of ``BUDGETS``; those of folders are printed."""
    from muse_pipeline.cli.arguments import Parser
    from muse_pipeline.cli.main import VERBS, import_verb
    from muse_pipeline.cli.signature import add_verb

    parser = Parser()
    add_verb(parser, import_verb("run"))
    code = [path for folder in ("muse_pipeline", "tests") for path in (TOP / folder).rglob("*.py")]
    rooms = [count_by_room(*folders.split(" and ")) for folders in ROOMS]
    for room, n in sorted((rooms[0] + rooms[1] + rooms[2]).items(), key=lambda item: -item[1]):
        print(f"{n:9,} {room}")
    return {
        **{f"tokens of {name}": of.total() for name, of in zip(ROOMS, rooms, strict=True)},
        "lines of more than 100 columns": sum(
            len(line) > 100 for path in code for line in path.read_text("utf-8").splitlines()
        ),
        "verbs": len(VERBS),
        "options of muse run": sum(
            bool(action.option_strings) and action.dest != "help" for action in parser._actions
        ),
        "recipes": len(list((TOP / "config/train").glob("*.yaml"))),
    }


ROOMS = ("muse_pipeline", "tests", "experiments and benchmarks")

if __name__ == "__main__":
    figures = measure()
    for name, (limit, goal) in BUDGETS.items():
        print(f"{figures[name]:9,} {name} (limit {limit:,}, goal {goal:,})")
    over = [name for name, (limit, _) in BUDGETS.items() if figures[name] > limit]
    sys.exit(f"above the limit in .ci/budget.py: {', '.join(over)}" if over else 0)
