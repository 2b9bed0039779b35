"""True classes of stimuli: a CSV file with the columns stimulus and label."""

import csv
from io import StringIO
from pathlib import Path

from gradenc_core.text import read_text

COLUMNS = ["stimulus", "label"]


def read_labels(path: Path) -> dict[str, int]:
    """Read the class of every stimulus: its index among the outputs of a model's head.

    Raises
    ------
    ValueError
        Naming the line: other columns, a stimulus named twice, or a label that is no index.
    """
    labels: dict[str, int] = {}
    rows = csv.reader(StringIO(read_text(path), newline=""))
    if (header := next(rows, [])) != COLUMNS:
        raise ValueError(f"{path} begins with {','.join(header)}; begin it with stimulus,label")
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if len(row) != len(COLUMNS) or not row[1].isdecimal():
            raise ValueError(f"{where}: {','.join(row)}; give a stimulus and its class, from 0")
        if row[0] in labels:
            raise ValueError(f"{where}: {row[0]} again; give every stimulus once")
        labels[row[0]] = int(row[1])
    return labels
