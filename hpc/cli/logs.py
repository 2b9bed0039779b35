"""`gradenc logs`: what happened to units, and what their tasks print."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hpc.cli.arguments import RunPath
from hpc.run.folder import RunFolder
from jobs.spec import STAGES

if TYPE_CHECKING:
    from hpc.inspect.status import FailureGroup

ASK_EVERY_S = {False: 1.0, True: 15.0}
"""How often `-f` asks whether tasks are alive: on a cluster (True) its controller is asked."""


def logs(
    run: RunPath,
    unit: Annotated[
        str | None,
        typer.Argument(help="A unit id, as status prints it; default: one of each failure."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Print what the tasks at work print, until they end."),
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="What the run's last gate printed, on a cluster.")
    ] = False,
) -> None:
    """Show the attempts at a unit with their errors, tracebacks and log files.

    Without a unit: of everything that failed alike one unit, and the end of the log of every stage
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
    """Print one unit of every group that failed alike, then the stages that were stopped."""
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
    """Print the end of a log of every stage that was given up: tasks may die before any unit."""
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


def _print_attempt(folder: RunFolder, attempt: dict[str, Any], console: Console) -> None:
    from hpc.inspect.logs import logs_of_job
    from hpc.run.outcomes import job_of
    from storage_schemas.protocol.attempts import is_alive

    alive = ", at work" if is_alive(attempt) else ""
    console.print(
        f"{attempt['unit']}: attempt {attempt['n']} by {attempt['job']} on {attempt['host']} from "
        f"{attempt['started']}: {attempt['outcome']}{alive}"
    )
    if attempt["traceback"] or attempt["error"]:
        console.print(attempt["traceback"] or attempt["error"])
    for path in logs_of_job(folder, job_of(attempt)):
        console.print(f"    log: {path}")


def _print_gate(folder: RunFolder, console: Console) -> None:
    from hpc.inspect.logs import logs_in

    found = logs_in(folder.path / "gates")
    if not found:
        console.print("the run has had no gate: those are jobs of runs on a cluster")
        return
    console.print(f"log: {found[-1]}")
    console.print(found[-1].read_text(errors="replace"))


def _attempts(folder: RunFolder, unit_id: str) -> list[dict[str, Any]]:
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
    """Follow the job of the unit's newest attempt while it is at work on the unit."""
    from hpc.inspect.logs import follow, logs_of_job
    from hpc.run.outcomes import job_of
    from storage_schemas.protocol.attempts import is_alive

    def files() -> list[Path]:
        return [p for a in _attempts(folder, unit_id)[-1:] for p in logs_of_job(folder, job_of(a))]

    def goes_on() -> bool:
        return any(is_alive(attempt) for attempt in _attempts(folder, unit_id)[-1:])

    return follow(files, goes_on, ASK_EVERY_S[False])


def _lines_of_tasks(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    """Follow all tasks that are at work, or will be, in the submissions that have not ended."""
    from hpc.inspect.logs import follow, logs_in
    from hpc.run.submissions import submissions, unsettled
    from hpc.run.tasks import tasks_of

    first = unsettled(folder)[:1]

    def files() -> list[Path]:
        # Not the unsettled ones: what a task printed last is read after somebody settled it.
        later = (s for s in submissions(folder) if first and s.path >= first[0].path)
        return [path for submission in later for path in logs_in(submission.path / "log")]

    def goes_on() -> bool:
        return any(task.alive for task in tasks_of(unsettled(folder)))

    return follow(files, goes_on, ASK_EVERY_S[any(s.on_slurm for s in first)])
