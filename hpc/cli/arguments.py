"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).", metavar="STUDY")]
RunPath = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", help="Override one key of the study: `--set encoding.folds=4`; repeatable."
    ),
]
ProfileName = Annotated[
    str, typer.Option("--profile", help="A shipped profile's name or the path of a TOML file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Wait = Annotated[bool, typer.Option(help="Stay and drive the run until it ends.")]
Notify = Annotated[
    str | None,
    typer.Option(
        help="A command that is run with a sentence when the run is complete or needs you."
    ),
]
Pilot = Annotated[
    bool,
    typer.Option(
        "--pilot", help="Make one unit of each kind first; plan the others by what it took."
    ),
]
MaxGpuHours = Annotated[
    float | None,
    typer.Option(help="Ask before the run holds GPUs for more hours than this; implies --pilot."),
]
DaskAddress = Annotated[
    str | None,
    typer.Option("--dask", help="Encode on your own Dask scheduler, e.g. tcp://node7:8786."),
]
