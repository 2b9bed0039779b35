"""Drive a run: advance it until it is complete or needs the user.

Nothing is printed. The caller may pass a callable that is given the progress; `hpc.cli.progress`
draws bars with one.
"""

from collections.abc import Callable, Mapping
from time import monotonic, sleep

from hpc.config.profile import Profile
from hpc.run.advance import advance
from hpc.run.cancel import end_tasks_here
from hpc.run.folder import RunFolder
from hpc.run.gate import ensure_gate
from hpc.run.notify import notify
from hpc.run.state import StageState, is_complete, is_stuck
from hpc.run.submissions import unsettled

POLL_S = {"local": 0.5, "slurm": 10.0}
"""How often the foreground advances the run: a cluster's controller serves others too."""
REST = 4
"""The foreground sleeps so many times the duration of a step: at 100,000 units one takes seconds.
The shorter of the last two steps counts: the longer may have planned and submitted a stage."""

Progress = Callable[[Mapping[str, StageState]], None]
"""Called after every step with the state of each stage, in the order of the stages."""


def step(run: RunFolder, profile: Profile) -> dict[str, StageState]:
    """Take the run one step further; any process may take the step, any number of times.

    Write the report of a run that is complete, and notify the user of news. On a cluster, leave a
    gate in the queue that takes the next step.
    """
    with run.lock():
        states = advance(run, profile)
        if profile.scheduler == "slurm":
            _keep_a_gate(run, profile, states)
    if is_complete(states):
        if not run.report.exists() and not run.drill.exists():
            from jobs.report.page import write_report

            write_report(run.path, run.report)
        notify(run, f"{run.path} is complete")
    elif is_stuck(run, states) and not run.cancelled:
        notify(run, f"{run.path} needs you: see `gradenc status {run.path}`")
    return states


def _keep_a_gate(run: RunFolder, profile: Profile, states: Mapping[str, StageState]) -> None:
    """Leave a job behind that takes the next step, as long as there is something to do."""
    if is_complete(states) or is_stuck(run, states) or run.cancelled:
        return
    jobs = [task.job_id for s in unsettled(run) if s.on_slurm for task in s.jobs or ()]
    ensure_gate(run, profile, jobs)


def drive(
    run: RunFolder, profile: Profile, progress: Progress | None = None
) -> dict[str, StageState]:
    """Advance the run until it is complete or waits for a decision of the user.

    Parameters
    ----------
    run : RunFolder
    profile : Profile
        How its stages are submitted.
    progress : callable, optional
        Called after every step with the state of each stage (name -> `StageState`).

    Returns
    -------
    dict
        Stage -> its state at the end; `hpc.run.state.is_complete` says whether all are sealed.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts it. Tasks on this machine are ended, jobs of a cluster go on.
    """
    try:
        return _until_it_rests(run, profile, progress)
    except KeyboardInterrupt:
        end_tasks_here(run)
        raise


def _until_it_rests(
    run: RunFolder, profile: Profile, progress: Progress | None
) -> dict[str, StageState]:
    took = 0.0
    while True:
        began, before = monotonic(), took
        states = step(run, profile)
        took = monotonic() - began
        if progress is not None:
            progress(states)
        if is_complete(states) or is_stuck(run, states):
            return states
        sleep(max(POLL_S[profile.scheduler], REST * min(took, before)))
