"""Timing, durable plain writes and printing for the benchmarks; imports nothing of gradenc.

A ratio of two things is never a ratio of two averages: both are run in turn, so that a slow phase
of a shared disk hits both, and the median of the pairwise ratios is reported with p10 and p90.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, JustifyMethod
from rich.table import Table

MIB = 2**20
LINE_WIDTH = 120
"""Columns of the printed tables where the output is no terminal."""


@dataclass(frozen=True)
class Line:
    """A printed line: what was measured, in words, and the target where there is one."""

    key: str
    text: str
    limit: float | None = None


def seconds(work: Callable[[], Any]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(first: Callable[[], Any], second: Callable[[], Any], swap: bool) -> tuple[float, float]:
    """Time two things one after the other; `swap` runs the second first, as every other pair."""
    if swap:
        later, earlier = in_turn(second, first, swap=False)
        return earlier, later
    return seconds(first), seconds(second)


def ratios(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return median, p10 and p90 of first / second; keys are endings of the measure's name."""
    values = [first / second for first, second in pairs]
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"": float(middle), "_p10": float(low), "_p90": float(high)}


def median_ms(times: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return 1e3 * statistics.median(times)


def median_mib_per_s(n_bytes: int, times: Sequence[float]) -> float:
    """Return the median rate at which this many bytes went."""
    return n_bytes / MIB / statistics.median(times)


def write_plainly(path: Path, values: NDArray[Any]) -> None:
    """Write an array's bytes with open/write, then fsync the file and its folder."""
    with path.open("wb", buffering=0) as stream:
        view = values.data.cast("B")
        while view:
            # One write call stops at 2 GiB, and may stop anywhere.
            view = view[stream.write(view) :]
        os.fsync(stream.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def fresh_python(code: str, *arguments: str) -> str:
    """Run code in a new interpreter, with nothing cached but the files; return what it printed."""
    return run([sys.executable, "-c", code, *arguments])


def run(command: Sequence[str]) -> str:
    """Run a command to its end and return its output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def print_lines(title: str, lines: Sequence[Line], values: dict[str, Any]) -> None:
    """Print what was measured with its targets."""
    table = Table(title=title)
    for column in ("measure", "value", "target", ""):
        table.add_column(column, justify="right" if column in ("value", "target") else "left")
    for line in lines:
        value = values[line.key]
        within = "" if line.limit is None else "ok" if value <= line.limit else "MISSED"
        target = "" if line.limit is None else f"<= {line.limit:g}"
        table.add_row(line.text, f"{value:.3g}", target, within)
    console().print(table)


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a list of equal-keyed measurements as a table."""
    table = Table(title=title)
    for key, value in rows[0].items():
        side: JustifyMethod = "left" if _is_text(value) else "right"
        table.add_column(key.replace("_", " "), justify=side, no_wrap=_is_text(value))
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console().print(table)


def print_json(values: dict[str, Any]) -> None:
    """Print one line of JSON, numbers rounded to what the measurement can bear."""
    print(json.dumps(_rounded(values), allow_nan=False), flush=True)


def console() -> Console:
    """Return a console that does not cut tables where the output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else LINE_WIDTH)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | list | tuple)


def _shown(value: Any) -> str:
    if _is_text(value):
        return str(value)
    return "-" if value is None else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
