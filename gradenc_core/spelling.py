"""Suggestions for misspelt names, in one wording for every message."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return "; did you mean `x`?" for the closest known word, or nothing where none is close."""
    close = get_close_matches(value, list(known), n=1) if isinstance(value, str) else []
    return f"; did you mean `{close[0]}`?" if close else ""
