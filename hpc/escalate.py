"""What a stage's next submission asks for, given how the earlier ones of this round ended."""

from hpc.folder import RunFolder
from hpc.profile import StageProfile
from hpc.submissions import Submission, of_round
from hpc.triage import Decision, escalate
from storage_schemas.files import write_exclusive
from storage_schemas.identity import canonical_json


def escalated(run: RunFolder, stage: str, profile: StageProfile) -> StageProfile | None:
    """Return the stage's profile, raised by what its submissions met.

    None where the user must decide; the last submission's `decision.json` then says what.
    """
    earlier = of_round(run, stage)
    found = escalate(profile, [])
    if isinstance(found, Decision):
        decide(earlier[-1], found.sentence)
        return None
    return found


def decide(submission: Submission, sentence: str) -> None:
    """Record why nothing more is submitted before the user asks."""
    record = {"sentence": sentence}
    write_exclusive(submission.path / "decision.json", canonical_json(record))
