"""Kill competing writers of stores at random moments, and check that nothing is lost or wrong.

Usage: kill_fuzz.py FOLDER --kills N --seed N

Each round fills a new store: two writers compete for its units, readers compare what is committed,
and the parent kills any of them, damages some units and starts replacements. A round ends with an
undisturbed writer, the repair of what only a deep check finds, the seal, and a comparison with a
store that nobody disturbed. Prints a JSON summary; fails if it lists a violation.

Children are forked, which takes milliseconds where a new interpreter takes a second. So the parent
never uses zarr: its thread would not survive the fork.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import dask
import numpy as np
import xarray as xr
import zarr
from writer import values

from storage_schemas import files
from storage_schemas.layout import ArrayLayout, Layout, Unit
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import (
    commit,
    committed_units,
    is_committed,
    problems,
    withdraw,
)
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import run_digest, seal
from storage_schemas.protocol.store import Store

N_UNITS, PER_UNIT, N_FEATURES = 48, 16, 512
N_STIMULI = N_UNITS * PER_UNIT - 1
WRITERS, READERS = (0, 1), (2, 3)

STEPS = (
    "idle",
    "create",
    "begin",
    "prepare",
    "clear",
    "write",
    "flush",
    "record",
    "link",
    "finish",
)
"""What a writer is doing; only a kill outside `idle` counts."""

DAMAGE_EVERY, DAMAGES = 8, ("truncate", "delete", "flip")
"""Unit 8k + 7 may be damaged by the parent; readers do not look at it."""


class ViolationError(AssertionError):
    """The protocol broke a promise."""


def expect(holds: bool, *promise: object) -> None:
    if not holds:
        raise ViolationError(" ".join(map(str, promise)))


def create(root: Path, round_: int) -> Store:
    """Create or open the round's store; its values depend on the unit alone, as in all rounds."""
    array = ArrayLayout(
        name="features",
        dims=("layer", "stimulus", "feature"),
        shape=(2, N_STIMULI, N_FEATURES),
        dtype="float32",
        chunks=(1, PER_UNIT, N_FEATURES),
        shards=(2, PER_UNIT, N_FEATURES),
        units="1",
        long_name="pooled and projected signal",
    )
    return Store.create(
        root,
        NewStore(
            "extract",
            "features",
            "fuzz",
            {"round": round_},
            Layout((array,), coords(), tuple(map(_unit, range(N_UNITS)))),
            {"model": "tiny", "source": "forward"},
        ),
    )


def coords() -> xr.Dataset:
    return xr.Dataset(
        coords={
            "layer": ("layer", ["conv1", "fc"]),
            "layer_depth": ("layer", [0.0, 1.0]),
            "stimulus": ("stimulus", [f"cats/{i}.png" for i in range(N_STIMULI)]),
            "stimulus_digest": ("stimulus", [f"{i:064x}" for i in range(N_STIMULI)]),
        }
    )


def _unit(index: int) -> Unit:
    start = index * PER_UNIT
    stimuli = (start, min(start + PER_UNIT, N_STIMULI))
    return Unit(index, "u", {}, {"features": [(0, 2), stimuli, (0, N_FEATURES)]})


def find(root: Path) -> Store | None:
    """Return the round's store; one that is still being built has another name."""
    folder = next(root.glob("extract/[!.]*"), None)
    return None if folder is None else Store.open(folder)


def partials(store: Store) -> list[str]:
    parts = (store.data, store.path / "commits")
    return [str(path) for part in parts for path in part.rglob(f"*{files.PARTIAL}")]


def may_be_damaged(index: int) -> bool:
    return index % DAMAGE_EVERY == DAMAGE_EVERY - 1


class Log:
    """What happened when, by all processes: a line, appended in one piece, outlives its writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, event: str, pid: int, round_: int, unit: int = 0, n: int = 0) -> None:
        line = f"{time.monotonic_ns()} {event} {pid} {round_} {unit} {n}\n"
        os.write(self.descriptor, line.encode())

    def read(self) -> Iterator[tuple[int, str, int, int, int, int]]:
        """Yield time (ns), event, process, round, unit and number of the attempt."""
        for line in self.path.read_text().splitlines():
            ns, event, pid, round_, unit, n = line.split()
            yield int(ns), event, int(pid), int(round_), int(unit), int(n)


class Board:
    """Shared memory: the step of each writer and how long its last attempt took."""

    def __init__(self) -> None:
        self._steps = RawArray("i", len(WRITERS))
        self._seconds = RawArray("d", len(WRITERS))
        self._flags = RawArray("i", 1)

    def clear(self, slot: int) -> None:
        self._steps[slot], self._seconds[slot] = 0, 0

    def mark(self, slot: int, step: str) -> None:
        self._steps[slot] = STEPS.index(step)

    def step(self, slot: int) -> str:
        return STEPS[self._steps[slot]]

    def took(self, slot: int, seconds: float) -> None:
        self._seconds[slot] = seconds

    def seconds(self, slot: int) -> float:
        return self._seconds[slot]

    @property
    def stopped(self) -> bool:
        """Whether readers are to stop after their current pass."""
        return bool(self._flags[0])

    @stopped.setter
    def stopped(self, value: bool) -> None:
        self._flags[0] = value


@dataclass(frozen=True)
class Writer:
    """A child that commits what is missing."""

    board: Board
    log: Log
    root: Path
    round_: int
    slot: int

    def __call__(self) -> None:
        sys.addaudithook(self._watch)
        self._mark("idle" if find(self.root) else "create")
        store = create(self.root, self.round_)
        self._mark("idle")
        # Zarr starts its thread now: most kills would else fall there, and few where files change.
        zarr.open_array(store.data / "features", mode="r")
        while missing := [unit for unit in store.units if not is_committed(store, unit)]:
            for unit in missing:
                self._try(store, unit)
            # Another writer may hold the last ones.
            time.sleep(0.001)

    def _try(self, store: Store, unit: Unit) -> None:
        started = time.monotonic()
        attempt = attempts.begin(store, unit, job="fuzz", round_=self.round_)
        if attempt is not None:
            # Logged within the lease: after it was got and before it is given back.
            self._log("begun", attempt)
            self._mark("prepare")
            record = commit(store, unit, values(store, unit), {"pid": os.getpid()}, attempt)
            self._log("committed" if record.attempt == attempt.n else "found", attempt)
            self._mark("finish")
            attempt.finish("committed")
            self.board.took(self.slot, time.monotonic() - started)
        self._mark("idle")

    def _mark(self, step: str) -> None:
        self.board.mark(self.slot, step)

    def _log(self, event: str, attempt: attempts.Attempt) -> None:
        self.log.write(event, os.getpid(), self.round_, attempt.index, attempt.n)

    def _watch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Mark the steps within `begin` and `commit`, as Python's audit events tell them."""
        if event not in ("open", "os.link", "os.remove"):
            return
        step, path = self.board.step(self.slot), str(arguments[0])
        partial = path.endswith(files.PARTIAL)
        if step == "idle" and partial and "attempts" in path:
            self._mark("begin")  # asking for a unit that another holds stays idle
        elif step == "prepare" and event == "os.remove":
            self._mark("clear")
        elif step in ("prepare", "clear") and partial and "data.zarr" in path:
            self._mark("write")
        elif step == "write" and event == "open" and arguments[1] is None:
            self._mark("flush")  # os.open: to flush the shard, then its folders
        elif step == "flush" and partial:
            self._mark("record")
        elif step == "record" and event == "os.link":
            self._mark("link")


@dataclass(frozen=True)
class Reader:
    """A child that reads what is committed, again and again, and compares."""

    board: Board
    log: Log
    root: Path
    round_: int

    def __call__(self) -> None:
        last = False
        while not last:
            # Asked before the pass: the last one begins after everything is sealed.
            last = self.board.stopped
            if store := find(self.root):
                n = self._read(store, last)
                self.log.write("read", os.getpid(), self.round_, n=n)
            # Leaves the processors to the writers.
            time.sleep(0.05)

    def _read(self, store: Store, last: bool) -> int:
        """Compare some units, the last time all; return how many were committed."""
        sealed = store.sealed()
        missing = [unit.index for unit in store.units if not is_committed(store, unit)]
        expect(not (missing if sealed else last), "sealed:", sealed, "not committed:", missing)
        features = store.dataset()["features"]
        units = [unit for unit in store.units if not may_be_damaged(unit.index)]
        chosen = units if last else random.sample(units, 8)
        return sum(self._read_unit(store, unit, features) for unit in chosen)

    def _read_unit(self, store: Store, unit: Unit, features: xr.DataArray) -> bool:
        before = files.read_json(store.record_path(unit))
        if before is None:
            return False
        found = features[:, slice(*unit.regions["features"][1])].to_numpy()
        after = files.read_json(store.record_path(unit))
        expect(after == before, "record changed:", before, after)
        expect(is_committed(store, unit), "record, but not committed:", unit.index)
        wanted = values(store, unit)["features"]
        expect(np.array_equal(found, wanted, equal_nan=True), "wrong data:", before)
        return True


@dataclass
class Child:
    """A forked process."""

    pid: int
    slot: int
    kill_at: float | None = None


@dataclass
class Fuzz:
    """The parent: starts, kills, damages and checks."""

    folder: Path
    target: int
    chance: random.Random
    board: Board = field(default_factory=Board)
    kills: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    children: dict[int, Child] = field(default_factory=dict)
    rounds: int = 0
    idle_kills: int = 0
    reader_kills: int = 0
    abandoned_builds: int = 0
    seconds: float = 0.02
    """Running estimate of the time of an attempt, under whatever load there is."""

    def __post_init__(self) -> None:
        (self.folder / "violations").mkdir(parents=True)
        self.log = Log(self.folder / "log")

    @property
    def n_kills(self) -> int:
        return self.kills.total()

    def run(self) -> None:
        """Do rounds until enough writers were killed at work."""
        try:
            while self.n_kills < self.target:
                self._round()
                self.rounds += 1
        except ViolationError as violation:
            self.violations.append(str(violation))
        finally:
            # Some may have ended meanwhile, having seen the same violation.
            for child in self.children.values():
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
        self.violations += [path.read_text() for path in self.folder.glob("violations/*")]
        self.violations += overlaps(self.log)

    def _round(self) -> None:
        self.root = self.folder / f"round-{self.rounds}"
        self.known: set[int] = set()
        self.damaged: dict[int, str] = {}
        self.board.stopped = False
        for slot in READERS:
            self._start(slot)
        for slot in WRITERS:
            self._start(slot)
        while self.n_kills < self.target and not self._tend():
            time.sleep(0.0005)
        self._end_round()

    def _tend(self) -> bool:
        """Look after the writers once; return True when one has found all units committed."""
        for slot in WRITERS:
            child = self.children[slot]
            if self._has_ended(child):
                return True
            if child.kill_at is None and self.board.step(slot) != "idle":
                child.kill_at = self._draw_moment(self.board.step(slot))
            if child.kill_at is not None and time.monotonic() >= child.kill_at:
                self._kill_writer(child)
                self._check()
                self._disturb()
                self._start(slot)
        return False

    def _draw_moment(self, step: str) -> float:
        """Return when to kill a writer that has just begun its first work."""
        # A store takes longer to create than a unit to commit, and is to be created at times.
        longest = 6 if step == "create" else 3
        return time.monotonic() + self.chance.uniform(0, longest * self.seconds)

    def _kill_writer(self, child: Child) -> None:
        self._kill(child)
        step, took = self.board.step(child.slot), self.board.seconds(child.slot)
        if step == "idle":
            self.idle_kills += 1
        else:
            self.kills[step] += 1
        # Only attempts that ended are timed: without the growth a sudden load would end none.
        self.seconds = 0.8 * self.seconds + 0.2 * took if took else 1.05 * self.seconds

    def _check(self) -> None:
        """Nothing that was committed is lost, apart from what was damaged."""
        if (store := find(self.root)) is None:
            return
        now = committed_units(store)
        expect(not (lost := self.known - now - self.damaged.keys()), "lost:", lost)
        self.known = now
        whole = sorted(now - self.damaged.keys())
        for index in self.chance.sample(whole, min(2, len(whole))):
            complaints = problems(store, store.units[index], deep=True)
            expect(not complaints, "committed, but:", complaints)

    def _disturb(self) -> None:
        if self.chance.random() < 0.1:
            slot = self.chance.choice(READERS)
            self._kill(self.children[slot])
            self.reader_kills += 1
            self._start(slot)
        whole = [index for index in self.known if may_be_damaged(index)]
        whole = [index for index in whole if index not in self.damaged]
        if whole and self.chance.random() < 0.2:
            self._damage(self.chance.choice(whole))

    def _damage(self, index: int) -> None:
        """Harm a unit's file, as disks and users do; no writer touches a committed unit."""
        store = find(self.root)
        assert store is not None
        path = store.data / store.owned_files(store.units[index])[0]
        damage = self.chance.choice(DAMAGES)
        # Remembered first: it excuses what follows.
        self.damaged[index] = damage
        self.damages[damage] += 1
        size = path.stat().st_size
        if damage == "truncate":
            os.truncate(path, self.chance.randrange(size))
        elif damage == "delete":
            path.unlink()
        else:
            flip_byte(path, self.chance.randrange(size))

    def _end_round(self) -> None:
        for slot in WRITERS:
            if slot in self.children:
                self._kill_writer(self.children[slot])
        self._check()
        clean = self.folder / f"clean-{self.rounds}"
        self._do(Writer(self.board, self.log, self.root, self.rounds, slot=0))
        self._do(self._repair_and_seal)
        self.board.stopped = True
        for slot in READERS:
            self._join(self.children[slot])
        self._do(lambda: make_clean(clean, self.rounds))
        self._do(lambda: compare(self.root, clean))
        hidden = [path for path in (self.root / "extract").iterdir() if path.name.startswith(".")]
        self.abandoned_builds += len(hidden)
        for folder in (self.root, clean):
            shutil.rmtree(folder)

    def _repair_and_seal(self) -> None:
        store = find(self.root)
        assert store is not None
        bad = {unit.index for unit in store.units if problems(store, unit, deep=True)}
        flipped = {index for index, damage in self.damaged.items() if damage == "flip"}
        expect(bad == flipped, "bad after all was committed:", bad, "flipped:", flipped)
        for index in sorted(bad):
            withdraw(store, store.units[index])
        Writer(self.board, self.log, self.root, self.rounds, slot=0)()
        seal(store)

    def _start(self, slot: int) -> None:
        work: Callable[[], None] = Reader(self.board, self.log, self.root, self.rounds)
        if slot in WRITERS:
            work = Writer(self.board, self.log, self.root, self.rounds, slot)
            self.board.clear(slot)
        self.children[slot] = Child(self._fork(work), slot)

    def _do(self, work: Callable[[], None]) -> None:
        """Do work in a child that is not disturbed."""
        self.children[-1] = Child(self._fork(work), -1)
        self._join(self.children[-1])

    def _fork(self, work: Callable[[], None]) -> int:
        if pid := os.fork():
            return pid
        try:
            work()
            os._exit(0)
        except BaseException:
            path = self.folder / "violations" / str(os.getpid())
            path.write_text(traceback.format_exc())
        finally:
            os._exit(1)

    def _kill(self, child: Child) -> None:
        # Taken before the signal. A later moment (its reaping) would fall behind its death, and
        # another writer may rightly take over before the parent knows of it.
        self.log.write("killed", child.pid, self.rounds)
        os.kill(child.pid, signal.SIGKILL)
        self._reap(child, os.waitpid(child.pid, 0)[1])

    def _has_ended(self, child: Child) -> bool:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            self._reap(child, status)
        return bool(pid)

    def _join(self, child: Child) -> None:
        self._reap(child, os.waitpid(child.pid, 0)[1])

    def _reap(self, child: Child, status: int) -> None:
        del self.children[child.slot]
        code = os.waitstatus_to_exitcode(status)
        expect(code in (0, -signal.SIGKILL), f"child {child.pid} ended with", code)

    def summary(self) -> dict[str, object]:
        events = list(self.log.read())
        counts = Counter(event for _, event, *_ in events)
        return {
            "kills": self.n_kills,
            "steps": {step: self.kills[step] for step in STEPS if self.kills[step]},
            "idle_kills": self.idle_kills,
            "reader_kills": self.reader_kills,
            "rounds": self.rounds,
            "attempts": counts["begun"],
            "commits": counts["committed"],
            "units_read": sum(n for _, event, *_, n in events if event == "read"),
            "damaged": dict(self.damages),
            "abandoned_builds": self.abandoned_builds,
            "violations": self.violations,
        }


def flip_byte(path: Path, position: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        (byte,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


def make_clean(root: Path, round_: int) -> None:
    store = create(root, round_)
    for unit in store.units:
        attempt = attempts.begin(store, unit, job="clean", round_=0)
        assert attempt is not None
        commit(store, unit, values(store, unit), {}, attempt)
        attempt.finish("committed")
    seal(store)


def compare(root: Path, clean_root: Path) -> None:
    """A sealed store has what an undisturbed one has, and nothing else."""
    store, clean = find(root), find(clean_root)
    assert store is not None
    assert clean is not None
    sealed, wanted = store.sealed(), clean.sealed()
    expect(sealed is not None and sealed == wanted, "seals differ:", sealed, wanted)
    expect(run_digest([store]) == run_digest([clean]), "digests differ")
    ours, theirs = store.dataset().load(), clean.dataset().load()
    expect(ours.identical(theirs), "coordinates or attributes differ")
    found = ours["features"].to_numpy().tobytes()
    expect(found == theirs["features"].to_numpy().tobytes(), "features differ")
    made = np.concatenate([values(store, unit)["features"] for unit in store.units], axis=1)
    expect(found == made.tobytes(), "features are not what was committed")
    expect(not partials(store), "orphans:", partials(store))
    names = [sorted(p.relative_to(s.data) for p in s.data.rglob("*")) for s in (store, clean)]
    expect(names[0] == names[1], "files differ:", set(names[0]) ^ set(names[1]))


def overlaps(log: Log) -> list[str]:
    """Return the units that two attempts held at once."""
    return [
        f"round {round_} unit {unit}: attempts {first} and {second} overlap"
        for (round_, unit), spans in intervals(log).items()
        for first, second in pairwise(sorted(spans))
        if second[0] < first[1] or second[2] <= first[2]
    ]


def intervals(log: Log) -> dict[tuple[int, int], list[tuple[int, float, int]]]:
    """Return the (beginning, end, n) of all attempts, by round and unit."""
    attempt_events, died = [], {}
    for ns, event, pid, round_, unit, n in log.read():
        if event == "killed":
            died[pid, round_] = ns
        elif event != "read":
            attempt_events.append((ns, event, (pid, round_, unit, n)))
    ended = {attempt: ns for ns, event, attempt in attempt_events if event != "begun"}
    spans = defaultdict(list)
    for ns, event, attempt in attempt_events:
        if event == "begun":
            pid, round_, unit, n = attempt
            end = ended.get(attempt, died.get((pid, round_), float("inf")))
            spans[round_, unit].append((ns, end, n))
    return spans


def warm_up() -> None:
    """Have xarray look up and import here, once, what it otherwise does in every child."""
    xr.backends.list_engines()
    coords().chunk()
    # Else dask asks `distributed`, whose import takes half a second, for a cluster.
    dask.config.set(scheduler="synchronous")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    warm_up()
    fuzz = Fuzz(options.folder.absolute(), options.kills, random.Random(options.seed))
    fuzz.run()
    print(json.dumps(fuzz.summary()))
    sys.exit(bool(fuzz.violations))


if __name__ == "__main__":
    main()
