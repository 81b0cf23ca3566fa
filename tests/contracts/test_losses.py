"""What every loss keeps: a source, shapes in the docstring, a test, and no knowledge of methods."""

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


def public_functions(name):
    module = importlib.import_module(f"muse_pipeline.losses.{name}")
    members = inspect.getmembers(module, inspect.isfunction)
    return [one for _, one in members if one.__module__ == module.__name__ and not one.__name__.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_a_loss_names_its_source(name):
    module = importlib.import_module(f"muse_pipeline.losses.{name}")
    texts = [module.__doc__, *(function.__doc__ for function in public_functions(name))]
    assert SOURCE.search(" ".join(texts)), f"{name} names no paper"


@pytest.mark.parametrize("name", MODULES)
def test_the_functions_of_a_loss_state_shapes_and_are_tested(name):
    functions = public_functions(name)
    assert any(re.search(rf"\b{function.__name__}\b", TESTS) for function in functions), f"no test calls {name}"
    for function in functions:
        assert "(" in function.__doc__, f"{function.__name__} states no shape"
