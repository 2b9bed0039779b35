"""Whatever a user writes in place of a value: it is taken, or refused in the user's own words."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hpc.config.overrides import apply_overrides
from hpc.config.phrases import KeyPath, render_path
from hpc.config.phrases import given as shown
from hpc.config.profile import GB, SLURM_KEYS, StageProfile, _ProfileFile, process_memory
from hpc.config.refusals import refusals
from hpc.config.yaml import dump_yaml, read_yaml
from hpc.study.study import Study

STUDY: dict[str, Any] = {
    "name": "demo",
    "seed": 0,
    "stimuli": "images",
    "models": [{"name": "a", "library": "timm", "architecture": "x", "seed": 1, "control": False}],
    "layers": {"depths": [0.5, 1.0]},
    "signals": ["forward", "gradient"],
    "objectives": ["energy", "dino"],
    "projection": 64,
    "responses": [
        {"reader": "bids", "path": "bids", "subjects": ["s"], "rois": ["V1"]},
        {"reader": "epochs", "path": "meg", "tmin": 0.0, "tmax": 0.5, "picks": "mag"},
    ],
    "encoding": {
        "folds": 4,
        "fold_rule": "stimulus",
        "alphas": {"low": 1.0, "high": 10.0, "count": 3},
        "band_ratios": [0, 1.0],
        "windows": {"early": [0.0, 0.1]},
    },
    "comparisons": {"ladders": {"v": ["V1", "V2"]}, "search_window": [0.0, 1.0]},
    "extraction": {"stimuli_per_shard": 8},
}
PROFILE: dict[str, Any] = {
    "name": "lab",
    "scheduler": "slurm",
    "common": {"partition": "main", "memory_gb": 4.0, "setup": ["module load x"]},
    "extract": {"slots": 2, "gpus_per_node": 1, "threads": 4},
    "gate": {"timeout_minutes": 5},
}
PYTHON = re.compile(
    r"(?i)input should|pydantic|\btuple\b|\bdict\b|\bNoneType\b|\bstr\b|type=|\bint\b"
)
"""Words of a library or language that a user of a study did not write."""

scalars = (
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text("ab<>/ ", max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.fixed_dictionaries({"a": inner}),
    max_leaves=4,
)


def paths(data: Any, above: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the place of every value of a file."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*above, key))


def with_value(data: dict[str, Any], path: KeyPath, value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(data)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def check_refusal(model: type[BaseModel], data: dict[str, Any], path: KeyPath) -> None:
    """Validate; every line of a refusal names the file, a key, what was given and is accepted."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        lines = refusals(error, model, data, "lab.yaml")
        assert lines
        for line in lines:
            place, key, said = line.split(": ", 2)
            assert place == "lab.yaml"
            assert re.fullmatch(r"\w+(\.[^\s.]+|\[\d+\])*", key), line
            assert re.match(r"(given|missing|unknown key)", said), line
            assert "accepted: " in said, line
            assert not PYTHON.search(said.split("accepted: ", 1)[1]), line
        keys = [line.split(": ")[1] for line in lines]
        first = str(path[0])
        # A key may be refused for one that goes with it, and such keys lie in one section.
        assert any(key.startswith(first) for key in keys) or first in ("signals", "scheduler"), keys


quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(st.sampled_from(list(paths(STUDY))), values)
@example(("encoding", "windows", "early"), [0.2])
@example(("models", 0), "resnet18")
@example(("layers", "depths"), [])
def test_any_value_of_a_study_is_taken_or_refused_in_plain_words(path: KeyPath, value: Any) -> None:
    check_refusal(Study, with_value(STUDY, path, value), path)


@quick
@given(st.sampled_from(list(paths(PROFILE))), values)
def test_any_value_of_a_profile_is_taken_or_refused_in_plain_words(
    path: KeyPath, value: Any
) -> None:
    check_refusal(_ProfileFile, with_value(PROFILE, path, value), path)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([p for p in paths(STUDY) if isinstance(p[-1], str)]),
    st.sampled_from(["nothing", "folder", "x1"]),
)
def test_a_misspelt_key_is_refused_where_it_stands_with_the_keys_of_its_section(
    path: KeyPath, key: str
) -> None:
    free = (("encoding", "windows"), ("comparisons", "ladders"))
    if path[:-1] in free:
        return  # any name is a window's or a ladder's
    data = with_value(STUDY, (*path[:-1], key), 3)
    if path[:-1] == ("layers",):
        data["layers"] = {key: 3}
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(data)
    lines = refusals(caught.value, Study, data, "lab.yaml")
    if path[:-1] == ("layers",):
        assert lines[0].startswith("lab.yaml: layers: given ")
        return
    place = render_path((*path[:-1], key))
    (line,) = (
        line for line in lines if line.startswith(f"lab.yaml: {place}: unknown key, given 3")
    )
    siblings: Any = STUDY
    for part in path[:-1]:
        siblings = siblings[part]
    accepted = line.partition("accepted: ")[2]
    assert all(sibling in accepted for sibling in siblings)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(paths(STUDY))), values)
def test_an_override_is_blamed_for_what_it_sets_and_nothing_else(path: KeyPath, value: Any) -> None:
    override = f"{render_path(path)}={dump_yaml([value]).strip().splitlines()[0]}"
    data, applied, problems = apply_overrides(STUDY, [override], {})
    if problems:  # a value that does not fit on one line
        return
    try:
        Study.model_validate(data)
    except ValidationError as error:
        lines = refusals(error, Study, data, "lab.yaml", applied)
        about = [line for line in lines if line.startswith(f"--set {override}: ")]
        others = [line for line in lines if line not in about]
        assert about or path[0] in ("signals", "objectives")
        for line in others:
            assert not line.startswith(f"lab.yaml: {render_path(path)}:")


@given(values)
def test_a_value_is_shown_in_one_short_line(value: Any) -> None:
    text = shown(value)
    assert "\n" not in text
    assert 0 < len(text) <= 80


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", r'given \["a", "b"\]; accepted: keys and values \(`gradenc init`\)'),
        (b"", r"given null; accepted: keys and values"),
        (b"name: a\n\tseed: 1\n", r":2:1: YAML does not allow tabs for indentation: use spaces"),
        (b"name: [a\nseed: 1\n", r":2:"),
        (b"name: a\nname: b\n", r":2:1: the key `name` is given twice, first in line 1"),
        (b"\xff\xfe\x00", r"not a text of YAML"),
        (b"a: \x00", r"not a text of YAML"),
    ],
)
def test_a_file_that_holds_no_keys_says_where_and_why(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))


def test_a_process_has_its_share_of_the_nodes_memory() -> None:
    whole = {"memory_gb": 64.0}
    assert process_memory("slurm", StageProfile()) is None
    assert process_memory("slurm", StageProfile(**whole)) == 64 * GB
    assert process_memory("slurm", StageProfile(**whole, ranks_per_node=4, nodes=2)) == 16 * GB
    assert process_memory("slurm", StageProfile(**whole, dask_workers=8)) == 8 * GB
    # Ranks are the workers themselves.
    ranks = StageProfile(**whole, ranks_per_node=8, dask_workers=1)
    assert process_memory("slurm", ranks) == 8 * GB
    one = process_memory("local", StageProfile())
    assert one is not None
    assert process_memory("local", StageProfile(slots=2, dask_workers=3)) == pytest.approx(one / 6)


def test_the_keys_of_slurm_are_those_that_change_nothing_on_this_machine() -> None:
    here = {"slots", "threads", "micro_batch", "timeout_minutes", "dask_workers"}
    assert set(StageProfile.model_fields) - SLURM_KEYS == here
