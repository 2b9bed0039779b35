"""What a stage's next submission asks for, given how the earlier ones of this round ended."""

from typing import Any

from hpc.config.profile import Profile, StageProfile
from hpc.faults.triage import Ended, FailureClass, Outcome, escalate
from hpc.run.folder import RunFolder
from hpc.run.outcomes import FACTS
from hpc.run.submissions import Submission, decide, of_round
from hpc.slurm.jobs import Job, State


def escalated(run: RunFolder, stage: str, profile: Profile) -> StageProfile | None:
    """Return how a stage is asked for: as in the profile, raised by what its submissions met.

    None where the user must decide (see `submissions.decide`).
    """
    history = [_ended(submission) for submission in of_round(run, stage)]
    if not history:
        return profile.stage(stage)
    found = escalate(stage, history, _max_minutes(profile, history[-1].asked))
    if found.ask:
        decide(run, stage, "; ".join(found.ask.values()))
        return None
    return found.profile


def _ended(submission: Submission) -> Ended:
    tasks = (submission.outcome or {"tasks": []})["tasks"]
    outcomes = tuple(
        Outcome(FailureClass(task["failure"]), _job(submission, task), task["units_done"])
        for task in tasks
        if task["failure"]
    )
    return Ended(StageProfile.model_validate(submission.frozen["asked"]), outcomes)


def _job(submission: Submission, task: dict[str, Any]) -> Job | None:
    """Return the job of a task as it was recorded when it ended."""
    if task["state"] is None:
        return None
    facts = {name: task[name] for name in FACTS if name in task}
    return Job(task["job_id"], submission.name, State(task["state"]), **facts)


def _max_minutes(profile: Profile, asked: StageProfile) -> int | None:
    if profile.scheduler != "slurm":
        return None
    from hpc.slurm.limits import limits

    longest = limits(asked.partition, asked.account, asked.qos).max_time_s
    return None if longest is None else int(longest // 60)
