"""How the report writes names and numbers."""

import numpy as np

from storage_schemas.sources import UNIQUE, is_control, source_of

SIGNAL_TITLES = {
    "forward": "activations",
    "gradient": "gradient, {0}",
    "signal": "signal, {0}",
}


FOLD_RULES = {
    "stimulus": "Every stimulus was dealt to a fold by itself",
    "spread_categories": "The stimuli of every category were spread evenly over the folds",
    "keep_categories": "Every category was kept in one fold, so that scores say how a model "
    "generalises to new categories",
}
EXCHANGED = {
    "stimulus": "stimuli",
    "spread_categories": "stimuli",
    "keep_categories": "whole categories",
}
WITHIN = {"session": "of the same session", "all": "of all sessions"}


def rules_of_scores(fold_rule: str, permute_within: str) -> str:
    """Return how scores were cross-validated and tested, with the study's keys."""
    return (
        f"{FOLD_RULES[fold_rule]} (encoding.fold_rule: {fold_rule}). Permutations exchanged "
        f"{EXCHANGED[fold_rule]} {WITHIN[permute_within]} (encoding.permute_within: "
        f"{permute_within}). Beyond a baseline that leaves room among the stimuli themselves they "
        "exchanged residual coordinates, which belong to no session."
    )


def signal_title(signal: str) -> str:
    """Return a signal's name for people."""
    kind, _, name = source_of(signal).partition(":")
    beyond = " beyond the baseline" if signal.startswith(UNIQUE) else ""
    return f"{SIGNAL_TITLES[kind].format(name)}{beyond} (r)"


def judged_name(signal: str) -> str:
    """Name what a verdict is about: an objective, a control, or a signal of the lab's own."""
    kind, _, name = source_of(signal).partition(":")
    if is_control(signal):
        return f"control {name}"
    return f"{'signal' if kind == 'signal' else 'objective'} {name}"


def number(value: float, digits: int = 2) -> str:
    """Return a number for a table."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "undefined"


def p_value(p: float) -> str:
    """Return a p value for a table."""
    return "< 0.001" if p < 0.001 else number(p, digits=3)
