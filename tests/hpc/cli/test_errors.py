import ast
import builtins
import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import dask
import pytest
import typer
import xarray as xr
from typer.main import get_command
from typer.testing import CliRunner

from gradenc_errors import GradencError, Remedy
from hpc.cli.app import app
from hpc.cli.errors import Command
from hpc.node.dask import run_items_on_dask
from storage_schemas import files
from storage_schemas.errors import DamagedStore, UnfinishedRun, UnreadableRun
from storage_schemas.layout import ArrayLayout, Layout, Unit
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

WINGS = ("gradenc_errors", "gradenc_core", "storage_schemas", "jobs", "hpc")
ROOT = Path(__file__).parents[3]
GRADENC = str(Path(sys.executable).with_name("gradenc"))
STANDS_FOR_TORCHS = "OutOfMemoryError"
"""The drill raises what torch would; it must not be told from it."""


def classes(bases: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every product class that derives from one of these names."""
    known = set(bases)
    found: dict[str, str] = {}
    definitions = [
        (".".join(file.relative_to(ROOT).with_suffix("").parts), node)
        for wing in WINGS
        for file in sorted((ROOT / wing).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    while True:
        new = {
            node.name: module
            for module, node in definitions
            if node.name not in known
            and any(ast.unparse(base).rpartition(".")[2] in known for base in node.bases)
        }
        if not new:
            return iter(found.items())
        found |= new
        known |= set(new)


BUILTIN = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
OWN = {name: module.removesuffix(".__init__") for name, module in classes({"GradencError"})}


def ending(action: Callable[[], object], run: Path | None = None) -> str:
    """Return what a command prints that ends with the error of `action`."""
    program = typer.Typer()

    @program.command(cls=Command)
    def main(run: Path | None = None) -> None:
        action()

    result = CliRunner().invoke(program, [] if run is None else ["--run", str(run)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def raising(error: BaseException) -> Callable[[], object]:
    def action() -> None:
        raise error

    return action


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a drill's store of one unit, which nobody has made."""
    return Store.create(
        tmp_path,
        NewStore(
            "extract",
            "drill",
            "x",
            {"seed": 0},
            Layout(
                (ArrayLayout("values", ("item",), (1,), "float32", (1,), None, "1", "values"),),
                xr.Dataset(coords={"item": [0]}),
                (Unit(0, "x", {}, {"values": [(0, 1)]}),),
            ),
        ),
    )


def test_every_exception_of_the_product_is_in_the_one_tree() -> None:
    assert {name for name, _ in classes(BUILTIN)} - {STANDS_FOR_TORCHS} == {"GradencError", *OWN}


@pytest.mark.parametrize("name", OWN)
def test_every_exception_of_the_tree_ends_in_one_sentence(name: str) -> None:
    kind = getattr(import_module(OWN[name]), name)
    error = kind.__new__(kind, "the sky is green")
    GradencError.__init__(error, "the sky is green")
    said = ending(raising(error), Path("runs/first"))
    assert said.startswith("the sky is green")
    # The command has no `root`, which forgetting a run takes.
    assert ("`gradenc " in said) == (kind.remedy not in (None, Remedy.FORGET))


@pytest.mark.parametrize("remedy", Remedy)
def test_a_remedy_becomes_a_command_with_the_folders_of_the_case(remedy: Remedy) -> None:
    error = GradencError("it is wrong", remedy, run=Path("runs/my"), root=Path("/stores"))
    assert str(error) == f"it is wrong; {remedy}"
    said = ending(raising(error))
    assert "`gradenc " in said
    assert "runs/my" in said


def test_without_a_folder_the_remedy_stays_in_plain_words() -> None:
    assert ending(raising(DamagedStore("it is torn"))) == "it is torn; resume the run"


def test_the_folder_of_the_error_goes_before_that_of_the_command() -> None:
    error = UnreadableRun("run b cannot be read", root=Path("s"), run=Path("b"))
    assert ending(raising(error), Path("a")).endswith("`gradenc gc s --forget b`")


def test_an_unfinished_run_may_be_read_as_it_is() -> None:
    said = ending(raising(UnfinishedRun("stage encode has not begun", run=Path("r"))))
    assert said.endswith(
        "run `gradenc resume r`, or read what is there with `gradenc query r --partial`"
    )


def test_an_unsealable_store_ends_in_a_sentence(store: Store) -> None:
    said = ending(lambda: seal(store), Path("runs/first"))
    assert "1 of 1 units are not in order" in said
    assert said.endswith("; run `gradenc resume runs/first`")


def test_a_lost_lease_ends_in_a_sentence(store: Store) -> None:
    first = begin(store, store.units[0], "1", 0)
    assert first is not None
    first.finish("failed", error="x")
    begin(store, store.units[0], "2", 1)
    assert "nothing needs to be done" in ending(first.require_lease)


def test_a_dask_scheduler_that_is_not_there_ends_in_a_sentence(tmp_path: Path) -> None:
    def action() -> None:
        run_items_on_dask(
            [[("x", 0)]],
            workers=1,
            submission=tmp_path,
            address="tcp://127.0.0.1:9",
            should_stop=lambda: False,
            report=print,
            root=tmp_path,
        )

    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        assert ending(action).startswith("no Dask scheduler answers at tcp://127.0.0.1:9")


def test_an_error_of_the_file_system_is_completed_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    said = ending(lambda: files.replace(tmp_path / "plain" / "x", b""), Path("runs/first"))
    assert said.startswith(f"{tmp_path}/plain: cannot create it (")
    assert said.endswith("; run `gradenc resume runs/first`")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EISDIR, "it is a folder, and a file is needed"),
        (errno.ENOTDIR, "a part of the path is a file, and a folder is needed"),
        (errno.EACCES, "it may not be read or written; check its owner and permissions"),
        (errno.ENOSPC, "No space left on device"),
    ],
)
def test_an_error_of_the_system_names_the_file(number: int, reason: str) -> None:
    import os

    error = OSError(number, os.strerror(number), "some/file")
    assert ending(raising(error)) == f"some/file: {reason}"


def test_an_interrupt_is_a_sentence(tmp_path: Path) -> None:
    program = typer.Typer()
    program.command(cls=Command)(raising(KeyboardInterrupt()))
    result = CliRunner().invoke(program)
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted; committed units are kept\n"


def test_every_command_ends_its_errors_so() -> None:
    def commands(group):
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    found = list(commands(get_command(app)))
    assert len(found) > 20
    assert all(isinstance(command, Command) for command in found)


def test_a_run_folder_that_is_a_file_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    result = subprocess.run(
        [GRADENC, "status", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "is no run folder; check the path" in result.stderr


def test_a_folder_in_place_of_a_study_ends_in_a_sentence(tmp_path: Path) -> None:
    result = subprocess.run([GRADENC, "plan", str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path}: it is a folder, and a file is needed\n"
