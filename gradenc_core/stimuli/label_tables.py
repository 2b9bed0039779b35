"""Tables that describe stimuli: their true classes, and the categories that folds respect.

Both are CSV files of two columns, the first of which names the stimulus, each stimulus once.
"""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from gradenc_core.text import read_text


def read_labels(path: Path) -> dict[str, int]:
    """Read the class of every stimulus: its index among the outputs of a model's head.

    The file has the columns stimulus and label.

    Raises
    ------
    ValueError
        Naming the line: other columns, a stimulus named twice, or a label that is no index.
    """
    labels: dict[str, int] = {}
    for where, stimulus, label in _rows(path, "label", "its class, from 0"):
        if not label.isdecimal():
            raise ValueError(f"{where}: {stimulus},{label}; give a stimulus and its class, from 0")
        labels[stimulus] = int(label)
    return labels


def read_categories(path: Path) -> dict[str, str]:
    """Read the category of every stimulus, such as its THINGS concept.

    The file has the columns stimulus and category.

    Raises
    ------
    ValueError
        Naming the line: other columns, a stimulus named twice, or no category.
    """
    categories: dict[str, str] = {}
    for where, stimulus, category in _rows(path, "category", "its category"):
        if not category:
            raise ValueError(f"{where}: {stimulus},{category}; give a stimulus and its category")
        categories[stimulus] = category
    return categories


def _rows(path: Path, column: str, what: str) -> Iterator[tuple[str, str, str]]:
    """Yield the place of each row in the file, its stimulus and its value."""
    seen: set[str] = set()
    rows = _cells(path)
    _, header = next(rows, (path, []))
    if header != ["stimulus", column]:
        begins = f"begins with {','.join(header)}" if header else "is empty"
        raise ValueError(f"{path} {begins}; begin it with stimulus,{column}")
    for where, row in rows:
        if len(row) != 2:
            raise ValueError(f"{where}: {','.join(row)}; give a stimulus and {what}")
        if row[0] in seen:
            raise ValueError(f"{where}: {row[0]} again; give every stimulus once")
        seen.add(row[0])
        yield where, row[0], row[1]


def _cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row that is not blank, and its cells."""
    rows = csv.reader(StringIO(read_text(path), newline=""))
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield f"{path}, line {rows.line_num}", cells
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {rows.line_num}: {error}; is a quotation mark not closed?"
        ) from error
