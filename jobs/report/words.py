"""How the report writes names and numbers."""

import numpy as np

from storage_schemas.sources import UNIQUE, source_of

SIGNAL_TITLES = {
    "forward": "activations",
    "gradient": "gradient, {0}",
    "signal": "signal, {0}",
}


def signal_title(signal: str) -> str:
    """Return a signal's name for people."""
    kind, _, name = source_of(signal).partition(":")
    score = ": unique (U)" if signal.startswith(UNIQUE) else " (r)"
    return SIGNAL_TITLES[kind].format(name) + score


def judged_name(signal: str) -> str:
    """Return the name of what a verdict is about: an objective, or a signal of the lab's own."""
    kind, _, name = source_of(signal).partition(":")
    return f"{'signal' if kind == 'signal' else 'objective'} {name}"


def number(value: float, digits: int = 2) -> str:
    """Return a number for a table."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "undefined"


def p_value(p: float) -> str:
    """Return a p value for a table."""
    return "< 0.001" if p < 0.001 else number(p, digits=3)
