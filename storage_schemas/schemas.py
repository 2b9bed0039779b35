"""Versions of what is on disk; they enter every identity, so a change never reuses old bytes."""

SCHEMA_VERSION = 1
"""Layout of the store folder, its records and its arrays."""

ALGORITHM_VERSION = {
    "prepared": 1,
    "classes": 1,
    "responses": 1,
    "features": 1,
    "collinearity": 1,
    "scores": 1,
    "comparisons": 1,
}
"""Kind of store -> version of the computation that fills it; raise it when its bytes change."""

SIGNAL_CLASSES = ("ok", "zero", "constant", "identical_to_forward")
"""What a code of `signal_class` means, by its value (CF `flag_meanings`)."""
