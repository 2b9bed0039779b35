import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from storage_schemas.protocol import attempts
from storage_schemas.protocol.attempts import HEARTBEAT_LIMIT_S, Attempt, LostLease, Used
from storage_schemas.protocol.store import Store

MakeStore = Callable[..., Store]
StartWriter = Callable[..., "subprocess.Popen[str]"]


def begin(store: Store, index: int = 0) -> Attempt | None:
    return attempts.begin(store, store.units[index], job="job-7", round_=2)


def held(store: Store, index: int = 0) -> Attempt:
    attempt = begin(store, index)
    assert attempt is not None
    return attempt


def edit(attempt: Attempt, **changes: Any) -> None:
    attempt.path.write_text(json.dumps(attempt.record.model_dump() | changes))


def age(attempt: Attempt, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(attempt.path, (then, then))


def test_record_says_who_holds_the_unit(make_store: MakeStore) -> None:
    store = make_store()
    attempt = held(store, 3)
    assert attempt.path == store.path / "attempts" / "00" / "00003.1.json"
    record = json.loads(attempt.path.read_text())
    assert record["unit"] == attempt.unit == store.unit_id(store.units[3])
    assert (record["n"], record["job"], record["round"]) == (1, "job-7", 2)
    assert record["pid"] == os.getpid()
    assert record["outcome"] == "running"
    assert attempts.latest_attempts(store)[3].model_dump() == record


def test_living_holder_keeps_its_unit_and_others_are_free(make_store: MakeStore) -> None:
    store = make_store()
    first = held(store)
    assert begin(store) is None
    first.require_lease()
    assert held(store, 1).n == 1


@pytest.mark.parametrize("outcome", ["committed", "failed", "stopped"])
def test_finishing_frees_the_unit(make_store: MakeStore, outcome: Any) -> None:
    store = make_store()
    held(store).finish(outcome)
    assert held(store).n == 2


def test_ending_is_recorded(make_store: MakeStore) -> None:
    store = make_store()
    held(store).finish("failed", error="ValueError: no\nmore", traceback="Tr", used=Used(seconds=2))
    record = attempts.latest_attempts(store)[0]
    assert (record.outcome, record.error, record.traceback) == (
        "failed",
        "ValueError: no",
        "Tr",
    )
    assert record.used == Used(seconds=2)
    assert record.started <= str(record.finished)
    assert not attempts.is_alive(record)


def test_killed_holder_is_superseded(make_store: MakeStore, start_writer: StartWriter) -> None:
    store = make_store()
    process = start_writer(store.path, "lease")
    process.stdout.readline()
    assert begin(store) is None
    process.send_signal(signal.SIGKILL)
    while _state(process.pid) != "Z":
        time.sleep(0.001)
    # Not yet reaped: a zombie still has a number and a start time, and is dead.
    assert held(store, 0).n == 2
    process.communicate()
    assert held(store, 1).n == 2


@pytest.mark.parametrize(("silent_s", "superseded"), [(590, False), (610, True)])
def test_a_holder_that_is_frozen_for_long_is_superseded(
    make_store: MakeStore, start_writer: StartWriter, silent_s: float, superseded: bool
) -> None:
    store = make_store()
    process = start_writer(store.path, "lease")
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    then = time.time() - silent_s
    os.utime(next(store.path.glob("attempts/*/00000.1.json")), (then, then))
    assert (begin(store) is not None) is superseded
    process.kill()
    process.communicate()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_reused_process_number_is_not_the_holder(make_store: MakeStore) -> None:
    store = make_store()
    attempt = held(store)
    edit(attempt, pid_start=attempt.record.pid_start - 1)
    assert held(store).n == 2


def test_start_time_survives_odd_command_names(tmp_path: Path) -> None:
    command = tmp_path / "a) Z 1 (b"
    command.symlink_to(sys.executable)
    with subprocess.Popen([command, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = attempts.start_time(process.pid)
        assert attempts.process_is_alive(process.pid, started)
        assert started >= attempts.start_time(os.getpid())
    assert not attempts.process_is_alive(process.pid, started)


@pytest.mark.parametrize(("seconds", "alive"), [(HEARTBEAT_LIMIT_S - 20, True), (121, False)])
def test_on_another_machine_the_heartbeat_decides(
    make_store: MakeStore, seconds: float, alive: bool
) -> None:
    store = make_store()
    attempt = held(store)
    edit(attempt, boot_id="another machine's, or before a reboot")
    age(attempt, seconds)
    assert attempts.is_alive(attempts.latest_attempts(store)[0]) == alive
    assert (begin(store) is None) == alive


needs_mounts = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"),
    reason="only root can mount another /proc and be another user",
)
ASK = """
import sys
from pathlib import Path
from storage_schemas.protocol.attempts import is_alive, latest_attempts
from storage_schemas.protocol.store import Store
print(is_alive(latest_attempts(Store.open(Path(sys.argv[1])))[0]))
"""


def ask(store: Store, *how: str) -> str:
    """Ask elsewhere whether unit 0 of a store is held; from inside pytest's private folder."""
    command = [*how, sys.executable, "-c", ASK, store.path.name]
    answer = subprocess.run(command, cwd=store.path.parent, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@needs_mounts
@pytest.mark.parametrize("hidepid", ["0", "1", "2"])
@pytest.mark.parametrize(("seconds", "alive"), [(0, True), (500, False)])
def test_a_holder_that_proc_hides_is_judged_by_its_heartbeat(
    make_store: MakeStore, hidepid: str, seconds: float, alive: bool
) -> None:
    """Clusters hide other users' processes, so that one that runs looks like none at all."""
    store = make_store()
    age(held(store), seconds)
    mount = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    other = ["setpriv", "--reuid=34567", "--regid=34567", "--clear-groups"]
    found = ask(store, "unshare", "--mount", "sh", "-c", mount, "sh", *other)
    assert found == str(alive or hidepid == "0")


@needs_mounts
@pytest.mark.parametrize(("seconds", "alive"), [(0, True), (500, False)])
def test_a_holder_in_another_container_is_judged_by_its_heartbeat(
    make_store: MakeStore, seconds: float, alive: bool
) -> None:
    """Containers on one machine share its boot, but count their processes apart."""
    store = make_store()
    age(held(store), seconds)
    apart = ("unshare", "--pid", "--fork", "--mount-proc")
    assert ask(store, *apart) == str(alive)


def test_heartbeat_keeps_a_remote_holder_alive(make_store: MakeStore) -> None:
    store = make_store()
    attempt = held(store)
    edit(attempt, boot_id="another machine's")
    age(attempt, 500)
    attempt.heartbeat()
    assert begin(store) is None


def test_superseded_attempt_knows_it_and_disturbs_nobody(make_store: MakeStore) -> None:
    store = make_store()
    old = held(store)
    edit(old, boot_id="another machine's")
    age(old, 500)
    new = held(store)
    old.heartbeat()
    old.finish("failed", error="late")
    with pytest.raises(LostLease, match=f"unit {old.unit}: attempt 1 .* by attempt 2"):
        old.require_lease()
    new.require_lease()
    assert attempts.latest_attempts(store)[0].outcome == "running"
    assert begin(store) is None


def test_generations_are_counted_as_numbers(make_store: MakeStore) -> None:
    store = make_store()
    for n in range(1, 12):
        attempt = held(store)
        assert attempt.n == n
        attempt.finish("stopped")
    assert attempts.latest_attempts(store)[0].n == 11
    assert [record.n for record in attempts.attempts_of(store, 0)] == list(range(1, 12))
    assert attempts.attempts_of(store, 1) == []


def test_the_requeues_of_a_job_are_recorded_beside_its_id(make_store: MakeStore) -> None:
    store = make_store()
    attempts.begin(store, store.units[0], "123_4", 0, restarts=1)
    (record,) = attempts.attempts_of(store, 0)
    assert (record.job, record.restarts) == ("123_4", 1)
    assert record.job_and_restarts == "123_4 restart 1"


@pytest.mark.parametrize("content", [b'{"unit"', b"", b"[]", b'{"unit": "x", "n": "many"}'])
def test_damaged_attempt_counts_as_running_until_it_is_old(
    make_store: MakeStore, content: bytes
) -> None:
    store = make_store()
    attempt = held(store)
    attempt.path.write_bytes(content)
    assert begin(store) is None
    (record,) = attempts.attempts_of(store, 0)
    assert record.error == f"the attempt's record {attempt.path} is damaged"
    age(attempt, 500)
    assert attempts.latest_attempts(store)[0].n == 1
    assert held(store).n == 2


def test_latest_attempts_of_units_in_many_folders(make_store: MakeStore) -> None:
    store = make_store(n_units=600)
    for index in (0, 255, 256, 599):
        held(store, index).finish("stopped")
        held(store, index)
    (store.path / "attempts" / "00" / "00000.3.json.ab.partial").touch()
    latest = attempts.latest_attempts(store)
    assert {index: record.n for index, record in latest.items()} == {
        0: 2,
        255: 2,
        256: 2,
        599: 2,
    }


def test_of_racing_processes_one_gets_each_unit(
    make_store: MakeStore, start_writer: StartWriter, tmp_path: Path
) -> None:
    store = make_store(n_units=150)
    go = tmp_path / "go"
    racers = [start_writer(store.path, "lease", "--go", str(go)) for _ in range(3)]
    go.touch()
    taken = [[int(index) for index in racer.stdout.readline().split()] for racer in racers]
    for racer in racers:
        racer.communicate()
    assert sorted(chain(*taken)) == list(range(150))
    assert len(list((store.path / "attempts" / "00").iterdir())) == 150
    assert sum(bool(units) for units in taken) > 1, "they did not race"
