import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hpc.cli.app import app

GRADENC = str(Path(sys.executable).with_name("gradenc"))


def walk(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Yield (words after `gradenc`, command) of every command."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from walk(child, *path, name)
    else:
        yield " ".join(path), command


COMMANDS = dict(walk(get_command(app)))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GRADENC, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_it_accepts(name: str) -> None:
    (example,) = re.findall(
        rf"Example: `(?:eval \"\$\()?gradenc {name}([^`]*)`", COMMANDS[name].help
    )
    words = shlex.split(example.partition(">")[0].removesuffix(')"'))
    parsed = COMMANDS[name].make_context(name, words)
    assert not parsed.args


def test_help_is_shown_with_all_commands() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert {name.split()[0] for name in COMMANDS} <= set(re.findall(r"[a-z]+", result.stdout))


@pytest.mark.parametrize(
    ("modules", "but"),
    [
        ("hpc.cli.app, hpc.run.state, hpc.run.folder, hpc.inspect.status, hpc.inspect.logs", set()),
        (
            "hpc.run.drive, hpc.run.gate_job, hpc.node.dask, hpc.node.worker, jobs.drill",
            {"dask", "submitit"},
        ),
        ("hpc.plan.stages", {"xarray"}),
        ("jobs.encode, jobs.collinearity, jobs.compare.compare", {"xarray"}),
    ],
    ids=["looking", "driving", "planning", "fitting"],
)
def test_what_needs_no_network_imports_nothing_slow(modules: str, but: set[str]) -> None:
    slow = {"torch", "sklearn", "mne", "timm", "matplotlib", "dask", "submitit", "xarray"}
    code = f"import sys, {modules}; print({slow - but} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_init_writes_a_study_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    assert run("init", path).returncode == 0
    path.write_text("mine")
    result = run("init", path)
    assert result.returncode == 1
    assert "exists already" in result.stderr
    assert path.read_text() == "mine"


def test_a_refusal_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("name: x\nstimuli: pictures\nmodles: []\n")
    result = run("plan", study)
    assert result.returncode == 1
    assert "did you mean `models`?" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_plan_says_what_a_run_takes_and_where_times_are_from(small_study: Path) -> None:
    two = ("--set", "objectives=[classification, random]", "--set", "random_draws=2")
    result = run("plan", small_study, *two)
    said = " ".join(result.stdout.split())
    assert result.returncode == 0, result.stderr
    assert "kB" in said
    assert "Time of prepare: assumed." in said
    assert "Time of extract: measured here." in said
    assert "Time of encode: measured here; " in said
    assert "random stands for 2 gradients (random_draws)" in said
    assert re.search(r"sub-01 \(fmri\): \d+ trials of \d+ images in \d sessions, \d+ voxels", said)
    assert re.search(r"sub-02 \(meg\): \d+ trials of .*, \d+ sensors x \d+ times", said)


def test_plan_says_which_verdicts_a_study_could_reach(small_study: Path) -> None:
    regions = "responses[0].rois=[V1, V2, V3, V4]"
    changes = ["--set", "encoding.permutations=39", "--set", regions]
    result = run("plan", small_study, "--identify", "--ceiling", 0.9, *changes)
    said = " ".join(result.stdout.split())
    assert result.returncode == 0, result.stderr
    assert "in space (fMRI): no claim about its order can follow: 4 regions" in said
    assert "in time (MEG or EEG): 1 subject, 96 stimuli, 5 layers, level 0.025" in said
    assert "backpropagation" in said
    assert "twice the stimuli" in said
    assert "noise ceiling of r = 0.9" in said
    assert "nothing has been submitted" not in said


@pytest.mark.parametrize("given", [["--ceiling", "0.5"], ["--identify", "--ceiling", "1.5"]])
def test_a_ceiling_that_means_nothing_is_refused(given: list[str], small_study: Path) -> None:
    result = run("plan", small_study, *given)
    assert result.returncode == 1
    assert "--ceiling is a correlation between 0 and 1, and goes with --identify" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("status", "resume", "cancel", "logs", "verify", "query", "why"),
        *("report page", "report efficiency"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(command: str, tmp_path: Path) -> None:
    result = run(*command.split(), tmp_path)
    assert result.returncode == 1
    assert "no run folder" in result.stderr


def test_a_shipped_profile_is_printed_as_it_is() -> None:
    text = (files("slurm_profiles") / "generic-gpu.toml").read_text()
    assert run("profile", "show", "generic-gpu").stdout == text


def test_a_draft_without_slurm_is_one_sentence(tmp_path: Path) -> None:
    command = [GRADENC, "profile", "draft", "--out", str(tmp_path / "lab.toml")]
    environment = os.environ | {"PATH": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert "is not installed on this machine" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "lab.toml").exists()
