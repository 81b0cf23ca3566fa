"""The contract of losses: each names its source, documents shapes, has a test, and imports no method."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import muse_pipeline.losses

MODULES = [module.name for module in pkgutil.iter_modules(muse_pipeline.losses.__path__)]
TESTS = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
SOURCE = re.compile(r"arXiv|doi|\bours\b|\b(19|20)\d\d\b|sections? \d")


def public_members(name):
    """The public functions and classes of a loss module, each with its docstring and those of its methods."""
    module = importlib.import_module(f"muse_pipeline.losses.{name}")
    members = [one for one in vars(module).values() if getattr(one, "__module__", None) == module.__name__]
    members = [one for one in members if callable(one) and not one.__name__.startswith("_")]
    return {one.__name__: "\n".join(filter(None, map(inspect.getdoc, [one, *methods_of(one)]))) for one in members}


def methods_of(member):
    return [one for name, one in vars(member).items() if inspect.isfunction(one)] if inspect.isclass(member) else []


@pytest.mark.parametrize("name", MODULES)
def test_a_loss_names_its_source(name):
    module = importlib.import_module(f"muse_pipeline.losses.{name}")
    assert SOURCE.search("\n".join([module.__doc__, *public_members(name).values()])), f"{name} names no paper"


@pytest.mark.parametrize("name", MODULES)
def test_a_loss_states_shapes_and_is_tested(name):
    members = public_members(name)
    assert any(re.search(rf"\b{member}\b", TESTS) for member in members), f"no test calls {name}"
    for member, text in members.items():
        assert "(" in text, f"{member} states no shape"
