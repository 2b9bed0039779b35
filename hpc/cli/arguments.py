"""Arguments and options shared by several commands."""

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
    str, typer.Option("--profile", help="A shipped profile's name, or the path of a TOML file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Wait = Annotated[bool, typer.Option(help="Stay and go on until the run ends.")]
Notify = Annotated[
    str | None,
    typer.Option(help="A command to call with one sentence when the run is complete or needs you."),
]
Pilot = Annotated[
    bool,
    typer.Option(
        "--pilot", help="Run one unit of each kind first, then size the other tasks by its time."
    ),
]
MaxGpuHours = Annotated[
    float | None,
    typer.Option(
        help="Stop and ask before the run uses more GPU hours than this; implies --pilot."
    ),
]
DaskAddress = Annotated[
    str | None,
    typer.Option("--dask", help="Encode on your own Dask scheduler, e.g. tcp://node7:8786."),
]
