import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from gradenc_core.recordings.repeats import (
    ResponseDescription,
    check_normalise,
    count_repeats,
    hash_files,
    session_of_stimuli,
    stimulus_rows,
)
from gradenc_core.stimuli.images import Manifest


@given(st.lists(st.tuples(st.integers(-1, 5), st.sampled_from("ABC")), max_size=30))
def test_a_stimulus_has_a_session_where_all_its_trials_are_of_one(
    trials: list[tuple[int, str]],
) -> None:
    shown: dict[int, set[str]] = {}
    for row, session in trials:
        if row >= 0:
            shown.setdefault(row, set()).add(session)
    expected = [next(iter(s)) if len(s) == 1 else "" for _, s in sorted(shown.items())]
    rows = np.array([row for row, _ in trials], dtype=np.int64)
    assert session_of_stimuli(rows, [session for _, session in trials]) == tuple(expected)


@pytest.mark.parametrize("normalise", ["session", "none"])
def test_a_session_of_one_used_trial_cannot_be_z_scored(normalise: str) -> None:
    rows, sessions = np.array([0, 1, -1, 1]), ["ses-01", "ses-01", "ses-02", "ses-02"]
    if normalise == "none":
        check_normalise(normalise, rows, sessions)
        return
    with pytest.raises(ValueError, match=r"session ses-02 has one used trial.*normalise none"):
        check_normalise(normalise, rows, sessions)


def test_rows_of_duplicates_are_the_first_image(manifest: Manifest) -> None:
    names = ["c.png", "n/a", "b.png", "a.png"]
    kinds = ["stimulus", "catch", "stimulus", "stimulus"]
    rows = stimulus_rows(names, kinds, manifest, Path("events.tsv"))
    np.testing.assert_array_equal(rows, [0, -1, 1, 0])
    stimuli, n_repeats = count_repeats(rows, manifest, Path("events.tsv"))
    assert stimuli == ("a.png", "b.png")
    np.testing.assert_array_equal(n_repeats, [2.0, 1.0])


def test_unknown_stimulus_is_refused_with_row_and_suggestion(manifest: Manifest) -> None:
    kinds = ["stimulus"] * 2
    with pytest.raises(ValueError, match=r"events\.tsv, row 2: .*did you mean `more/f\.jpeg`"):
        stimulus_rows(["a.png", "more/f.jpg"], kinds, manifest, Path("events.tsv"))
    with pytest.raises(ValueError, match=r"row 1: stim_file 'zzz'.*such as 'a\.png'"):
        stimulus_rows(["zzz", "a.png"], kinds, manifest, Path("events.tsv"))


def test_hashes_are_of_whole_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x", "a"):
        (tmp_path / name).write_bytes(name.encode() * 100_000)
    hashes = hash_files(tmp_path, [tmp_path / "b" / "x", tmp_path / "a"])
    assert list(hashes) == ["a", "b/x"]
    assert hashes["b/x"] == hashlib.sha256(b"b/x" * 100_000).hexdigest()


def test_description_can_be_part_of_a_pydantic_model() -> None:
    import xarray as xr

    class Holder(BaseModel):
        model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
        description: ResponseDescription

    described = ResponseDescription(
        "s", "fmri", ("a",), np.ones(1), ("1",), xr.Dataset(), {"f": "0"}
    )
    assert Holder(description=described).description is described
