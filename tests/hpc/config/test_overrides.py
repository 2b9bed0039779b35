"""`--set`: key paths, values and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config.overrides import apply_overrides, parse_override
from hpc.config.phrases import render_path
from hpc.config.yaml import dump_yaml

DATA = {"name": "demo", "models": [{"name": "a", "seed": 0}, {"name": "b"}], "objectives": []}
DEFAULTS = {"encoding": {"folds": 5, "alphas": {"low": 1.0, "high": 1e8}}}

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)


def apply(*overrides, data=DATA):
    return apply_overrides(data, overrides, DEFAULTS)


@given(
    st.lists(
        st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True) | st.integers(0, 99), min_size=1
    ).filter(lambda path: isinstance(path[0], str)),
    scalars,
)
def test_override_round_trip_with_brackets_and_with_dots(path, value):
    text = dump_yaml([value]).strip()
    for key in (render_path(tuple(path)), ".".join(map(str, path))):
        override = parse_override(f"{key}={text}")
        assert override.path == tuple(path)
        assert override.value == [value]


@given(st.sampled_from(["folds", "alphas.low", "alphas.high"]), st.integers() | st.floats(0.0, 1e9))
def test_an_override_changes_its_key_and_nothing_else(key, value):
    changed, applied, problems = apply(f"encoding.{key}={value!r}")
    encoding = changed.pop("encoding")
    flat = {"folds": encoding["folds"]} | {f"alphas.{k}": v for k, v in encoding["alphas"].items()}
    assert flat == {"folds": 5, "alphas.low": 1.0, "alphas.high": 1e8} | {key: value}
    assert changed == DATA
    assert (len(applied), problems) == (1, [])


def test_list_entries_by_dots_and_by_brackets_and_the_last_one_wins():
    changed, _, problems = apply("models.0.seed=3", "models[1].name=c", "models[0].seed=4")
    assert changed["models"] == [{"name": "a", "seed": 4}, {"name": "c"}]
    assert not problems
    assert DATA["models"][0]["seed"] == 0


def test_values_are_yaml():
    changed, _, _ = apply("objectives=[energy, random]", "encoding.alphas.high=1e6", "name='7'")
    assert changed["objectives"] == ["energy", "random"]
    assert changed["encoding"]["alphas"] == {"low": 1.0, "high": 1e6}
    assert changed["name"] == "7"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("encoding.folds", "accepted: key=value, as in encoding.folds=4 or models[0].seed=3"),
        ("=4", "accepted: key=value"),
        (".a=4", "accepted: key=value"),
        ("a..b=4", "accepted: key=value"),
        ("models[x].seed=4", "accepted: key=value"),
        ("models[0.seed=4", "accepted: key=value"),
        ("a b=4", "accepted: key=value"),
        ("name=[1", "the value is not YAML"),
        ("models.seed=1", "models is a list; accepted: an entry of it, as models[0].seed"),
        ("models[2].seed=1", "models has 2 entries; accepted: [0] to [1]"),
        ("objectives[0]=energy", "objectives has 0 entries"),
        ("name.first=x", "name is a single value and has no key 'first'"),
        ("name[0]=x", "name is a single value and has no key 0"),
        ("encoding[0]=x", "encoding is not a list and has no entry [0]"),
        ("[0]=x", "the study is not a list and has no entry [0]"),
    ],
)
def test_refusals(text, problem):
    changed, applied, problems = apply(text)
    assert len(problems) == 1
    assert problems[0].startswith(f"--set {text}: ")
    assert problem in problems[0]
    assert not applied
    assert changed["models"] == DATA["models"]


def test_every_refused_override_is_listed_and_the_others_are_set():
    changed, applied, problems = apply("nonsense", "name=x", "models[9].seed=1")
    assert [line.split(":")[0] for line in problems] == ["--set nonsense", "--set models[9].seed=1"]
    assert changed["name"] == "x"
    assert [override.path for override in applied] == [("name",)]
