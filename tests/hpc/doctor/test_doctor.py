"""`gradenc doctor` where there is no cluster, and the checks of a folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.config.profile import load_profile
from hpc.doctor import folder_checks
from hpc.doctor.doctor import diagnose
from hpc.doctor.findings import Finding, Level, failure
from hpc.doctor.folder_checks import check_folder, hold, locked_by_another
from hpc.doctor.probe import Report
from storage_schemas.records import as_json, parse

GRADENC = str(Path(sys.executable).with_name("gradenc"))


def bad(findings):
    """Leave out how much room this machine has."""
    return [f for f in findings if f.level is not Level.OK and f.check != "space"]


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nscheduler = "local"\n' + text)
    return str(path)


def test_a_good_folder_is_left_as_it_was(tmp_path):
    assert [finding.level for finding in check_folder(tmp_path)] == [Level.OK]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_hard_links_is_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (found,) = check_folder(tmp_path)
    assert found.level is Level.WARNING
    assert found.sentence == f"{tmp_path} has no hard links"


@pytest.mark.parametrize(
    ("name", "replacement", "words"),
    [
        ("write_exclusive", lambda path, data: True, "exclusive in .*: two writers could"),
        ("replace", lambda path, data: path.write_bytes(b"1"), "rename in .*: .* still reads as"),
        ("locked_by_another", lambda path: False, "lock in .*: two processes held the same lock"),
    ],
)
def test_a_file_system_that_breaks_a_promise_is_named(
    tmp_path, monkeypatch, name, replacement, words
):
    monkeypatch.setattr(folder_checks, name, replacement)
    (found,) = check_folder(tmp_path)
    assert found.level is Level.FAILURE
    assert re.search(words, found.sentence)
    assert found.remedy


def test_a_lock_is_seen_by_another_process_and_dies_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    code = "import sys, pathlib; from hpc.doctor.folder_checks import locked_by_another as l; "
    ask = [sys.executable, "-c", code + "print(l(pathlib.Path(sys.argv[1])))", str(path)]
    with hold(path):
        assert subprocess.run(ask, capture_output=True, text=True).stdout == "True\n"
    assert not locked_by_another(path)


def test_the_local_profile_passes_and_leaves_nothing(tmp_path):
    folder = tmp_path / "runs"
    result = subprocess.run(
        [GRADENC, "doctor", "--folder", str(folder), "--json"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    findings = [parse(Finding, value) for value in json.loads(result.stdout)]
    assert not [finding for finding in findings if finding.level is Level.FAILURE]
    assert {"file system", "space"} <= {finding.check for finding in findings}
    assert list(folder.iterdir()) == []


def test_more_threads_and_processes_than_the_machine_has(tmp_path):
    profile = load_profile(write(tmp_path, "[extract]\nthreads = 4096\n[encode]\nslots = 4096\n"))
    found = bad(diagnose(profile, tmp_path))
    assert {(f.check, f.sentence.partition(":")[0]) for f in found} == {
        ("processors", "extract"),
        ("processors", "encode"),
        ("memory", "encode"),
    }
    assert all(finding.remedy for finding in found)


def test_a_folder_that_cannot_be_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("")
    result = subprocess.run(
        [GRADENC, "doctor", "--folder", str(tmp_path / "file" / "runs")],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "250"},
    )
    assert result.returncode == 1
    assert "-> give --folder a folder that you may write to" in result.stdout
    assert "1 failure(s)" in result.stdout


def test_without_slurm_the_commands_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bad(diagnose(load_profile("generic-cpu"), tmp_path / "runs"))
    assert [(finding.check, finding.where) for finding in found] == [("slurm", "login node")]
    assert "`scontrol` is not installed on this machine" in found[0].sentence
    assert "login node" in found[0].remedy


def test_findings_travel_as_json():
    finding = failure("check", "sentence", "remedy").at("extract")
    report = Report("n1", (finding,))
    assert parse(Report, json.loads(json.dumps(as_json(report)))) == report
