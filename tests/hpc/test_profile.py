"""Profiles: the shipped one, and every refusal."""

import pytest

from hpc.profile import Profile, ProfileError, StageProfile, load_profile
from jobs.spec import STAGES


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_local_is_shipped():
    local = load_profile("local")
    assert local.scheduler == "local"
    assert all(local.stage(stage).slots == 1 for stage in STAGES)
    assert (local.stage("extract").threads, local.stage("extract").micro_batch) == (2, 32)
    assert (local.stage("encode").dask_workers, local.stage("encode").threads) == (2, 1)


def test_a_profile_has_every_stage_and_every_key_is_described():
    assert set(Profile.model_fields) == {"name", "scheduler", *STAGES}
    for model in (Profile, StageProfile):
        assert all(field.description for field in model.model_fields.values())


def test_what_a_file_leaves_out_has_the_defaults(tmp_path):
    path = write(tmp_path, 'name = "mine"\nscheduler = "local"\n[encode]\ndask_workers = 7\n')
    profile = load_profile(path)
    assert profile.stage("encode") == StageProfile(dask_workers=7)
    assert profile.stage("compare") == StageProfile()


HEAD = 'name = "mine"\nscheduler = "local"\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('scheduler = "local"', "name: missing; accepted: the profile's name"),
        (
            'name = "x"\nscheduler = "locl"',
            'scheduler: given "locl"; accepted: local; did you mean `local`?',
        ),
        (HEAD + "[encode]\nslots = 0", "encode.slots: given 0; accepted: greater than or equal to"),
        (HEAD + '[encode]\nslots = "2"', 'encode.slots: given "2"; accepted: a whole number'),
        (HEAD + "[encode]\nslots = true", "encode.slots: given true; accepted: a whole number"),
        (HEAD + "[encode]\nthreads = 1.0", "encode.threads: given 1.0; accepted: a whole number"),
        (
            HEAD + "[encode]\nthread = 2",
            "encode.thread: unknown key, given 2; accepted: dask_workers, micro_batch, "
            "slots, threads, timeout_minutes; did you mean `threads`?",
        ),
        (HEAD + "[encod]\nslots = 2", "did you mean `encode`?"),
        ("extract = 3\n" + HEAD, "extract: given 3; accepted: a mapping (key: value)"),
        ("name = ", "not TOML: "),
    ],
)
def test_refusals(tmp_path, text, line):
    path = write(tmp_path, text)
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_problems_at_once(tmp_path):
    path = write(tmp_path, 'scheduler = "x"\n[encode]\nslots = 0\n[extract]\nspeed = 1')
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["encode.slots", "extract.speed", "name", "scheduler"]


def test_unknown_names(tmp_path):
    with pytest.raises(ProfileError, match=r"accepted: local.*did you mean `local`\?"):
        load_profile("locla")
    write(tmp_path, HEAD)
    with pytest.raises(ProfileError, match=r"no such file.*did you mean `mine.toml`\?"):
        load_profile(str(tmp_path / "min.toml"))
