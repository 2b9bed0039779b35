"""A study and its run, for notebooks: the same run that the `gradenc` command drives, quietly.

Whatever this module starts can be followed, resumed and read by the command, and the other way
round: both go through the same functions and the run's folder is all they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from hpc.config.profile import Profile, load_profile
from hpc.forecast.forecast import forecast
from hpc.inspect.status import run_status
from hpc.run.drive import Progress, drive, step
from hpc.run.folder import RunFolder
from hpc.run.resume import resume
from hpc.run.start import start
from hpc.run.state import Status
from hpc.study import study as files
from jobs.export import export
from storage_schemas import open_run
from storage_schemas.kinds.comparisons import JUDGED_TABLES, NOT_JUDGED, ORDERS
from storage_schemas.results.select import average, select

COUNTS: tuple[Status, ...] = ("committed", "running", "failed", "pending")


@dataclass(frozen=True)
class Study:
    """A study file that has been read and checked for its form.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import gradenc as ge
    >>> path = Path(mkdtemp()) / "study.yaml"
    >>> _ = path.write_text('''
    ... name: faces
    ... stimuli: stimuli
    ... models: [{name: net, library: torchvision, architecture: resnet18, weights: untrained}]
    ... responses: [{reader: bids, path: bids}]
    ... ''')
    >>> study = ge.Study.load(path, set=["encoding.folds=4"])
    >>> study.name
    'faces'
    """

    _study: files.Study

    @classmethod
    def load(cls, path: str | Path, set: Sequence[str] = ()) -> Study:
        """Read a study file.

        Parameters
        ----------
        path : str or Path
            A YAML file; `gradenc init` writes a commented one.
        set : sequence of str
            Keys to override, such as "encoding.folds=4".

        Raises
        ------
        StudyError
            With one line for every problem.
        """
        return cls(files.load_study(Path(path), set))

    @property
    def name(self) -> str:
        """The study's name."""
        return self._study.name

    def plan(self, profile: str = "local") -> pd.DataFrame:
        """Check all that the study names, and forecast its run without starting anything.

        Parameters
        ----------
        profile : str
            Name of a shipped profile, or the path of a file.

        Returns
        -------
        pandas.DataFrame
            One row per stage: stores, units, files, bytes (uncompressed), tasks, seconds, GPU
            hours, and what the times rest on.

        Raises
        ------
        StudyError, ValueError, OSError
            Something that the study names is missing or damaged, or a process would lack memory.
        """
        stages = forecast(self._study, load_profile(profile))
        return pd.DataFrame([asdict(stage) for stage in stages]).set_index("stage")

    def run(
        self,
        folder: str | Path | None = None,
        profile: str = "local",
        progress: Progress | None = None,
        wait: bool = True,
    ) -> Run:
        """Run whatever is missing of the study, and return when it is complete or needs you.

        Parameters
        ----------
        folder : str or Path, optional
            The run's folder; by default `runs/<name of the study>`.
        profile : str
            Name of a shipped profile, or the path of a file.
        progress : callable, optional
            Called after every step with the state of each stage.
        wait : bool
            If false, submit the first tasks and return; `resume` goes on.

        Returns
        -------
        Run
            `status()` says what failed, if anything did.

        Raises
        ------
        StudyError, ValueError, OSError
            As for `plan`, or the folder holds the run of another study.
        KeyboardInterrupt
            If interrupted. Tasks on this machine are ended, jobs of a cluster go on;
            `Run.open(folder).resume()` continues.
        """
        how = load_profile(profile)
        path = Path(folder) if folder is not None else Path("runs") / self.name
        return _driven(start(self._study, path, how), how, progress, wait)


@dataclass(frozen=True)
class Run:
    """The run of a study: how far it is, and its results.

    Examples
    --------
    >>> import gradenc as ge
    >>> from tempfile import mkdtemp
    >>> ge.Run.open(mkdtemp())
    Traceback (most recent call last):
    ...
    FileNotFoundError: ...
    """

    _run: RunFolder

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open the run in a folder.

        Raises
        ------
        FileNotFoundError, ValueError
            The folder holds no run, or one that is damaged.
        """
        return cls(RunFolder.open(Path(folder)))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._run.path

    @property
    def results(self) -> xr.DataTree:
        """Everything that the run has made, labelled and lazily loaded; see `open_run`."""
        return open_run(self.folder)

    @property
    def state(self) -> str:
        """Where the run stands: complete, at work, idle, needs you, cancelled or unknown."""
        return str(run_status(self._run).phase)

    def status(self) -> pd.DataFrame:
        """Return how far each stage is.

        Returns
        -------
        pandas.DataFrame
            One row per stage: whether it is planned and sealed, its units (all, committed, running,
            failed, pending), and in `failure` why the stage waits for you, the most frequent error,
            or how its tasks ended; empty where all is well.
        """
        found = run_status(self._run)
        rows: list[dict[str, object]] = []
        for name, stage in found.stages.items():
            state = stage.state
            alike = sorted((x for x in found.failures if x.stage == name), key=lambda x: -x.units)
            reasons = [stage.decision, *(x.error for x in alike)]
            reasons += [ended.sentence for ended in found.ended if ended.stage == name]
            rows.append(
                {
                    "stage": name,
                    "planned": state.planned,
                    "sealed": state.sealed,
                    "units": len(state.units),
                    **{str(count): state.count(count) for count in COUNTS},
                    "failure": next(filter(None, reasons), ""),
                }
            )
        return pd.DataFrame(rows).set_index("stage")

    def verdicts(self) -> pd.DataFrame:
        """Return the verdict on every model's learning signals, and the numbers it rests on.

        Returns
        -------
        pandas.DataFrame
            One row per model and signal: `verdict` by name, the `sentence` that explains it, `p` of
            what gradients predict beyond the baseline in any modality, and what each order's
            verdict rests on, such as `spatial_backprop_p` or `temporal_power` (NaN where that
            modality was not recorded).

        Raises
        ------
        ValueError
            The run is not complete, or is a drill, which computes nothing.
        """
        results = self.results
        if "comparisons" not in results.children:
            raise ValueError(
                f"{self.folder} holds no comparisons: it is the run of a drill, which computes "
                "nothing; open the run of a study"
            )
        rows: list[dict[str, object]] = []
        for model, node in results["comparisons"].children.items():
            tables = node.to_dataset().load()
            for signal in tables["signal"].values[(tables["verdict"] != NOT_JUDGED).values]:
                judged = tables.sel(signal=signal)
                rows.append(
                    {
                        "model": model,
                        "control": bool(tables.attrs["control"]),
                        "signal": signal,
                        "verdict": judged["verdict"].item(),
                        "sentence": judged["sentence"].item(),
                        **_numbers(tables, signal),
                    }
                )
        return pd.DataFrame(rows)

    def export(
        self,
        path: str | Path,
        leaf: str,
        var: str,
        mean: Sequence[str] = (),
        surface: str | Path | None = None,
        **labels: Any,
    ) -> Path:
        """Write a selection of the results for other programs.

        Parameters
        ----------
        path : str or Path
            The ending says what is written: .nii.gz, .func.gii, -ave.fif, .csv, .parquet or .nc.
        leaf : str
            Where in `results`, such as "scores/dinov3/sub-01/fmri".
        var : str
            The variable, such as "r".
        mean : sequence of str
            Dimensions to average over, such as ["fold"].
        surface : str or Path, optional
            For GIFTI: the subject's .surf.gii in scanner space.
        **labels
            Labels to select, such as `layer="blocks.7"` or `roi=["V1", "V4"]`.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            There is no such leaf, variable or label, or the format cannot hold the dimensions.
        """
        tree = self.results
        leaves = {node.path.strip("/"): node for node in tree.leaves}
        if leaf not in leaves:
            raise ValueError(f"there is no {leaf} in the results; there are {', '.join(leaves)}")
        chosen = select(leaves[leaf].to_dataset(), labels)
        if var not in chosen.data_vars:
            raise ValueError(f"{leaf} has no {var}; it has {', '.join(map(str, chosen.data_vars))}")
        others = [name for name in chosen.data_vars if name != var]
        surface = None if surface is None else Path(surface)
        data = average(chosen.drop_vars(others), mean)
        export(data, var, Path(path), surface)
        return Path(path)

    def resume(
        self,
        profile: str | None = None,
        progress: Progress | None = None,
        wait: bool = True,
    ) -> Run:
        """Repair damaged units, try failed ones again and run whatever is missing.

        Every committed byte is read and compared first.

        Parameters
        ----------
        profile : str, optional
            Another profile than the one that the run was submitted with.
        progress, wait
            As in `Study.run`.
        """
        how = self._run.profile() if profile is None else load_profile(profile)
        resume(self._run)
        return _driven(self._run, how, progress, wait)


def _driven(run: RunFolder, profile: Profile, progress: Progress | None, wait: bool) -> Run:
    run.keep_profile(profile)
    if wait:
        drive(run, profile, progress)
    else:
        step(run, profile)
    return Run(run)


def _numbers(tables: xr.Dataset, signal: str) -> dict[str, object]:
    """Return the p value of a signal, and what the verdict on each of its orders rests on."""
    judged = tables[list(JUDGED_TABLES)].sel(signal=signal).reindex(order=list(ORDERS))
    numbers: dict[str, object] = {"p": tables["gradient_p"].sel(signal=signal).item()}
    for order in ORDERS:
        for name in JUDGED_TABLES:
            column = f"{order}_{name.removeprefix('order_')}"
            numbers[column] = judged[name].sel(order=order).item()
    return numbers
