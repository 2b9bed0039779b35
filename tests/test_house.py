"""The plan of the house: small folders, short files, typed packages, no circles."""

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


@pytest.mark.parametrize("wing", WINGS)
def test_every_package_says_that_it_is_typed(wing: str) -> None:
    assert (ROOT / wing / "py.typed").is_file()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*WINGS, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
