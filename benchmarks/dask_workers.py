"""What a second Dask worker brings to the encode stage; prints one JSON line last.

Twelve units of a small planted study are fitted, each by one thread of BLAS, in turn by one worker
and by two; the workers are up, with everything imported, before the clock starts. Every run fits
new stores (another seed of the resampling), so that nothing is found done.

speedup_workers, at least 1.5
    Wall time with one worker / with two; median of the pairs, with p10 and p90.
worker_busy_share, at least 0.9
    Time inside units / (workers x wall), of the runs with two workers; median.
unit_s
    Shortest time inside a unit (s), at least 2.

Usage: python benchmarks/dask_workers.py [--pairs N] [--bootstrap N] [--toy]

`--toy` runs the same steps on a tiny study; its figures mean nothing.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from _timing import in_turn, print_json, print_rows, ratios
from distributed import Client

from gradenc_core.planted.study import write_planted_study
from gradenc_core.planted.truth import Sizes
from hpc.node.dask import local_workers, map_items
from hpc.plan.store_plan import StorePlan
from hpc.run.advance import create_stores, plan_stage
from hpc.run.folder import RunFolder
from hpc.run.start import start
from hpc.study.study import load_study
from jobs.runner import run_items
from storage_schemas.protocol.attempts import latest_attempts
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

N_STIMULI, TOY_STIMULI = 400, 64
LAYERS = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
SIZES = Sizes(fmri_subjects=1, meg_subjects=1, sessions=2)


@dataclass
class Trials:
    """A run whose features are sealed, and what fits them again and again."""

    run: RunFolder
    plans: list[StorePlan]
    bootstrap: int
    done: int = 0

    def stores(self) -> list[Store]:
        """Create the stores of a new trial."""
        self.done += 1
        return [self._with_seed(plan, self.done).create(self.run.root) for plan in self.plans]

    def _with_seed(self, plan: StorePlan, seed: int) -> StorePlan:
        changed = {"seed": seed, "bootstrap": self.bootstrap}
        encoding = plan.spec.encoding.model_copy(update=changed)
        return replace(plan, spec=plan.spec.model_copy(update={"encoding": encoding}))


def prepared(folder: Path, n_stimuli: int, layers: list[str], bootstrap: int) -> Trials:
    """Write the study and make everything that encoding needs."""
    write_planted_study(folder, folder / "truth.json", "plausible_backprop", 0, n_stimuli, SIZES)
    study = {
        "name": "workers",
        "stimuli": "stimuli",
        "models": [
            {
                "name": "planted",
                "library": "torchvision",
                "architecture": "resnet18",
                "weights": "untrained",
                "image_size": 64,
            }
        ],
        "layers": layers,
        "objectives": ["classification"],
        "projection": 64,
        "responses": [{"reader": "epochs", "path": "meg"}],
        "encoding": {"baseline_width": 4, "bootstrap": bootstrap, "permutations": 60},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    run = start(load_study(folder / "study.yaml"), folder / "run")
    for stage in ("prepare", "ingest", "extract"):
        stores = run.stores(stage) or create_stores(run, stage, plan_stage(run, stage))
        run_items(items(run, stores), **how(run))
        for store in stores:
            seal(store)
    scores = [plan for plan in plan_stage(run, "encode") if plan.kind == "scores"]
    # Banded fits take several times as long; equal units leave no worker waiting for the last.
    plans = [
        plan for plan in scores if plan.attrs["bands"] in ("forward", "gradient:classification")
    ]
    return Trials(run, plans, bootstrap)


def items(run: RunFolder, stores: list[Store]) -> list[list[tuple[str, int]]]:
    return [
        [(store.path.relative_to(run.root).as_posix(), unit.index)]
        for store in stores
        for unit in store.units
    ]


def how(run: RunFolder) -> dict[str, Any]:
    return {"root": run.root, "job": "benchmark", "round_": 0, "micro_batch": 32, "threads": 1}


def fit(trials: Trials, client: Client, used: list[list[float]]) -> None:
    """Fit all units of a new trial and note how long each took."""
    stores = trials.stores()
    map_items(client, items(trials.run, stores), how(trials.run), lambda: False, lambda _: None)
    attempts = [attempt for store in stores for attempt in latest_attempts(store).values()]
    assert all(attempt.outcome == "committed" for attempt in attempts), attempts
    used.append([attempt.used.seconds for attempt in attempts])


def measured(trials: Trials, pairs: int) -> dict[str, float]:
    one_used: list[list[float]] = []
    two_used: list[list[float]] = []
    with local_workers(1) as one, local_workers(2) as two:
        one.wait_for_workers(1)
        two.wait_for_workers(2)
        for client in (one, two):
            client.run(import_module, "jobs.encode")
        first, second = partial(fit, trials, one, one_used), partial(fit, trials, two, two_used)
        times = [in_turn(first, second, swap=bool(pair % 2)) for pair in range(pairs)]
    busy = [sum(used) / (2 * wall) for used, (_, wall) in zip(two_used, times, strict=True)]
    return {
        **{f"speedup_workers{end}": value for end, value in ratios(times).items()},
        "worker_busy_share": statistics.median(busy),
        "unit_s": min(value for used in one_used for value in used),
        "units": len(one_used[0]),
        "wall_one_s": statistics.median(wall for wall, _ in times),
        "wall_two_s": statistics.median(wall for _, wall in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--toy", action="store_true", help="a tiny study: does it still run?")
    options = parser.parse_args()
    n_stimuli, layers = N_STIMULI, LAYERS
    if options.toy:
        n_stimuli, layers, options.bootstrap, options.pairs = TOY_STIMULI, LAYERS[-1:], 5, 1
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="gradenc-workers-") as folder:
        trials = prepared(Path(folder), n_stimuli, layers, options.bootstrap)
        values = measured(trials, options.pairs)
    print_rows("Dask workers", [values])
    print_json(values)


if __name__ == "__main__":
    main()
