"""The plan of the house: small folders, short files, typed packages, no circles."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
WINGS = (
    "gradenc",
    "gradenc_errors",
    "gradenc_core",
    "storage_schemas",
    "jobs",
    "hpc",
    "slurm_profiles",
)
MODULES_PER_FOLDER, LINES_PER_FILE = 15, 400
UNTYPED_RECORDS = 6
"""Places with `dict[str, Any]`, in which a record has no type of its own; more are not added."""
KINDS_OF_STORES = {
    "bank",
    "classes",
    "collinearity",
    "comparisons",
    "drill",
    "features",
    "pca",
    "prepared",
    "scales",
    "scores",
    "stability",
}
COMMANDS = {"cluster", "doctor", "explain", "logs", "status", "submit"}
SHARED = {
    *KINDS_OF_STORES,
    *COMMANDS,
    "baseline",
    "ceilings",
    "compare",
    "encode",
    "errors",
    "export",
    "extract",
    "images",
    "plugins",
    "recordings",
    "records",
    "space",
    "study",
    "subjects",
    "time",
}
"""Names of modules that stand in several rooms for one idea."""
MODULES = sorted(path for wing in WINGS for path in (ROOT / wing).rglob("*.py"))


def test_no_folder_holds_more_than_fifteen_modules() -> None:
    folders = {path.parent for path in MODULES}
    counts = {
        str(folder.relative_to(ROOT)): sum(path.parent == folder for path in MODULES) - 1
        for folder in folders
    }
    assert not {name: n for name, n in counts.items() if n > MODULES_PER_FOLDER}


def test_no_product_file_has_more_than_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in MODULES}
    assert not {name: n for name, n in lengths.items() if n > LINES_PER_FILE}


def test_modules_of_one_name_mean_one_idea() -> None:
    """A name in two rooms is a thing with a side in each; other names are given once."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        if path.name != "__init__.py":
            places.setdefault(path.stem, []).append(str(path.relative_to(ROOT)))
    assert not {name: at for name, at in places.items() if len(at) > 1 and name not in SHARED}


def test_records_have_types_of_their_own() -> None:
    loose = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]"
    ]
    assert len(loose) <= UNTYPED_RECORDS, loose


@pytest.mark.parametrize("wing", WINGS)
def test_every_package_says_that_it_is_typed(wing: str) -> None:
    assert (ROOT / wing / "py.typed").is_file()


def test_no_message_below_hpc_names_a_command_or_its_options() -> None:
    """Jobs, science and stores are used from notebooks too: a `Remedy` becomes the command."""
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in MODULES
        if path.relative_to(ROOT).parts[0] not in ("hpc", "gradenc")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(^|[\s`])--[a-z]|`gradenc ", node.value)
        if node.value not in _docstrings(path)
    ]
    assert not named


def _docstrings(path: Path) -> set[str]:
    """Return the docstrings of a file, those after a constant or a field included."""
    return {
        node.value.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*WINGS, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
