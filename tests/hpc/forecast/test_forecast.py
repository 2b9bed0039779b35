"""What `gradenc plan` predicts; times are compared with no clock, whose machine may be busy."""

from dataclasses import replace
from pathlib import Path

import pytest

from gradenc_core.ridge.cost import Shapes, plan_solver
from gradenc_core.ridge.options import RidgeOptions
from hpc.cli.plan import too_long
from hpc.config.profile import Profile, StageProfile, load_profile
from hpc.forecast import timings as calibrate
from hpc.forecast.forecast import StageForecast, forecast, n_processes
from hpc.forecast.timings import ExtractSpeed, time_fit
from hpc.forecast.workload import MEASURED, image_seconds
from hpc.study.study import load_study

GPU_PROFILE = """
name = "gpu"
scheduler = "slurm"
[extract]
slots = 4
gpus_per_node = 2
ranks_per_node = 2
"""


def test_two_ranks_of_dask_do_not_compute() -> None:
    assert n_processes("extract", StageProfile(nodes=2, ranks_per_node=4)) == 8
    assert n_processes("encode", StageProfile(dask_workers=6)) == 6
    assert n_processes("encode", StageProfile(nodes=2, ranks_per_node=4)) == 6


def test_a_gpu_that_is_not_here_is_assumed_and_decoding_limits_it() -> None:
    speed = ExtractSpeed(load_s=1, decode_s=0.01, image_s=2, commit_s=1, flops=1e12)
    assert image_seconds(speed, on_assumed_gpu=False) == (2, MEASURED)
    seconds, basis = image_seconds(speed, on_assumed_gpu=True)
    assert seconds == pytest.approx(0.1)
    assert "assumed" in basis


def test_a_long_fit_is_timed_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "OPERATIONS", 1e9)
    shapes = Shapes(100_000, 2_000, 100_000, 4, 100, 1_000, 1_000)
    options = RidgeOptions(selection="gcv")
    rates = time_fit(shapes, options, banded=False)
    assert set(rates) == {"fit", "bootstrap", "permutations"}
    counted = plan_solver(shapes, options, banded=False).parts
    assert sum(counted[part] * rate for part, rate in rates.items()) > 100


@pytest.mark.parametrize(
    ("scheduler", "minutes", "warned"),
    [("slurm", 480, True), ("slurm", 6000, False), ("local", 480, False)],
)
def test_a_unit_that_no_task_could_finish_is_told(
    scheduler: str, minutes: int, warned: bool
) -> None:
    stage = StageForecast("encode", 1, 1, 1, 1, 1, 1, 0.0, 0.0, 3600 * 90.0, "measured here")
    how = StageProfile(timeout_minutes=minutes)
    said = too_long(stage, Profile(name="lab", scheduler=scheduler, encode=how))
    assert bool(said) == warned
    if said:
        assert "takes 90.0 h but a task is stopped after 480 min" in said
        assert "raise encode.timeout_minutes in the profile lab, or lower encoding.perm" in said
        prepare = too_long(replace(stage, stage="prepare"), Profile(name="lab", scheduler="slurm"))
        assert prepare
        assert prepare.endswith("raise prepare.timeout_minutes in the profile lab.")


def test_gpu_hours_are_those_that_the_profile_holds(small_study: Path, tmp_path: Path) -> None:
    path = tmp_path / "gpu.toml"
    path.write_text(GPU_PROFILE)
    stages = {s.stage: s for s in forecast(load_study(small_study), load_profile(str(path)))}
    extract = stages["extract"]
    assert (extract.array_jobs, extract.tasks) == (1, 4)  # three shards, and stability
    held = 2 * extract.tasks * extract.seconds / 3600
    assert 0 < extract.gpu_hours <= held or extract.gpu_hours == pytest.approx(held)
    assert "assumed" in extract.basis
    assert stages["encode"].gpu_hours == 0
