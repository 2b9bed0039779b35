"""The docs name files, links and commands that exist."""

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
from typer.main import get_command

from gradenc_core.compare.verdict import Verdict
from hpc.cli.app import app
from hpc.config.profile import StageProfile
from hpc.study.study import OBJECTIVES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
WIDTH = 100
FOLDERS = (
    r"\.ci|benchmarks|docs|gradenc|gradenc_core|gradenc_errors|hpc|jobs|scripts|slurm_profiles"
    r"|storage_schemas|tests"
)
PATH = rf"(?:{FOLDERS})/[\w./*-]*|[\w./-]+\.(?:py|md|toml|yaml|json|j2|svg|png|cff|txt)"
OF_USERS = {
    *("units.json", "jobs.json", "halt.json", "outcome.json", "state.json"),
    *("study.yaml", "lab.toml", "labels.csv"),
}
"""Files of a run, or of a user's own."""


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def prose(page: Path) -> list[str]:
    """Return a page's lines outside blocks of code."""
    parts = re.split(r"^```.*$", page.read_text(), flags=re.MULTILINE)
    return [line for part in parts[::2] for line in part.splitlines()]


def blocks(page: Path) -> list[str]:
    """Return the lines of a page's blocks of shell commands."""
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def test_every_path_that_a_page_names_exists(page: Path) -> None:
    missing, folder = set(), ROOT
    for line in prose(page):
        folder = folder if line.strip() else ROOT
        for name in re.findall(rf"`({PATH})`", line):
            # A bare name stands in the folder of the path that was named before it.
            found = next((f for place in (ROOT, folder) for f in place.glob(name)), None)
            if found is None:
                missing.add(name)
            else:
                folder = found if found.is_dir() else found.parent
    assert not missing - OF_USERS


def test_every_link_leads_to_a_file_of_the_project(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text())
    local = [link for link in links if not link.startswith("https://")]
    assert not [link for link in local if not (page.parent / link).exists()]


def test_every_command_in_a_block_of_code_is_accepted(page: Path) -> None:
    shown = [re.search(r"\bgradenc (.*)", line.partition("#")[0]) for line in blocks(page)]
    for match in filter(None, shown):
        words = shlex.split(re.sub(r"\[[^]]*\] ?|[>)\"].*", "", match[1]))
        command = get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        assert not command.make_context("gradenc", words).args


def test_prose_is_at_most_100_characters_wide(page: Path) -> None:
    assert not [line for line in prose(page) if len(line) > WIDTH and not line.startswith("|")]


def table_names(page: str, *heads: str) -> list[str]:
    """Return the names in backticks in the first column of a page's tables with these heads."""
    lines = iter((ROOT / "docs" / page).read_text().splitlines())
    names: list[str] = []
    for line in lines:
        if line.startswith(tuple(f"| {head} |" for head in heads)):
            for row in takewhile(lambda row: row.startswith("|"), lines):
                names += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return names


def test_the_table_of_verdicts_has_each_verdict() -> None:
    assert sorted(table_names("methods.md", "verdict")) == sorted(Verdict)


def test_the_tables_of_a_profile_have_each_key_of_a_stage() -> None:
    assert sorted(table_names("profiles.md", "key of a stage")) == sorted(StageProfile.model_fields)


def test_the_table_of_objectives_has_each_objective() -> None:
    assert set(table_names("objectives.md", "objective")) == {*OBJECTIVES, "dino_head"}
