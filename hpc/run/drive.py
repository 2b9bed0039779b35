"""Drive a run: advance it until it is complete or needs the user.

Prints nothing. Whoever drives a run hears how far it is from a callable; `hpc.cli.progress` draws
bars with it.
"""

from collections.abc import Callable, Mapping
from time import monotonic, sleep

from hpc.config.profile import Profile
from hpc.run.advance import advance
from hpc.run.folder import RunFolder
from hpc.run.notify import notify
from hpc.run.state import StageState, is_complete, is_stuck

POLL_S = {"local": 0.5, "slurm": 10.0}
"""How often the foreground advances the run: a cluster's controller serves others too."""
REST = 4
"""The foreground sleeps so many times the duration of a step: at 100,000 units one takes seconds.
Of the last two steps the shorter counts: the longer may have planned and submitted a stage."""

Progress = Callable[[Mapping[str, StageState]], None]
"""Called after every step with the state of each stage, in the order of the stages."""


def step(run: RunFolder, profile: Profile) -> dict[str, StageState]:
    """Advance the run once; write its report and notify the user when it is complete."""
    states = advance(run, profile)
    if is_complete(states):
        if not run.report.exists() and not run.drill.exists():
            from jobs.report.page import write_report

            write_report(run.path, run.report)
        notify(run, f"{run.path} is complete")
    elif is_stuck(run, states) and not run.cancelled:
        notify(run, f"{run.path} needs you: see `gradenc status {run.path}`")
    return states


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
        If the user interrupts it. Tasks that were started go on.
    """
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
