"""The door: quick to import, documented by examples that run, and nothing else needs it."""

import doctest
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gradenc

ROOT = Path(__file__).parents[2]
QUICK = """
import sys, time
began = time.perf_counter()
import gradenc
took = time.perf_counter() - began
slow = {"torch", "xarray", "pandas", "numpy", "sklearn", "zarr"} & set(sys.modules)
assert not slow, slow
print(took)
"""
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented() -> Iterator[Any]:
    """Every public object of the door, and the public methods of its classes."""
    for name in gradenc._HOMES:
        thing = getattr(gradenc, name)
        yield pytest.param(thing, id=name)
        if inspect.isclass(thing) and thing.__module__.startswith("gradenc."):
            for own, member in vars(thing).items():
                if not own.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield pytest.param(member, id=f"{name}.{own}")


def test_importing_the_door_is_quick_and_imports_nothing_slow() -> None:
    took = [
        float(subprocess.run([sys.executable, "-c", QUICK], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(took) < 0.2


def test_the_door_lists_its_names_and_refuses_others() -> None:
    assert set(gradenc._HOMES) == set(gradenc.__all__) == set(dir(gradenc))
    with pytest.raises(AttributeError, match="no attribute 'extracts'"):
        gradenc.extracts  # noqa: B018


@pytest.mark.parametrize("thing", list(documented()))
def test_every_example_of_the_door_runs(thing: Any) -> None:
    found = doctest.DocTestFinder(recurse=False).find(thing, name=repr(thing))
    examples = [test for test in found if test.examples]
    is_whole = inspect.isfunction(thing) or inspect.isclass(thing)
    if is_whole and "." not in thing.__qualname__:
        assert examples, f"{thing.__qualname__} has no example"
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in examples:
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("thing", list(documented()))
def test_every_parameter_of_the_door_is_documented(thing: Any) -> None:
    if not callable(thing) and not isinstance(thing, property):
        return
    text = inspect.getdoc(thing) or ""
    assert text
    if isinstance(thing, property) or inspect.isclass(thing):
        return
    for name in inspect.signature(thing).parameters:
        assert name in ("self", "cls") or name in text, name


def test_every_package_tells_type_checkers_that_it_is_typed() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    assert "gradenc" in packages
    for package in packages:
        assert (ROOT / package / "py.typed").is_file(), package
