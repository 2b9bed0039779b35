import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_schemas.identity import canonical_json, digest

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equality that tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@given(values)
def test_canonical_json_keeps_the_value(value: Any) -> None:
    assert same(json.loads(canonical_json(value)), value)


@given(st.dictionaries(st.text(max_size=4), values, min_size=2), st.randoms())
def test_order_of_keys_does_not_matter(mapping: dict[str, Any], random: Any) -> None:
    items = list(mapping.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(mapping)


@given(st.dictionaries(st.text(max_size=4), values, min_size=1), values, st.data())
def test_any_changed_value_changes_the_digest(
    mapping: dict[str, Any], other: Any, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(mapping)))
    changed = {**mapping, key: other}
    assert (digest(changed) == digest(mapping)) == same(other, mapping[key])


@given(values, values)
def test_digests_are_equal_only_for_equal_values(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == same(a, b)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"alpha": [1.0, number]})


@pytest.mark.parametrize("value", [{1, 2}, b"x", np.float32(1), np.arange(2), 1j, object()])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json({"x": value})


@pytest.mark.parametrize("key", [1, None, True, (1, 2)])
def test_keys_that_are_not_strings_are_refused_by_place(key: Any) -> None:
    with pytest.raises(TypeError, match=r"at \$\.spec\[1\] is not a string"):
        canonical_json({"spec": [{}, {key: 1}]})


def test_tuples_are_lists() -> None:
    assert canonical_json({"shape": (1, 2)}) == b'{"shape":[1,2]}'


@pytest.mark.parametrize(
    ("value", "text", "sha256"),
    [
        (None, b"null", "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"),
        ({}, b"{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        (
            {"b": [1, 1.0, True], "a": "é"},
            rb'{"a":"\u00e9","b":[1,1.0,true]}',
            "724556cf89c2c6a9080c21f4544865d1b3284cc3b610905519c0610c03051d2a",
        ),
        (
            {"alphas": [1e0, 1e8, 0.1, 1e-7], "seed": -3, "model": {"weights": None}},
            b'{"alphas":[1.0,100000000.0,0.1,1e-07],"model":{"weights":null},"seed":-3}',
            "0d347ccab4252a5cc6e9f18e83874b6f5dc7990122eb85b0449cfd0c5f507247",
        ),
    ],
)
def test_golden_digests(value: Any, text: bytes, sha256: str) -> None:
    """Fixed for ever: a change here orphans every store that exists."""
    assert canonical_json(value) == text
    assert digest(value) == sha256
