"""Jobs as the accounting database (sacct) records them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from hpc.slurm.client import run
from hpc.slurm.jobs import Job, State
from hpc.slurm.notation import (
    ending,
    gpus,
    job_ids,
    memory_per_node,
    resources,
    row,
    seconds,
    size,
    state,
)

# The name comes last because only it may contain the separator.
FIELDS = (
    "JobID",
    "State",
    "Reason",
    "User",
    "NodeList",
    "ExitCode",
    "Submit",
    "End",
    "ElapsedRaw",
    "Timelimit",
    "TotalCPU",
    "MaxRSS",
    "TRESUsageInTot",
    "ReqTRES",
    "AllocTRES",
    "JobName",
)

Row = dict[str, str]


def accounting(ids: Sequence[str], since: datetime) -> list[Job]:
    """Return the accounting records of jobs, by one call of sacct.

    Parameters
    ----------
    ids : sequence of str
        Job ids; the id of an array stands for all its tasks.
    since : datetime
        Jobs that ended earlier are left out (SLURM reuses job numbers).

    Returns
    -------
    list of Job
        The newest record of each job; the number of older ones is its number of requeues.

    Raises
    ------
    SlurmUnavailable
        If accounting is off or does not answer.
    """
    if not ids:
        return []
    start = since.astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    options = ("-a", "-D", "-n", "-P", "-S", start, "-j", ",".join(ids), "-o", ",".join(FIELDS))
    return parse(run("sacct", *options))


def parse(printed: str) -> list[Job]:
    """Parse the output of sacct: one line for each job, requeued run and step."""
    runs: dict[str, list[list[Row]]] = {}
    for rows in _runs(row(line, FIELDS) for line in printed.splitlines()):
        for job_id in job_ids(rows[0]["JobID"]):
            runs.setdefault(job_id, []).append(rows)
    return [_newest(job_id, tries) for job_id, tries in runs.items()]


def _runs(rows: Iterator[Row]) -> list[list[Row]]:
    """Group each job's line with the lines of its steps, which follow it."""
    runs: list[list[Row]] = []
    for line in rows:
        if "." not in line["JobID"]:
            runs.append([line])
        else:
            runs[-1].append(line)
    return runs


def _newest(job_id: str, runs: list[list[Row]]) -> Job:
    *requeued, newest = sorted(runs, key=lambda rows: rows[0]["Submit"])
    own, *steps = newest
    amounts = resources(own["AllocTRES"] or own["ReqTRES"])
    exit_code, signal = _exit(own["ExitCode"])
    job = Job(
        job_id=job_id,
        name=own["JobName"],
        state=_state(own, steps),
        reason="" if own["Reason"] == "None" else own["Reason"],
        user=own["User"],
        node="" if own["NodeList"] == "None assigned" else own["NodeList"],
        exit_code=exit_code,
        signal=signal or max((_exit(step["ExitCode"])[1] for step in steps), default=0),
        restarts=len(requeued),
        elapsed_s=float(own["ElapsedRaw"] or 0),
        earlier_s=sum(float(rows[0]["ElapsedRaw"] or 0) for rows in requeued),
        limit_s=seconds(own["Timelimit"]),
        cpus=int(amounts.get("cpu", 0)),
        gpus=gpus(amounts),
        max_rss=max(filter(None, map(_memory_used, steps)), default=None),
        requested_memory=memory_per_node(amounts),
        cancelled_by=own["State"].partition(" by ")[2],
    )
    # A state without an end time is half a record: slurmdbd was away and completes it later.
    if job.alive or own["End"] == "Unknown":
        return job
    # The reason in the record is why the job once waited.
    return replace(job, reason="", cpu_s=seconds(own["TotalCPU"]))


def _state(job: Row, steps: list[Row]) -> State:
    """Return the job's state, OUT_OF_MEMORY also if only a step of it ran out of memory."""
    own = state(job["State"])
    memory = any(state(step["State"]) == State.OUT_OF_MEMORY for step in steps)
    return State.OUT_OF_MEMORY if memory and own in (State.COMPLETED, State.FAILED) else own


def _exit(text: str) -> tuple[int, int]:
    """Return exit code and signal; both are missing for a step whose node was lost."""
    code, _, signal = text.partition(":")
    return ending(int(code or 0), int(signal or 0))


def _memory_used(step: Row) -> int | None:
    """Return the larger of the largest process tree's memory and the mean of the nodes."""
    nodes = max(1, int(resources(step["AllocTRES"]).get("node", "1")))
    total = size(resources(step["TRESUsageInTot"]).get("mem", ""))
    largest = size(step["MaxRSS"])
    return max(filter(None, (largest, total and total // nodes)), default=None)
