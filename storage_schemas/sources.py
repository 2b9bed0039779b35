"""Names of what scores and comparisons are about.

A source is `forward`, `gradient:<objective>` or a lab's own `signal:<name>`. What a learning signal
adds to all forward features is `unique:<objective>`, or `unique:signal:<name>`.
"""

UNIQUE = "unique:"
BEYOND = "baseline+"
"""Prefix of a source in the name of bands: the source beyond the complete forward baseline."""
CONTROLS = ("baseline", "forward")
"""Sources that must add nothing to the baseline: where they do, it is not complete."""

CONTROL_OBJECTIVES = ("random", "mismatched_")
"""How objectives begin whose gradients are no learning signal of a brain; others must exceed them.
"""


def is_control(signal: str) -> bool:
    """Whether a signal beyond the baseline is there to be exceeded by others."""
    source = source_of(signal)
    return source in CONTROLS or source.removeprefix("gradient:").startswith(CONTROL_OBJECTIVES)


def unique_of(source: str) -> str:
    """Name what a learning signal adds to all forward features."""
    return UNIQUE + source.removeprefix("gradient:")


def source_of(name: str) -> str:
    """Return the source of a comparison's signal, or of bands such as `baseline+<source>`."""
    bare = name.rpartition("+")[2].removeprefix(UNIQUE)
    if bare == name.rpartition("+")[2] or bare.startswith("signal:") or bare in CONTROLS:
        return bare
    return f"gradient:{bare}"
