"""What a study file says of recordings: a section for each reader."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from hpc.config.fields import Real, Section, Text, once


class Ceiling(Section):
    """How the owners of a data set compute its noise ceiling (docs/methods.md)."""

    images: Annotated[int, Field(ge=2)]
    """trials of the images that it is computed from, such as 3: those with exactly so many"""
    pool: Literal["session", "repetition"]
    """session: a trial's variance is that of all trials; repetition: these images are z-scored
    within each repetition"""


class _Responses(Section):
    path: Text
    """folder of the recordings, relative to the study file"""
    subjects: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """subjects to read; null: all that the folder has"""
    normalise: Literal["session", "none"] = "session"
    """session: z-score every target within each session; none: as recorded"""
    ceiling: Ceiling | None = None
    """recipe of the data's owners for a noise ceiling beside our own; null: only our own"""

    @field_validator("subjects")
    @classmethod
    def _subjects_once(cls, subjects: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if subjects is None else once(subjects)


class BidsResponses(_Responses):
    """fMRI: single-trial betas in a BIDS-like folder."""

    reader: Literal["bids"]
    """bids"""
    sessions: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """sessions to read, such as [ses-01]; null: all"""
    rois: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """regions to read; null: all that the label volume names"""


class EpochsResponses(_Responses):
    """MEG: files of epochs, of a subject, its sessions or its runs."""

    reader: Literal["epochs"]
    """epochs"""
    picks: Literal["meg", "mag", "grad"] = "meg"
    """which sensors are targets: all of meg, or its mag or grad alone"""
    tmin: Real | None = None
    """first time to read (s from stimulus onset); null: the file's"""
    tmax: Real | None = None
    """last time to read (s from stimulus onset); null: the file's"""

    @field_validator("tmax")
    @classmethod
    def _after_tmin(cls, tmax: float | None, info: ValidationInfo) -> float | None:
        tmin = info.data.get("tmin")
        if tmax is not None and tmin is not None and tmax <= tmin:
            raise ValueError(f"more than tmin ({tmin} s)")
        return tmax


Responses = Annotated[BidsResponses | EpochsResponses, Field(discriminator="reader")]
