"""Outputs of SLURM's commands, recorded on a real cluster (version 22.05).

The first line of a recording is the command, a last one that begins with `#` its exit code and what
it wrote to stderr. Those in `slurm/recorded/by_hand` are written from the manual, for states that
such a cluster cannot produce.
"""

import hashlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradenc_core.signals.sizes import Parts
from hpc.config.profile import StageProfile
from hpc.node.payload import Payload
from hpc.run.advance import create_stores, items, plan_stage
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.state import stage_state
from hpc.run.submissions import Submission, TaskJob
from hpc.slurm import accounting, queue
from hpc.slurm.jobs import Job
from hpc.study.resolved import Resolved, ResolvedModel, ResolvedSource, Subject
from hpc.study.study import Study
from jobs.drill import Drill
from jobs.runner import run_items
from jobs.spec import STAGES, BankImages, ModelSpec
from storage_schemas.protocol.seal import seal

FOLDER = Path(__file__).parent / "slurm" / "recorded"


@dataclass(frozen=True)
class Recording:
    """What one command printed and how it ended."""

    command: str
    stdout: str
    code: int = 0
    stderr: str = ""


@pytest.fixture(scope="session")
def drilled() -> Callable[..., RunFolder]:
    """Return a function that runs the first stages of a drill in this process.

    They are sealed, except the last of them, whose units are left as they are.
    """

    def run(path: Path, n_stages: int, units: int = 4, **drill: Any) -> RunFolder:
        wanted = Drill(units=dict.fromkeys(STAGES, units), seconds=0.0, values=8, **drill)
        folder = start_drill(path, wanted)
        for number, stage in enumerate(list(STAGES)[:n_stages], 1):
            stores = create_stores(folder, stage, plan_stage(folder, stage))
            if number < n_stages:
                compute(folder, stage)
                for store in stores:
                    seal(store)
        return folder

    return run


@pytest.fixture(scope="session")
def computed() -> Callable[..., None]:
    """Return the function that computes the pending units of a stage in this process."""
    return compute


def compute(run: RunFolder, stage: str, job: str = "test", round_: int = 0) -> None:
    """Compute the pending units of a stage in this process."""
    pending = items(stage_state(run, stage, run.stores(stage)))
    run_items(pending, root=run.root, job=job, round_=round_, micro_batch=1, threads=1)


@pytest.fixture(scope="session")
def left() -> Callable[..., Submission]:
    """Return a function that leaves the folder of a submission to SLURM, one job per slice."""

    def leave(run: RunFolder, stage: str, slices: list, jobs: bool = True, **given: Any):
        number = 1 + len(list((run.path / "submissions").glob("*")))
        path = run.path / "submissions" / f"{number:04d}"
        path.mkdir(parents=True)
        known: dict[str, Any] = {
            "version": "0",
            "name": f"gradenc-test-{number:04d}",
            "stage": stage,
            "round": run.round,
            "root": "../../stores",
            "scheduler": "slurm",
            "engine": "serial",
            "dask": None,
            "memory": None,
            "gpus": (),
            "asked": StageProfile(),
            "slices": slices,
        }
        Payload(**known | given).write(path)
        made = Submission(path)
        if jobs:
            made.note_jobs([TaskJob(f"{number}_{index}") for index in range(len(slices))])
        return made

    return leave


@pytest.fixture(scope="session")
def read():
    """Return the function that reads a recording."""
    return _read


@pytest.fixture(scope="session")
def read_jobs():
    """Return the function that reads a recording's jobs by their number."""

    def jobs(name: str) -> dict[str, Job]:
        parse = queue.parse if name.startswith("squeue") else accounting.parse
        return {job.job_id: job for job in parse(_read(name).stdout)}

    return jobs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function that puts commands on the path which print recordings.

    Where one command is asked several things, its recordings are given by a pattern of the shell
    for the arguments. What was asked is in the file ``calls-COMMAND`` of the folder returned.
    """
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def install(**recordings: str | dict[str, str]) -> Path:
        for command, answers in recordings.items():
            cases = answers if isinstance(answers, dict) else {"*": answers}
            answer = "".join(f"{pattern}) {_answer(name)};;\n" for pattern, name in cases.items())
            script = tmp_path / command
            script.write_text(
                f'#!/bin/sh\necho "$*" >> {tmp_path}/calls-{command}\n'
                f'case "$*" in\n{answer}*) exit 99;;\nesac\n'
            )
            script.chmod(0o755)
        return tmp_path

    return install


def _answer(name: str) -> str:
    """Return shell commands that print a recording and exit as it did."""
    heard = _read(name)
    said, complained = shlex.quote(heard.stdout), shlex.quote(heard.stderr)
    return f"printf %s {said}; printf %s {complained} >&2; exit {heard.code}"


def _read(name: str) -> Recording:
    first, _, rest = (FOLDER / f"{name}.txt").read_text().partition("\n")
    command = first.removeprefix("$ ")
    ended = re.search(r"(?ms)^# (\d+): (.*)\Z", rest)
    if ended is None:
        return Recording(command, rest)
    return Recording(command, rest[: ended.start()], int(ended[1]), ended[2])


@pytest.fixture(scope="session")
def paper_study():
    """Return a function that makes a resolved study on paper: no network, image or recording.

    Its arguments are the stimuli that each subject of fMRI or MEG saw, and keys of the study that
    replace the small ones given here.
    """
    return _paper_study


def _paper_study(
    fmri: Mapping[str, list[str]],
    meg: Mapping[str, list[str]] | None = None,
    models: tuple[str, ...] = ("net",),
    categories: Mapping[str, str] | None = None,
    **keys: Any,
) -> tuple[Study, Resolved, list[Subject]]:
    meg = meg or {}
    ids = sorted({name for seen in (*fmri.values(), *meg.values()) for name in seen})
    study = Study.model_validate(_PAPER | {"models": [_PAPER_MODEL | {"name": m} for m in models]})
    encoding = study.encoding.model_copy(update=keys.pop("encoding", {}))
    study = study.model_copy(update={**keys, "encoding": encoding})
    bank, few = BankImages(n_images=300), BankImages(n_images=16)
    source = ResolvedSource(needs_bank=False, plugin=None, head=None, locations={})
    resolved = Resolved(
        study={},
        stimuli="images",
        stimulus_ids=tuple(ids),
        stimulus_digests=tuple(hashlib.sha256(name.encode()).hexdigest() for name in ids),
        categories=None if categories is None else tuple(categories[name] for name in ids),
        models=tuple(_paper_model(name) for name in models),
        gradients={
            "gradient:energy": source,
            "gradient:dino": source.model_copy(update={"needs_bank": True}),
        },
        bank=bank,
        class_images=few,
        scale_images=few,
    )
    subjects = [_paper_subject(name, "fmri", seen) for name, seen in fmri.items()]
    subjects += [_paper_subject(name, "meg", seen) for name, seen in meg.items()]
    return study, resolved, subjects


_PAPER_MODEL = {"library": "timm", "architecture": "x", "weights": "untrained"}
_PAPER = {
    "name": "paper",
    "stimuli": "images",
    "objectives": ["energy", "dino"],
    "projection": 16,
    "responses": [{"reader": "bids", "path": "bids"}],
    "encoding": {
        "folds": 3,
        "bootstrap": 2,
        "permutations": 3,
        "windows": {"early": [0.0, 0.15], "late": [0.15, 0.3]},
    },
    "extraction": {"stimuli_per_shard": 8},
}


def _paper_model(name: str) -> ResolvedModel:
    steps = {"image_size": 32, "resize_size": 32, "squash": False, "interpolation": "bilinear"}
    scale = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return ResolvedModel(
        name=name,
        control=False,
        spec=ModelSpec(
            **_PAPER_MODEL,
            weights_digest=None,
            seed=0,
            image_size=None,
            preprocessing=steps | scale,
        ),
        layers=(("first", 0.5), ("last", 1.0)),
        widths=(24, 40),
        n_channels=12,
        n_parameters=1_000_000,
        layer_values=(600, 400),
        baseline_parts=(Parts((30,), 1), Parts((50,), 1)),
        n_classes=10,
        n_head=0,
    )


def _paper_subject(name: str, modality: str, seen: list[str]) -> Subject:
    # Imported here: it takes seconds, and most tests of this room need none of it.
    from gradenc_core.recordings.repeats import ResponseDescription
    from hpc.forecast.shapes import Recordings

    sizes = {"voxels": 6, "regions": 2} if modality == "fmri" else {"sensors": 3}
    short = {"sampling_hz": 20.0, "tmin": 0.0, "tmax": 0.3} if modality == "meg" else {}
    recordings = Recordings(modality=modality, stimuli=max(len(seen), 1), **sizes, **short)
    return Subject(
        reader={"fmri": "bids", "meg": "epochs"}[modality],
        options={},
        folder=Path("recordings"),
        description=ResponseDescription(
            subject=name,
            modality=modality,
            stimuli=tuple(seen),
            n_repeats=np.full(len(seen), 3.0),
            sessions=("",) * len(seen),
            coords=recordings.coords("V1"),
            files={"planned": name},
        ),
    )
