"""What `gradenc plan` predicts of the demo's run on this machine, against the run itself.

    python benchmarks/plan.py          # about five minutes on 2 cores; one line of JSON last
    python benchmarks/plan.py --toy    # a tiny study, to see that it runs; its figures mean nothing

Seconds of the stages whose units are timed, extract and encode, on the profile `local`: predicted
before anything runs, and from the submission of a stage to the end of its last task.

factor
    Of either stage, the larger of real / predicted and predicted / real. To reach: 1.5.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from _timing import Line, print_json, print_lines, print_rows

from hpc.config.profile import load_profile
from hpc.demo import write_demo_study
from hpc.forecast.forecast import forecast
from hpc.run.drive import drive
from hpc.run.folder import RunFolder
from hpc.run.start import start
from hpc.run.submissions import submissions
from hpc.study.study import load_study

STAGES = ("extract", "encode")
TOY_STIMULI = 64
TOY_KEYS = (
    "models=[{name: planted, library: torchvision, architecture: resnet18, weights: untrained, "
    "image_size: 64}]",
    "responses=[{reader: bids, path: bids}]",
    "layers=[layer1.0, layer4.1]",
    "encoding.bootstrap=3",
    "encoding.permutations=3",
    "unrecorded_images=null",
    "encoding.baseline_width=4",
    "encoding.blocks=5",
)


def main() -> None:
    profile, scenario = load_profile("local"), "plausible_backprop"
    with TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        if "--toy" in sys.argv:
            study = load_study(
                write_demo_study(folder, scenario, n_stimuli=TOY_STIMULI), list(TOY_KEYS)
            )
        else:
            study = load_study(write_demo_study(folder, scenario))
        predicted = {stage.stage: stage.seconds for stage in forecast(study, profile)}
        run = start(study, folder / "run", profile)
        run.keep_profile(profile)
        drive(run, profile)
        real = {stage: seconds(run, stage) for stage in STAGES}
    rows = [
        {"stage": stage, "predicted_s": predicted[stage], "real_s": real[stage]} for stage in STAGES
    ]
    print_rows("the demo on this machine", rows)
    ratios = [real[stage] / predicted[stage] for stage in STAGES]
    values = {"stages": rows, "factor": max(max(ratio, 1 / ratio) for ratio in ratios)}
    print_lines("gradenc plan", [Line("factor", "prediction is off by a factor of", 1.5)], values)
    print_json(values)


def seconds(run: RunFolder, stage: str) -> float:
    """Return the wall time of a stage, which one submission has run."""
    (own,) = [submission for submission in submissions(run) if submission.stage == stage]
    begun, ended = (own.path / name for name in ("units.json", "outcome.json"))
    return ended.stat().st_mtime - begun.stat().st_mtime


if __name__ == "__main__":
    main()
