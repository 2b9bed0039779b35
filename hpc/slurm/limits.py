"""Limits on the jobs of one user."""

import os
import pwd
import re
from dataclasses import dataclass

from hpc.slurm.client import SlurmUnavailable, run
from hpc.slurm.notation import seconds

_PAIR = re.compile(r"(\S+?)=(\S*)")
_SETTING = re.compile(r"(?m)^(\w+)\s+= (.*)$")

Row = dict[str, str]


@dataclass(frozen=True)
class Limits:
    """Limits on the user's jobs in one partition, account and QOS together."""

    max_array_size: int
    """The indices of an array must be below this."""
    max_submit_jobs: int | None
    """Jobs, or tasks of arrays, that may be queued; None without a limit."""
    max_time_s: float | None
    """How long a job may run (s); None without a limit."""
    queued: int
    """Jobs and tasks of arrays that the user has queued now."""


def limits(partition: str | None, account: str | None, qos: str | None) -> Limits:
    """Return the limits of a job with these settings; None stands for the user's defaults.

    Limits of accounts and QOS are kept by accounting: if it is off or down, they are left out.

    Raises
    ------
    SlurmUnavailable
        If the controller does not answer or has no such partition.
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    config = dict(_SETTING.findall(run("scontrol", "show", "config")))
    row = _partition(partition)
    try:
        rules = _rules(user, row, account, qos)
    except SlurmUnavailable:  # without accounting SLURM enforces no limits of accounts
        rules = []
    jobs = [int(number) for *numbers, _ in rules for number in numbers if number]
    times = [seconds(time) for time in (row["MaxTime"], *(time for *_, time in rules))]
    return Limits(
        max_array_size=int(config["MaxArraySize"]),
        max_submit_jobs=min(jobs, default=None),
        max_time_s=min((time for time in times if time is not None), default=None),
        queued=len(run("squeue", "-h", "-a", "-r", "-u", user, "-o", "%i").splitlines()),
    )


def _partition(name: str | None) -> Row:
    """Return the settings of a partition, by default of the cluster's default one."""
    shown = run("scontrol", "-o", "show", "partition", *([name] if name else []))
    rows = [dict(_PAIR.findall(line)) for line in shown.splitlines()]
    return next((row for row in rows if row["Default"] == "YES"), rows[0])


def _rules(user: str, partition: Row, account: str | None, qos: str | None) -> list[list[str]]:
    """Return rows of limits from association and QOS: numbers of jobs, then a time."""
    account = account or _sacctmgr("user", [f"name={user}"], ["DefaultAccount"])[0][0]
    association = [f"user={user}", f"account={account}"]
    columns = ["Partition", "DefaultQOS", "MaxSubmit", "GrpSubmit", "MaxWall"]
    mine = [
        row
        for row in _sacctmgr("assoc", association, columns)
        if row[0] in ("", partition["PartitionName"])
    ]
    qualities = {qos} if qos else {row[1] for row in mine}
    names = ",".join((qualities | {partition["QoS"]}) - {"", "N/A"})
    columns = ["MaxSubmitPU", "MaxSubmitPA", "GrpSubmit", "MaxWall"]
    return [row[2:] for row in mine] + (
        _sacctmgr("qos", [f"name={names}"], columns) if names else []
    )


def _sacctmgr(what: str, where: list[str], columns: list[str]) -> list[list[str]]:
    printed = run(
        "sacctmgr", "-n", "-P", "show", what, "where", *where, f"format={','.join(columns)}"
    )
    return [line.split("|") for line in printed.splitlines()]
