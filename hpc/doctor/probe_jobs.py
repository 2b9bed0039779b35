"""Probes seen from the login node: submitted, answered, read, and ended whatever happens."""

import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from uuid import uuid4

from hpc.config.profile import STAGES, Profile, StageProfile
from hpc.doctor.findings import Finding, failure, ok, warning
from hpc.doctor.folder_checks import hold
from hpc.doctor.probe import POLL_S, Request, run_probe
from hpc.node.environment import code_version
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job, State
from hpc.slurm.options import SETUP_FAILED, sbatch_options
from hpc.slurm.queue import cancel, queue
from hpc.slurm.submit import start_job
from storage_schemas.files import read_json, write_exclusive

MEMORY_GB = 4.0
"""What a probe needs at most: Python with torch, and a context on a GPU."""
MINUTES = 10
ASK_S = 3.0
"""How often SLURM is asked for the probes' states."""
END_S = 60.0
"""How long cancelled probes may take to end."""
GRACE_S = 15.0
"""How long the report of a job that has ended may take to appear here."""
SKEW_S = 30.0
"""Clocks that differ by more come near the 120 s after which a lease without heartbeat is taken."""


@dataclass
class Probe:
    """One job, for the stages that run in the same surroundings."""

    stages: tuple[str, ...]
    how: StageProfile
    folder: Path
    job_id: str
    ended: float | None = None
    """when SLURM was first seen to have no process of it"""
    state: Job | None = None
    found: list[Finding] = field(default_factory=list)
    lost: bool = False
    """whether it ended without a report; its output is kept"""

    @property
    def reports(self) -> list[Path]:
        """Files in which its ranks leave what they found."""
        return [self.folder / f"report-{rank}.json" for rank in range(self.how.nodes)]

    @property
    def log(self) -> Path:
        """Output of its set-up and of its first rank."""
        return self.folder / "log" / f"{self.job_id}_0_log.out"


def check_nodes(
    profile: Profile, folder: Path, limit_s: float, progress: Callable[[str], None]
) -> list[Finding]:
    """Run a probe in each of the profile's surroundings, at most `limit_s` seconds.

    Raises
    ------
    SlurmUnavailable
        If the queue cannot be asked.
    """
    home = folder / f".gradenc-doctor-{uuid4().hex[:8]}"
    home.mkdir()
    name = home.name.removeprefix(".")
    probes: list[Probe] = []
    found: list[Finding] = []
    with hold(home / "held"), _ended_in_order():
        try:
            for number, (how, stages) in enumerate(surroundings(profile).items()):
                probe = _submit(stages, how, home / str(number), name)
                if isinstance(probe, Finding):
                    found.append(probe.at(", ".join(stages)))
                else:
                    probes.append(probe)
            found += _attend(probes, name, limit_s, progress)
        finally:
            _end(name)
            if not any(probe.lost for probe in probes):
                shutil.rmtree(home)
    return found


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let the signals that end a session (a closed terminal) end it as ctrl-C does."""
    before = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def surroundings(profile: Profile) -> dict[StageProfile, tuple[str, ...]]:
    """Return small forms of the stages, each with the stages that it stands for."""
    found: dict[StageProfile, tuple[str, ...]] = {}
    for stage in STAGES:
        how = _small(profile.stage(stage))
        found[how] = (*found.get(how, ()), stage)
    return found


def _small(how: StageProfile) -> StageProfile:
    """Keep where and as whom a stage runs; ask for no more than a probe needs."""
    return StageProfile(
        timeout_minutes=min(MINUTES, how.timeout_minutes),
        nodes=min(2, how.nodes),
        gpus_per_node=min(1, how.gpus_per_node),
        memory_gb=None if how.memory_gb is None else min(MEMORY_GB, how.memory_gb),
        partition=how.partition,
        account=how.account,
        qos=how.qos,
        constraint=how.constraint,
        exclude=how.exclude,
        setup=how.setup,
        scratch=how.scratch,
        dask_interface=how.dask_interface,
    )


def _submit(stages: tuple[str, ...], how: StageProfile, folder: Path, name: str) -> Probe | Finding:
    folder.mkdir()
    request = Request(
        version=code_version(),
        python=platform.python_version(),
        gpus=how.gpus_per_node,
        scratch=how.scratch is not None,
        dask="encode" in stages,
        interface=how.dask_interface,
        submits=sbatch_options(how) if "gate" in stages else None,
    )
    try:
        arguments = (str(folder.resolve()), request)
        job_id = start_job(name, folder / "log", run_probe, arguments, how)
    except SlurmUnavailable as error:
        return failure("probe", str(error), "see what was found of these stages above")
    return Probe(stages, how, folder, job_id)


def _attend(
    probes: Sequence[Probe], name: str, limit_s: float, progress: Callable[[str], None]
) -> Iterator[Finding]:
    """Answer greetings and yield what probes found, until all have ended or the time is over."""
    end, asked = time.monotonic() + limit_s, float("-inf")
    waiting = list(probes)
    while waiting:
        if time.monotonic() - asked > ASK_S:
            _look(waiting, name)
            asked = time.monotonic()
            progress(", ".join(f"{'/'.join(p.stages)}: {_word(p)}" for p in waiting))
        for probe in list(waiting):
            yield from _answer(probe)
            over = time.monotonic() > end
            probe.lost = not _read(probe) and _is_lost(probe, over)
            if probe.found or probe.lost or over:
                waiting.remove(probe)
                where = ", ".join(probe.stages)
                yield from (
                    finding.at(where) for finding in probe.found or [_explain(probe, limit_s)]
                )
        time.sleep(POLL_S)


def _look(probes: Sequence[Probe], name: str) -> None:
    states = {job.job_id: job for job in queue([name])}
    for probe in probes:
        probe.state = states.get(probe.job_id)
        if (probe.state is None or not probe.state.alive) and probe.ended is None:
            probe.ended = time.monotonic()


def _word(probe: Probe) -> str:
    if probe.state is None:
        return "gone"
    reason = f" ({probe.state.reason})" if probe.state.reason else ""
    return f"{probe.state.state.lower()}{reason}"


def _answer(probe: Probe) -> Iterator[Finding]:
    """Answer each rank's greeting, once."""
    for rank in range(probe.how.nodes):
        greeting = read_json(probe.folder / f"hello-{rank}.json")
        if greeting is None or not write_exclusive(probe.folder / f"echo-{rank}.json", b"{}"):
            continue
        skew = abs(time.time() - greeting["time"])
        if skew > SKEW_S:
            sentence = f"the clocks of {greeting['node']} and the login node differ by {skew:.0f} s"
            remedy = "let the administrators set the clocks (NTP): leases go by them"
            yield warning("clock", sentence, remedy).at(", ".join(probe.stages))


def _read(probe: Probe) -> bool:
    """Take over what the ranks found, once all have left it."""
    reports = [report for path in probe.reports if (report := read_json(path)) is not None]
    if len(reports) < len(probe.reports):
        return False
    nodes = ", ".join(sorted({report["node"] for report in reports}))
    probe.found = [ok("probe", f"job {probe.job_id} ran on {nodes}")]
    for report in reports:
        findings = (Finding.from_json(value) for value in report["findings"])
        probe.found += [finding for finding in findings if finding not in probe.found]
    return True


def _is_lost(probe: Probe, over: bool) -> bool:
    """Return whether it has ended and no report is to be waited for."""
    if probe.ended is None:
        return False
    failed = probe.state is not None and probe.state.state is not State.COMPLETED
    waited = time.monotonic() - probe.ended > GRACE_S
    return over or waited or (failed and probe.log.exists())


def _explain(probe: Probe, limit_s: float) -> Finding:
    """Say why a probe left no report."""
    if probe.state is not None and probe.state.alive:
        return _explain_waiting(probe.job_id, probe.state, limit_s)
    lines = probe.log.read_text(errors="replace").splitlines() if probe.log.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    # srun has the last word on whatever ended its task, but does not know why.
    lines = [line for line in lines if not line.startswith("srun: ")] or lines
    failed = next((i for i, line in enumerate(lines) if line.startswith(SETUP_FAILED)), None)
    if failed is not None:
        line = lines[failed].removeprefix(SETUP_FAILED)
        reason = f" ({lines[failed - 1]})" if failed else ""
        sentence = f"this set-up line failed on the node: {line}{reason}"
        return failure("setup", sentence, "correct it in the profile; try it by `srun --pty bash`")
    ended = f"its probe, job {probe.job_id}, ended without a report"
    if lines:
        return failure("probe", f"{ended}: {lines[-1]}", f"the whole output: {probe.log}")
    remedy = (
        "keep runs (--folder) where the nodes see and may write it: not in /tmp, nor a local disk"
    )
    return failure(
        "run folder", f"{ended} or output; is {probe.folder.parent.parent} there?", remedy
    )


def _explain_waiting(job_id: str, job: Job, limit_s: float) -> Finding:
    minutes = f"{limit_s / 60:.3g} min"
    if job.state is State.PENDING:
        sentence = (
            f"its probe, job {job_id}, did not start in {minutes}: {job.reason or 'no reason'}"
        )
        remedy = "wait longer (--wait MINUTES); `man squeue`, JOB REASON CODES, has the words"
    else:
        sentence = (
            f"its probe, job {job_id}, was {job.state} for longer than {minutes} on {job.node}"
        )
        remedy = "wait longer (--wait MINUTES), or exclude the node"
    return failure("queue", sentence, remedy)


def _end(name: str) -> None:
    """Cancel whatever is left, and wait until nothing writes to the probes' folders any more.

    By name, since a job may have been started whose id did not arrive here.
    """
    end = time.monotonic() + END_S
    while time.monotonic() < end:
        left = [job.job_id for job in queue([name]) if job.alive]
        if not left:
            return
        cancel(left)
        time.sleep(1)
