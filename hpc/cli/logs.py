"""`gradenc logs`: the attempts at units with their errors, and the output of tasks."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hpc.cli.arguments import RunPath
from hpc.run.folder import RunFolder
from jobs.spec import STAGES

if TYPE_CHECKING:
    from hpc.inspect.status import FailureGroup
    from storage_schemas.protocol.attempts import AttemptRecord

_ASK_EVERY_S = {False: 1.0, True: 15.0}
"""Pause between two checks by `-f` whether tasks run (s): longer on SLURM (True)."""


def logs(
    run: RunPath,
    unit: Annotated[
        str | None,
        typer.Argument(help="A unit's id, as status prints it; default: one unit of each failure."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Print the output of running tasks until they end."),
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="Print the log of the run's last gate (on a cluster).")
    ] = False,
) -> None:
    """Show the attempts at a unit with their errors, tracebacks and log files.

    Without a unit: one unit of each group of equal failures, and the end of the log of every stage
    that was stopped.

    Example: `gradenc logs runs/first 3fa9c1d2e4b5-00003`
    """
    folder = RunFolder.open(run)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if gate:
        _print_gate(folder, console)
    elif follow:
        _follow(folder, unit, console)
    elif unit:
        _print_unit(folder, unit, console)
    else:
        _print_failures(folder, console)


def _print_unit(folder: RunFolder, unit_id: str, console: Console) -> None:
    attempts = _attempts(folder, unit_id)
    for attempt in attempts:
        _print_attempt(folder, attempt, console)
    if not attempts:
        console.print(f"{unit_id} has not been tried yet")


def _print_failures(folder: RunFolder, console: Console) -> None:
    """Print one unit of each group of equal failures, then the stages that were stopped."""
    from hpc.inspect.status import failed_alike
    from hpc.run.state import run_state

    groups = [group for state in run_state(folder).values() for group in failed_alike(state)]
    for group in groups:
        console.print(_heading(group))
        _print_attempt(folder, _attempts(folder, group.example)[-1], console)
    if not _print_stopped(folder, console) and not groups:
        console.print("no unit has failed")


def _heading(group: "FailureGroup") -> str:
    return f"\n{group.stage}: {group.units} unit(s) failed ({group.failure}), for example:"


def _print_stopped(folder: RunFolder, console: Console) -> bool:
    """Print the end of a log of each stopped stage: its tasks may have died before any unit."""
    from hpc.inspect.logs import last_lines, logs_in
    from hpc.run.submissions import given_up, of_round

    stopped = {stage: why for stage in STAGES if (why := given_up(folder, stage))}
    for stage, why in stopped.items():
        console.print(f"\n{stage}: {why}")
        for submission in of_round(folder, stage)[-1:]:
            for path in logs_in(submission.path / "log")[-1:]:
                console.print(f"    log: {path}")
                console.print("\n".join(last_lines(path)))
    return bool(stopped)


def _print_attempt(folder: RunFolder, attempt: "AttemptRecord", console: Console) -> None:
    from hpc.inspect.logs import logs_of_job
    from storage_schemas.protocol.attempts import is_alive

    alive = ", running" if is_alive(attempt) else ""
    console.print(
        f"{attempt.unit}: attempt {attempt.n} by {attempt.job_and_restarts} on {attempt.host} from "
        f"{attempt.started}: {attempt.outcome}{alive}"
    )
    if attempt.traceback or attempt.error:
        console.print(attempt.traceback or attempt.error)
    for path in logs_of_job(folder, attempt.job):
        console.print(f"    log: {path}")


def _print_gate(folder: RunFolder, console: Console) -> None:
    from hpc.inspect.logs import logs_in

    found = logs_in(folder.path / "gates")
    if not found:
        console.print("the run has had no gate; only runs on a cluster have one")
        return
    console.print(f"log: {found[-1]}")
    console.print(found[-1].read_text(errors="replace"))


def _attempts(folder: RunFolder, unit_id: str) -> list["AttemptRecord"]:
    from hpc.inspect.explain import find_unit
    from storage_schemas.protocol.attempts import attempts_of

    store, unit = find_unit(folder, unit_id)
    return attempts_of(store, unit.index)


def _follow(folder: RunFolder, unit_id: str | None, console: Console) -> None:
    lines = _lines_of_unit(folder, unit_id) if unit_id else _lines_of_tasks(folder)
    shown: Path | None = None
    try:
        for path, line in lines:
            if path != shown:
                console.print(f"==> {path} <==")
                shown = path
            console.print(line)
    except KeyboardInterrupt:
        return


def _lines_of_unit(folder: RunFolder, unit_id: str) -> Iterator[tuple[Path, str]]:
    """Follow the job of the unit's newest attempt while it works on the unit."""
    from hpc.inspect.logs import follow, logs_of_job
    from storage_schemas.protocol.attempts import is_alive

    def files() -> list[Path]:
        return [p for a in _attempts(folder, unit_id)[-1:] for p in logs_of_job(folder, a.job)]

    def goes_on() -> bool:
        return any(is_alive(attempt) for attempt in _attempts(folder, unit_id)[-1:])

    return follow(files, goes_on, _ASK_EVERY_S[False])


def _lines_of_tasks(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Follow all running and later tasks, from the first submission that has not ended."""
    from hpc.inspect.logs import follow, logs_in
    from hpc.run.submissions import submissions, tasks_of, unsettled

    first = unsettled(folder)[:1]

    def files() -> list[Path]:
        # Settled ones too: the last lines of a task are read after another process settled it.
        later = (s for s in submissions(folder) if first and s.path >= first[0].path)
        return [path for submission in later for path in logs_in(submission.path / "log")]

    def goes_on() -> bool:
        return any(task.alive for task in tasks_of(unsettled(folder)))

    return follow(files, goes_on, _ASK_EVERY_S[any(s.on_slurm for s in first)])
