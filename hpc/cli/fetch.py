"""`gradenc fetch`: a study's pretrained weights, for nodes without internet."""

from rich.console import Console
from rich.filesize import decimal

from hpc.cli.arguments import Overrides, StudyFile

REMEDY = (
    "Compute nodes find them there if they see these folders. If not, set TORCH_HOME and HF_HOME "
    "to folders of a shared file system, here and in the profile's `setup`, and fetch again. With "
    "`export HF_HUB_OFFLINE=1` in `setup`, nodes without internet do not wait for an answer."
)


def fetch(
    study: StudyFile,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
) -> None:
    """Download the pretrained weights that a study names, and say where they are.

    Run it on a login node with internet. `plan` and `submit` load them from there too, so a study
    whose weights are missing is refused before anything runs.

    Example: `gradenc fetch study.yaml`
    """
    from hpc.study.fetch import fetch as fetch_weights
    from hpc.study.study import load_study

    console = Console(highlight=False, soft_wrap=True)
    loaded = load_study(study, overrides)
    n = 0
    with console.status("fetching weights"):
        for found in fetch_weights(loaded):
            console.print(f"{found.model}: {found.path} ({decimal(found.n_bytes)})", markup=False)
            n += 1
    console.print(REMEDY if n else "The study names no pretrained weights: nothing to fetch.")
