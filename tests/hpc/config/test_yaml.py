"""YAML as a study means it: read and written."""

import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hpc.config.yaml import dump_yaml, parse_yaml

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e8", 1e8),
        ("1.0e8", 1e8),
        ("1E-3", 1e-3),
        ("-2e+3", -2000.0),
        (".5", 0.5),
        ("3", 3),
        ("010", "010"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("[1e2, off]", [100.0, "off"]),
    ],
)
def test_yaml_is_the_core_schema_of_1_2(text, value):
    read = parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_nan_and_infinity_are_numbers():
    assert math.isnan(parse_yaml(".nan"))
    assert parse_yaml("-.inf") == -math.inf


def test_duplicate_keys_are_refused_with_both_lines():
    with pytest.raises(yaml.YAMLError, match="`seed` is given twice, first in line 1") as caught:
        parse_yaml("seed: 1\nname: x\nseed: 2\n")
    assert caught.value.problem_mark.line == 2


@given(plain)
@example("1e8")
@example(["no", "010", "1:30", "", "=", "<<", "null", ".inf", "1e-5"])
@example({"a": 1e-05, "b": 1e300, "c": -0.0})
def test_dump_then_parse_is_the_identity(data):
    assert parse_yaml(dump_yaml(data)) == data
