"""What a stage's next submission asks for, given how the earlier ones of this round ended."""

from hpc.folder import RunFolder
from hpc.profile import StageProfile
from hpc.submissions import decide, of_round
from hpc.triage import Decision, escalate


def escalated(run: RunFolder, stage: str, profile: StageProfile) -> StageProfile | None:
    """Return the stage's profile, raised by what its submissions met.

    None where the user must decide (see `submissions.decide`).
    """
    earlier = of_round(run, stage)
    found = escalate(profile, [])
    if isinstance(found, Decision):
        decide(run, stage, found.sentence)
        return None
    return found
