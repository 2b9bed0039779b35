"""stand-in until B's lands"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class FailureClass(StrEnum):
    NODE = "NODE"
    ERROR = "ERROR"
    LOST = "LOST"
    PREEMPTED = "PREEMPTED"


@dataclass
class Decision:
    sentence: str


def classify(attempt, job):
    if attempt and attempt["outcome"] == "failed":
        return FailureClass.ERROR
    return FailureClass.LOST


def fingerprint(t):
    return hashlib.sha256(t.encode()).hexdigest()[:12]


def escalate(profile, outcomes):
    return profile
