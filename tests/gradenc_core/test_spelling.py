"""Suggestions name a word that exists, or say nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.spelling import did_you_mean

KNOWN = ["projection", "precision", "layers"]


@pytest.mark.parametrize(
    ("value", "suggested"),
    [("projektion", "projection"), ("layer", "layers"), ("presicion", "precision")],
)
def test_a_slip_is_answered_with_the_closest_word(value: str, suggested: str) -> None:
    assert did_you_mean(value, KNOWN) == f"; did you mean `{suggested}`?"
    assert did_you_mean(value, iter(KNOWN)) == did_you_mean(value, KNOWN)


@pytest.mark.parametrize("value", ["zzz", "", 3, None, ["layers"]])
def test_nothing_close_is_answered_with_nothing(value: object) -> None:
    assert did_you_mean(value, KNOWN) == ""
    assert did_you_mean("layers", []) == ""


@settings(max_examples=30)
@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), max_size=5))
def test_only_known_words_are_suggested(value: str, known: list[str]) -> None:
    found = did_you_mean(value, known)
    assert found == "" or found in {f"; did you mean `{word}`?" for word in known}
