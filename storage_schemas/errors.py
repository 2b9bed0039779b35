"""Errors of stores and runs; `LostLease` and `Unsealable` stand with their protocol."""

from gradenc_errors import GradencError, Remedy


class DamagedStore(GradencError, ValueError):
    """The plan, metadata or coordinates of a store are lost or were changed."""

    remedy = Remedy.RESUME


class NoStore(GradencError, FileNotFoundError):
    """There is no store where one should be."""

    remedy = Remedy.RESUME


class UnfinishedRun(GradencError, ValueError):
    """A run has no results yet where they are asked for."""

    remedy = Remedy.RESUME_OR_PARTIAL


class UnreadableRun(GradencError, ValueError):
    """A run that is listed as a user of a store root cannot be read there."""

    remedy = Remedy.FORGET
