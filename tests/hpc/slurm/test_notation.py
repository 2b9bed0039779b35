"""SLURM's forms of states, durations, sizes, resources and array tasks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.slurm import notation
from hpc.slurm.jobs import ENDED, State


def test_a_line_of_something_else_is_refused():
    assert notation.row("1|a|b|c", ("id", "name")) == {"id": "1", "name": "a|b|c"}
    with pytest.raises(ValueError, match="SLURM printed 'Welcome to the cluster!' where 2 fields"):
        notation.row("Welcome to the cluster!", ("id", "name"))


@pytest.mark.parametrize("known", State)
def test_every_state_is_read(known):
    assert notation.state(known.value) is known


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("CANCELLED by 1000", State.CANCELLED),
        ("CANCELLED+", State.CANCELLED),
        ("OUT_OF_ME+", State.OUT_OF_MEMORY),
        ("REQUEUE+", State.UNRECOGNISED),  # three states begin so
        ("DREAMING", State.UNRECOGNISED),
        ("", State.UNRECOGNISED),
        ("+", State.UNRECOGNISED),
    ],
)
def test_states_with_more_or_less_to_them(text, meant):
    assert notation.state(text) is meant


def test_what_nobody_recognises_has_not_ended():
    assert State.UNRECOGNISED not in ENDED


@pytest.mark.parametrize(
    ("text", "s"),
    [
        ("10:00", 600),
        ("0:01", 1),
        ("00:00.361", 0.361),
        ("01:00:00", 3600),
        ("1-02:03:04", 93784),
        ("UNLIMITED", None),
        ("Partition_Limit", None),
        ("INVALID", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_durations(text, s):
    assert notation.seconds(text) == s


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_duration_is_read_as_it_was_written(days, hours, minutes, s):
    short = f"{hours:02d}:{minutes:02d}:{s:02d}"
    text = f"{days}-{short}" if days else short
    assert notation.seconds(text) == ((days * 24 + hours) * 60 + minutes) * 60 + s


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("493788K", 493788 * 1024),
        ("200M", 200 * 2**20),
        ("1.50G", 3 * 2**29),
        ("2T", 2**41),
        ("", None),
        ("UNLIMITED", None),
        ("12X", None),
    ],
)
def test_sizes(text, size):
    assert notation.size(text) == size


@given(st.integers(0, 10**6), st.sampled_from("KMGTP"))
def test_a_size_grows_by_1024_with_each_unit(number, unit):
    smaller = " KMGTP"["KMGTP".index(unit)].strip()
    assert notation.size(f"{number}{unit}") == 1024 * notation.size(f"{number}{smaller}")


@pytest.mark.parametrize(
    ("text", "gpus", "memory"),
    [
        ("billing=2,cpu=2,gres/gpu=2,mem=300M,node=1", 2, 300 * 2**20),
        ("cpu=8,mem=4G,node=4,gres/gpu=8,gres/gpu:a100=8", 8, 2**30),
        ("cpu=8,mem=4G,node=2,gres/gpu:a100=1,gres/gpu:h100=2", 3, 2**31),
        ("cpu=1,node=1", 0, None),
        ("", 0, None),
    ],
)
def test_resources(text, gpus, memory):
    amounts = notation.resources(text)
    assert (notation.gpus(amounts), notation.memory_per_node(amounts)) == (gpus, memory)


@pytest.mark.parametrize(
    ("code", "signal", "both"),
    [(0, 0, (0, 0)), (7, 0, (7, 0)), (137, 0, (9, 9)), (0, 9, (0, 9)), (9, 9, (9, 9))],
)
def test_endings(code, signal, both):
    assert notation.ending(code, signal) == both


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("123", ["123"]),
        ("123_4", ["123_4"]),
        ("123_[4-6%2]", ["123_4", "123_5", "123_6"]),
        ("123_[0,2-3,9]", ["123_0", "123_2", "123_3", "123_9"]),
        ("123_[0-6:3]", ["123_0", "123_3", "123_6"]),
    ],
)
def test_array_tasks(text, tasks):
    assert notation.job_ids(text) == tasks


@given(
    st.sets(st.integers(0, 1000), min_size=1, max_size=60).map(sorted),
    st.none() | st.integers(1, 99),
)
def test_every_task_of_a_collapsed_array_comes_back_once(tasks, throttle):
    ranges: list[list[int]] = []
    for n in tasks:
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    inside = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
    text = f"7_[{inside}{f'%{throttle}' if throttle else ''}]"
    assert notation.job_ids(text) == [f"7_{n}" for n in tasks]
