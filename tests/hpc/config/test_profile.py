"""Profiles: the shipped ones, and every refusal."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config import profile as profiles
from hpc.config.profile import (
    GateProfile,
    Profile,
    ProfileError,
    StageProfile,
    items_per_task,
    load_profile,
    n_tasks,
)
from jobs.spec import STAGES

EXAMPLES = sorted(
    path.name.removesuffix(".toml")
    for path in files("slurm_profiles").iterdir()
    if path.name.startswith("example-")
)


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
    assert set(Profile.model_fields) == {"name", "scheduler", "gate", *STAGES}
    assert set(profiles.SECTIONS) == {"gate", *STAGES}
    for model in (Profile, StageProfile):
        assert all(field.description for field in model.model_fields.values())


def test_what_a_file_leaves_out_has_the_defaults(tmp_path):
    path = write(tmp_path, 'name = "mine"\nscheduler = "local"\n[encode]\ndask_workers = 7\n')
    profile = load_profile(path)
    assert profile.stage("encode") == StageProfile(dask_workers=7)
    assert profile.stage("compare") == StageProfile()


HEAD = 'name = "mine"\nscheduler = "local"\n'
SLURM = HEAD.replace("local", "slurm")


@pytest.mark.parametrize("name", ["generic-gpu", "generic-cpu"])
def test_generic_profiles_name_nothing_of_a_cluster(name):
    profile = load_profile(name)
    assert (profile.name, profile.scheduler) == (name, "slurm")
    for stage in profiles.SECTIONS:
        how = profile.stage(stage)
        assert (how.partition, how.account, how.qos) == (None, None, None)
        assert how.memory_gb is not None
    assert profile.stage("extract").gpus_per_node == (name == "generic-gpu")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_loads_once_its_names_are_filled_in(name, tmp_path):
    with pytest.raises(ProfileError, match="the example's placeholder"):
        load_profile(name)
    text = (files("slurm_profiles") / f"{name}.toml").read_text()
    profile = load_profile(write(tmp_path, re.sub(r"<[^>]*>", "x", text)))
    assert (profile.name, profile.scheduler) == (name, "slurm")


def test_examples_are_shipped():
    assert len(EXAMPLES) >= 4


def test_the_documentation_has_every_key_and_every_shipped_profile():
    text = (Path(__file__).parents[3] / "docs" / "profiles.md").read_text()
    shipped = [p.name.removesuffix(".toml") for p in files("slurm_profiles").iterdir()]
    names = [name for name in shipped if (files("slurm_profiles") / f"{name}.toml").is_file()]
    assert [name for name in (*StageProfile.model_fields, *names) if f"`{name}`" not in text] == []


def test_common_keys_hold_where_a_stage_says_nothing(tmp_path):
    common = '[common]\npartition = "cpu"\nmemory_gb = 8\nsetup = ["module load x"]\n'
    path = write(tmp_path, SLURM + common + '[extract]\npartition = "gpu"\n')
    profile = load_profile(path)
    assert profile.stage("extract").partition == "gpu"
    assert {profile.stage(s).partition for s in profiles.SECTIONS if s != "extract"} == {"cpu"}
    assert {profile.stage(s).setup for s in profiles.SECTIONS} == {("module load x",)}
    assert profile.stage("gate").timeout_minutes == GateProfile().timeout_minutes == 15
    assert profile.stage("encode").timeout_minutes == StageProfile().timeout_minutes


def test_the_same_mistake_of_all_stages_is_one_line(tmp_path):
    path = write(tmp_path, SLURM + "[common]\ngpus_per_node = 1\nranks_per_node = 4\n")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["common.ranks_per_node"] * len(lines)
    assert len(lines) == 2  # the GPUs that ranks would share; the gate is one process


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('scheduler = "local"', "name: missing; accepted: the profile's name"),
        (
            'name = "x"\nscheduler = "locl"',
            'scheduler: given "locl"; accepted: local, slurm; did you mean `local`?',
        ),
        (HEAD + "[encode]\nslots = 0", "encode.slots: given 0; accepted: greater than or equal to"),
        (HEAD + '[encode]\nslots = "2"', 'encode.slots: given "2"; accepted: a whole number'),
        (HEAD + "[encode]\nslots = true", "encode.slots: given true; accepted: a whole number"),
        (HEAD + "[encode]\nthreads = 1.0", "encode.threads: given 1.0; accepted: a whole number"),
        (
            HEAD + "[encode]\nthread = 2",
            "encode.thread: unknown key, given 2; accepted: account, constraint, dask_interface, "
            "dask_workers, exclude, gpus_per_node, max_memory_gb, memory_gb, micro_batch, nodes, "
            "partition, qos, ranks_per_node, scratch, setup, slots, threads, timeout_minutes, "
            "units_per_task; did you mean `threads`?",
        ),
        (HEAD + "[encod]\nslots = 2", "did you mean `encode`?"),
        (HEAD + "[common]\nthread = 2", "common.thread: unknown key, given 2; accepted: account, "),
        (HEAD + "[common]\nslots = 0", "common.slots: given 0; accepted: greater than or equal"),
        ("common = 3\n" + HEAD, "common: given 3; accepted: a mapping (key: value)"),
        (
            HEAD + '[extract]\npartition = "gpu"',
            'extract.partition: given "gpu"; accepted: only with scheduler = "slurm"',
        ),
        (
            HEAD + "[common]\nmemory_gb = 4",
            'common.memory_gb: given 4.0; accepted: only with scheduler = "slurm"',
        ),
        (SLURM + '[encode]\nmemory_gb = "4"', 'encode.memory_gb: given "4"; accepted: a number'),
        (
            SLURM + "[encode]\nmemory_gb = inf",
            "encode.memory_gb: given Infinity; accepted: a finite",
        ),
        (SLURM + "[encode]\nmemory_gb = 0", "encode.memory_gb: given 0; accepted: greater than 0"),
        (
            SLURM + "[encode]\nnodes = 0",
            "encode.nodes: given 0; accepted: greater than or equal to",
        ),
        (SLURM + '[gate]\nsetup = "x"', 'gate.setup: given "x"; accepted: a list'),
        (
            SLURM + '[gate]\npartition = "a b"',
            'gate.partition: given "a b"; accepted: a name without spaces',
        ),
        (
            SLURM + '[common]\npartition = "<partition>"',
            'common.partition: given "<partition>"; accepted: a name of your cluster; this is '
            "still the example's placeholder",
        ),
        (
            SLURM + '[common]\nscratch = "<folder>/x"',
            'common.scratch: given "<folder>/x"; accepted: a folder of your cluster; ',
        ),
        (
            SLURM + '[common]\nsetup = ["module load <python module>"]',
            'common.setup[0]: given "module load <python module>"; accepted: a command of your ',
        ),
        (
            SLURM + "[encode]\nmemory_gb = 64\nmax_memory_gb = 32",
            "encode.max_memory_gb: given 32.0; accepted: at least memory_gb, which it raises",
        ),
        (
            SLURM + "[encode]\nmax_memory_gb = 32",
            "encode.max_memory_gb: given 32.0; accepted: only beside memory_gb, which it raises",
        ),
        (
            SLURM + "[extract]\ngpus_per_node = 2\nranks_per_node = 3",
            "extract.ranks_per_node: given 3; accepted: at most gpus_per_node (2), one "
            "GPU for each",
        ),
        (
            SLURM + "[encode]\nnodes = 2",
            "encode.nodes: given 2; accepted: 1 rank in all (it starts dask_workers itself), or 3 ",
        ),
        (
            SLURM + "[encode]\nranks_per_node = 4\ndask_workers = 2",
            "encode.dask_workers: given 2; accepted: 1, since 2 of the 4 ranks are the workers",
        ),
        (
            SLURM + "[gate]\nranks_per_node = 2",
            "gate.ranks_per_node: given 2; accepted: 1 for the gate, which is one process",
        ),
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
    with pytest.raises(
        ProfileError, match=r"accepted: .*generic-gpu, local, or the path.*did you mean `local`\?"
    ):
        load_profile("locla")
    write(tmp_path, HEAD)
    with pytest.raises(ProfileError, match=r"no such file.*did you mean `mine.toml`\?"):
        load_profile(str(tmp_path / "min.toml"))


def test_items_are_cut_into_as_many_tasks_as_slots_unless_the_profile_says_otherwise():
    assert n_tasks("local", StageProfile(slots=8), 3) == 3
    assert n_tasks("slurm", StageProfile(slots=4), 10) == 4
    assert n_tasks("slurm", StageProfile(slots=4, units_per_task=2), 11) == 6


@given(st.integers(1, 50), st.none() | st.integers(1, 50), st.integers(0, 500))
def test_tasks_hold_all_items_and_no_task_is_empty_or_over_full(slots, units_per_task, n_items):
    how = StageProfile(slots=slots, units_per_task=units_per_task)
    tasks = n_tasks("slurm", how, n_items)
    assert (tasks - 1) * items_per_task(how, n_items) < max(n_items, 1)
    assert tasks * items_per_task(how, n_items) >= n_items
    assert n_tasks("local", how, n_items) <= slots
