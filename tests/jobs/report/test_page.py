"""What the report calls what it shows."""

import pytest

from jobs.report.page import signal_title


@pytest.mark.parametrize(
    ("signal", "title"),
    [
        ("forward", "activations (r)"),
        ("gradient:random.3", "gradient, random.3 (r)"),
        ("signal:relevance", "signal, relevance (r)"),
        ("unique:energy", "gradient, energy: unique (U)"),
        ("unique:signal:relevance", "signal, relevance: unique (U)"),
    ],
)
def test_a_signal_is_not_called_a_gradient(signal: str, title: str) -> None:
    assert signal_title(signal) == title
