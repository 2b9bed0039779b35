"""Wording that refusals share: how a message names a key and shows a value."""

import json
from typing import Any

KeyPath = tuple[str | int, ...]
"""Where a value is: `("models", 0, "seed")` for `models[0].seed`."""


def render_path(path: KeyPath) -> str:
    """Return `models[0].seed` for `("models", 0, "seed")`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def given(value: Any) -> str:
    """Return a value as a user would write it, cut to one short piece of text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
