"""The section `encoding` of a study: ridge regression, its resampling, windows of MEG."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from hpc.config.fields import Count, Positive, Real, Section, Text, Window, above, once


class Alphas(Section):
    """Grid of ridge penalties, spaced evenly in the logarithm."""

    low: Positive = 1.0
    """smallest penalty"""
    high: Positive = 1.0e8
    """largest penalty"""
    count: Annotated[Count, Field(ge=2)] = 25
    """number of penalties"""

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        return above(high, info, "low")


class Windows(Section):
    """Sliding windows of MEG whose mean is tested; s from stimulus onset."""

    start: Real = 0.0
    """start of the first window (s)"""
    stop: Real = 1.0
    """no window ends later than this (s)"""
    width: Positive = 0.05
    """width of a window (s)"""
    step: Positive = 0.025
    """from one window's start to the next one's (s)"""

    @field_validator("stop")
    @classmethod
    def _after_start(cls, stop: float, info: ValidationInfo) -> float:
        return above(stop, info, "start")

    @field_validator("width")
    @classmethod
    def _fits(cls, width: float, info: ValidationInfo) -> float:
        if {"start", "stop"} <= info.data.keys():
            room = info.data["stop"] - info.data["start"]
            if width > room * (1 + 1e-9):
                raise ValueError(f"at most stop - start ({room:g} s)")
        return width


NamedWindows = dict[Text, Window]


def _form_of_windows(value: Any) -> str:
    """Return whether windows are given by names or as a range."""
    named = isinstance(value, dict) and not value.keys() & Windows.model_fields.keys()
    return "named" if named and value else "sliding"  # without any key, the default range


class Encoding(Section):
    """Ridge regression from features to responses, and its resampling."""

    folds: Annotated[Count, Field(ge=3)] = 5
    """outer folds that score; the penalty is chosen in the others"""
    fold_rule: Literal["stimulus", "spread_categories", "keep_categories"] = "stimulus"
    """how stimuli are dealt to folds: stimulus (each by itself), or by the study's categories:
    spread_categories (evenly over each) or keep_categories (each in one fold, so that scores say
    how a model generalises to new categories)"""
    alphas: Alphas = Alphas()
    """grid of penalties"""
    alpha_choice: Literal["kfold", "gcv", "loo"] = "kfold"
    """how a target's penalty is chosen in the training set: kfold (the other folds), gcv or loo"""
    baseline_width: Count = 2048
    """features of each layer in the baseline; wider ones are projected to as many"""
    band_ratios: Annotated[tuple[Annotated[Real, Field(ge=0)], ...], Field(min_length=2)] = (
        0.0,
        0.01,
        0.1,
        1.0,
        10.0,
        100.0,
    )
    """scales of the gradient band beside the forward band; 0 switches it off and is required"""
    blocks: Annotated[Count, Field(ge=2)] = 20
    """blocks of stimuli per fold, which the bootstrap resamples"""
    bootstrap: Count = 200
    """bootstrap replicates over blocks of stimuli, of MEG alone: latencies need them"""
    permutations: Count = 1000
    """permutations of stimuli before fitting"""
    permute_within: Literal["session", "all"] = "session"
    """which stimuli change places: session (those shown in the same session alone; stimuli shown in
    several sessions with each other) or all"""
    windows: Annotated[
        Annotated[Windows, Tag("sliding")] | Annotated[NamedWindows, Tag("named")],
        Discriminator(_form_of_windows),
    ] = Windows()
    """MEG windows: a range (start, stop, width, step), or names with [start, stop], in s"""
    meg_targets: Literal["samples", "windows"] = "samples"
    """what is predicted of each MEG sensor: its samples, or its means in the windows"""

    @field_validator("windows")
    @classmethod
    def _apart(cls, windows: Windows | NamedWindows) -> Windows | NamedWindows:
        """Refuse named windows that share time: their order would have no meaning."""
        if isinstance(windows, Windows):
            return windows
        for one, other in pairwise(sorted(windows, key=windows.__getitem__)):
            if windows[other][0] < windows[one][1]:
                raise ValueError(f"windows that do not overlap ({one} and {other} do)")
        return windows

    @field_validator("band_ratios")
    @classmethod
    def _can_be_off(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if 0 not in ratios:
            raise ValueError("a list with 0, so that the gradient band can be switched off")
        return once(ratios)
