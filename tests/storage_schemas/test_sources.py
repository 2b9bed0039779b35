"""Names of signals and the sources that they come from."""

import pytest

from storage_schemas.sources import is_control, source_of, unique_of


@pytest.mark.parametrize(
    ("source", "signal"),
    [
        ("gradient:energy", "unique:energy"),
        ("gradient:random.3", "unique:random.3"),
        ("signal:relevance", "unique:signal:relevance"),
        ("forward", "unique:forward"),
        ("baseline", "unique:baseline"),
    ],
)
def test_what_a_source_adds_is_named_after_it(source: str, signal: str) -> None:
    assert unique_of(source) == signal
    assert source_of(signal) == source_of(source) == source_of(f"baseline+{source}") == source


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ("unique:baseline", True),
        ("unique:forward", True),
        ("unique:random.3", True),
        ("unique:mismatched_dino", True),
        ("unique:energy", False),
        ("unique:signal:random", False),
    ],
)
def test_forward_features_and_random_objectives_are_controls(signal: str, expected: bool) -> None:
    assert is_control(signal) == expected
