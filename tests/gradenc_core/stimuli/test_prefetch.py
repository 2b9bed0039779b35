import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.stimuli.prefetch import prefetch


@given(st.integers(0, 30), st.integers(1, 4), st.integers(0, 8))
def test_order_is_kept_and_no_more_than_asked_is_taken_ahead(n, threads, ahead):
    taken = 0

    def items():
        nonlocal taken
        for item in range(n):
            taken += 1
            yield item

    for place, made in enumerate(prefetch(lambda x: x * x, items(), threads, ahead)):
        assert made == place**2
        assert taken <= place + 1 + ahead
    assert taken == n


def test_items_are_made_while_the_consumer_has_another():
    begun = threading.Event()
    made = prefetch(lambda item: item or begun.set(), [1, 0, 2], 1, ahead=1)
    assert next(made) == 1
    assert begun.wait(10)


def test_an_error_comes_in_its_turn_and_nothing_is_begun_after_it():
    begun = []

    def make(item):
        begun.append(item)
        return 1 / item

    made = prefetch(make, [2, 1, 0, *range(1, 100)], 1, ahead=2)
    assert [next(made), next(made)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert len(begun) < 10
