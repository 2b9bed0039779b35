"""Probes, from the login node: submit, answer and read them, and cancel them whatever happens."""

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

from hpc.config.profile import SECTIONS, Profile, StageProfile
from hpc.doctor.findings import Finding, failure, ok, warning
from hpc.doctor.folder_checks import hold
from hpc.doctor.probe import POLL_S, Greeting, Report, Request, run_probe
from hpc.node.environment import code_version
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.jobs import Job, State
from hpc.slurm.queue import cancel, queue
from hpc.slurm.sbatch import SETUP_FAILED, sbatch_options
from hpc.slurm.submit import start_job
from storage_schemas.files import read_json, write_exclusive
from storage_schemas.records import parse

_MEMORY_GB = 4.0
"""Memory of a probe at most: Python with torch, and a context on a GPU."""
_MINUTES = 10
_ASK_S = 3.0
"""Pause between two questions to SLURM (s)."""
_END_S = 60.0
"""How long cancelled probes may take to end (s)."""
_GRACE_S = 15.0
"""How long the report of an ended job may take to appear on the login node (s)."""
_SKEW_S = 30.0
"""Difference of clocks that is reported (s); a lease without heartbeat ends after 120 s."""


@dataclass
class _Probe:
    """One job, for all stages with the same partition, account, set-up and so on."""

    stages: tuple[str, ...]
    how: StageProfile
    folder: Path
    job_id: str
    ended: float | None = None
    """when SLURM first reported no process of it (monotonic, s)"""
    state: Job | None = None
    found: list[Finding] = field(default_factory=list)
    lost: bool = False
    """whether it ended without a report; its log is kept then"""

    @property
    def reports(self) -> list[Path]:
        """Files into which its ranks write their findings."""
        return [self.folder / f"report-{rank}.json" for rank in range(self.how.nodes)]

    @property
    def log(self) -> Path:
        """Output of the set-up and of the first rank."""
        return self.folder / "log" / f"{self.job_id}_0_log.out"


def check_nodes(
    profile: Profile, folder: Path, limit_s: float, progress: Callable[[str], None]
) -> list[Finding]:
    """Run a probe for each distinct environment of the profile, for at most `limit_s` seconds.

    Raises
    ------
    SlurmUnavailable
        If the queue cannot be asked.
    """
    home = folder / f".gradenc-doctor-{uuid4().hex[:8]}"
    home.mkdir()
    name = home.name.removeprefix(".")
    probes: list[_Probe] = []
    found: list[Finding] = []
    with hold(home / "held"), _ended_in_order():
        try:
            for number, (how, stages) in enumerate(_surroundings(profile).items()):
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
    """Let a closed terminal or a kill end the probes in order, as ctrl-C does."""
    before = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _surroundings(profile: Profile) -> dict[StageProfile, tuple[str, ...]]:
    """Return the distinct environments of the stages, each with its stages."""
    found: dict[StageProfile, tuple[str, ...]] = {}
    for stage in SECTIONS:
        how = _small(profile.stage(stage))
        found[how] = (*found.get(how, ()), stage)
    return found


def _small(how: StageProfile) -> StageProfile:
    """Return a stage's environment with no more time, nodes and memory than a probe needs."""
    return StageProfile(
        timeout_minutes=min(_MINUTES, how.timeout_minutes),
        nodes=min(2, how.nodes),
        gpus_per_node=min(1, how.gpus_per_node),
        memory_gb=None if how.memory_gb is None else min(_MEMORY_GB, how.memory_gb),
        partition=how.partition,
        account=how.account,
        qos=how.qos,
        constraint=how.constraint,
        exclude=how.exclude,
        setup=how.setup,
        scratch=how.scratch,
        dask_interface=how.dask_interface,
    )


def _submit(
    stages: tuple[str, ...], how: StageProfile, folder: Path, name: str
) -> _Probe | Finding:
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
        return failure("probe", str(error), "see the findings about these stages above")
    return _Probe(stages, how, folder, job_id)


def _attend(
    probes: Sequence[_Probe], name: str, limit_s: float, progress: Callable[[str], None]
) -> Iterator[Finding]:
    """Answer the probes and yield their findings, until all have ended or time is over."""
    end, asked = time.monotonic() + limit_s, float("-inf")
    waiting = list(probes)
    while waiting:
        if time.monotonic() - asked > _ASK_S:
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


def _look(probes: Sequence[_Probe], name: str) -> None:
    states = {job.job_id: job for job in queue([name])}
    for probe in probes:
        probe.state = states.get(probe.job_id)
        if (probe.state is None or not probe.state.alive) and probe.ended is None:
            probe.ended = time.monotonic()


def _word(probe: _Probe) -> str:
    if probe.state is None:
        return "gone"
    reason = f" ({probe.state.reason})" if probe.state.reason else ""
    return f"{probe.state.state.lower()}{reason}"


def _answer(probe: _Probe) -> Iterator[Finding]:
    """Answer each rank's first file, once, and compare the clocks."""
    for rank in range(probe.how.nodes):
        hello = read_json(probe.folder / f"hello-{rank}.json")
        if hello is None or not write_exclusive(probe.folder / f"echo-{rank}.json", b"{}"):
            continue
        greeting = parse(Greeting, hello)
        skew = abs(time.time() - greeting.time)
        if skew > _SKEW_S:
            sentence = f"the clocks of {greeting.node} and the login node differ by {skew:.0f} s"
            remedy = "ask the administrators to synchronise the clocks (NTP): leases rely on them"
            yield warning("clock", sentence, remedy).at(", ".join(probe.stages))


def _read(probe: _Probe) -> bool:
    """Read the findings once all ranks have written them; return whether they have."""
    found = [value for path in probe.reports if (value := read_json(path)) is not None]
    if len(found) < len(probe.reports):
        return False
    reports = [parse(Report, value) for value in found]
    nodes = ", ".join(sorted({report.node for report in reports}))
    probe.found = [ok("probe", f"job {probe.job_id} ran on {nodes}")]
    for report in reports:
        probe.found += [finding for finding in report.findings if finding not in probe.found]
    return True


def _is_lost(probe: _Probe, over: bool) -> bool:
    """Return whether the probe has ended and no report will come."""
    if probe.ended is None:
        return False
    failed = probe.state is not None and probe.state.state is not State.COMPLETED
    waited = time.monotonic() - probe.ended > _GRACE_S
    return over or waited or (failed and probe.log.exists())


def _explain(probe: _Probe, limit_s: float) -> Finding:
    """Return a finding that explains why a probe wrote no report."""
    if probe.state is not None and probe.state.alive:
        return _explain_waiting(probe.job_id, probe.state, limit_s)
    lines = probe.log.read_text(errors="replace").splitlines() if probe.log.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    # The last line is srun's, which does not know why the task ended.
    lines = [line for line in lines if not line.startswith("srun: ")] or lines
    failed = next((i for i, line in enumerate(lines) if line.startswith(SETUP_FAILED)), None)
    if failed is not None:
        line = lines[failed].removeprefix(SETUP_FAILED)
        reason = f" ({lines[failed - 1]})" if failed else ""
        sentence = f"this set-up line failed on the node: {line}{reason}"
        return failure(
            "setup",
            sentence,
            "correct it in the profile; `srun --pty bash` opens a shell on a node to try it",
        )
    ended = f"its probe, job {probe.job_id}, ended without a report"
    if lines:
        return failure("probe", f"{ended}: {lines[-1]}", f"the whole output: {probe.log}")
    remedy = (
        "give --folder a folder that the nodes see and may write to: not /tmp, not a local disk"
    )
    return failure(
        "run folder",
        f"{ended} or output; the node may not see {probe.folder.parent.parent}",
        remedy,
    )


def _explain_waiting(job_id: str, job: Job, limit_s: float) -> Finding:
    minutes = f"{limit_s / 60:.3g} min"
    if job.state is State.PENDING:
        sentence = (
            f"its probe, job {job_id}, did not start in {minutes}: {job.reason or 'no reason'}"
        )
        remedy = "wait longer (--wait MINUTES); `man squeue`, JOB REASON CODES, explains the reason"
    else:
        sentence = (
            f"its probe, job {job_id}, was {job.state} for longer than {minutes} on {job.node}"
        )
        remedy = "wait longer (--wait MINUTES), or exclude the node"
    return failure("queue", sentence, remedy)


def _end(name: str) -> None:
    """Cancel all probes and wait until none of them writes to its folder any more.

    By name: a job may have been started whose id never arrived here.
    """
    end = time.monotonic() + _END_S
    while time.monotonic() < end:
        left = [job.job_id for job in queue([name]) if job.alive]
        if not left:
            return
        cancel(left)
        time.sleep(1)
