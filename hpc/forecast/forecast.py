"""Forecast of a study before it is submitted: its units, bytes, files, jobs and expected time.

Counts follow from the plan. Times are measured here (`hpc.forecast.timings`), taken from units that
were committed in the store root (`hpc.forecast.earlier_runs`), or assumed; every stage says which.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpc.config.profile import Profile, StageProfile, n_tasks
from hpc.forecast.memory import check_memory, room_note
from hpc.forecast.shapes import StudyShapes, shaped
from hpc.forecast.workload import NetworkPasses, StageWork, Tell, time_passes, workload
from hpc.plan.compare import order_note
from hpc.plan.stages import all_plans
from hpc.plan.store_plan import StorePlan
from hpc.study.recordings import recordings_note
from hpc.study.resolve import NetworkTurn, resolve
from hpc.study.resolved import Resolved
from hpc.study.study import Study
from hpc.study.unrecorded import unrecorded_note
from jobs.spec import STAGES


@dataclass(frozen=True)
class StageForecast:
    """What one stage would run."""

    stage: str
    stores: int
    units: int
    files: int
    n_bytes: int
    tasks: int
    """Processes started here, or tasks of array jobs."""
    array_jobs: int
    """0 where tasks are processes of this machine."""
    seconds: float
    """Wall time, without waits in a queue."""
    gpu_hours: float
    """GPU hours held."""
    longest_s: float
    """Time of a task that has the longest unit and no other (s)."""
    basis: str
    """Where `seconds`, and with it `gpu_hours`, comes from; all else is counted."""
    note: str = ""
    """What the user should know of the inputs of the stage."""


def forecast(study: Study, profile: Profile, tell: Tell = lambda _: None) -> list[StageForecast]:
    """Check the study as `submit` would, count what it would run, and predict how long it takes.

    `tell` is called with what is being timed.
    """
    turns = _Turns(profile, tell)
    resolved, subjects = resolve(study, turns)
    stages = turns.forecast(study, resolved)
    note = recordings_note(study, subjects)
    return [replace(s, note=note) if s.stage == "ingest" else s for s in stages]


def forecast_shapes(
    study: Study, profile: Profile, shapes: StudyShapes, tell: Tell = lambda _: None
) -> list[StageForecast]:
    """Forecast a study from the sizes of its stimuli and recordings alone."""
    turns = _Turns(profile, tell)
    with shaped(study, shapes, turns) as (untrained, resolved, _):
        return turns.forecast(untrained, resolved)


class _Turns:
    """Plans and times each network of a study while it is in memory."""

    def __init__(self, profile: Profile, tell: Tell) -> None:
        self._profile, self._tell = profile, tell
        self._plans: list[StorePlan] = []
        self._passes: dict[str, NetworkPasses] = {}

    def __call__(self, turn: NetworkTurn) -> None:
        plans = all_plans(turn.study, turn.resolved, turn.subjects)
        check_memory(turn.study, turn.resolved, plans, self._profile)
        name = turn.built.described.name
        self._tell(f"timing model {name}")
        first = not self._passes
        self._passes[name] = time_passes(turn, plans, self._profile.stage("extract"))
        # Recordings are ingested once, whatever the number of networks.
        self._plans += [plan for plan in plans if first or plan.stage != "ingest"]

    def forecast(self, study: Study, resolved: Resolved) -> list[StageForecast]:
        """Return the forecast of every stage, after the last network's turn."""
        plans, profile = self._plans, self._profile
        work = workload(study, resolved, plans, profile, self._passes, self._tell)
        notes = {
            "extract": unrecorded_note(resolved),
            "encode": room_note(study, resolved, plans),
            "compare": order_note(plans),
        }
        stages = (_stage(stage, plans, work[stage], profile) for stage in STAGES)
        return [replace(stage, note=notes.get(stage.stage, "")) for stage in stages]


def _stage(
    stage: str, plans: Sequence[StorePlan], work: StageWork, profile: Profile
) -> StageForecast:
    chosen = [p.layout for p in plans if p.stage == stage]
    how = profile.stage(stage)
    tasks = n_tasks(profile.scheduler, how, work.items)
    at_once = min(tasks, how.slots)
    processes = n_processes(stage, how)
    per_process = work.seconds / min(at_once * processes, max(work.items, 1))
    gpus = how.gpus_per_node * how.nodes
    return StageForecast(
        stage=stage,
        stores=len(chosen),
        units=sum(len(layout.units) for layout in chosen),
        files=sum(layout.n_files for layout in chosen),
        n_bytes=sum(layout.n_bytes for layout in chosen),
        tasks=tasks,
        array_jobs=int(profile.scheduler == "slurm"),
        seconds=-(-tasks // at_once) * work.start_s + per_process,
        gpu_hours=gpus * (tasks * work.start_s + at_once * per_process) / 3600,
        longest_s=work.start_s + work.longest_s,
        basis="; ".join(dict.fromkeys(work.basis)),
    )


def n_processes(stage: str, how: StageProfile) -> int:
    """Return how many processes of one task compute; two of Dask's ranks do not."""
    if stage != "encode":
        return how.ranks
    return how.dask_workers if how.ranks == 1 else how.ranks - 2
