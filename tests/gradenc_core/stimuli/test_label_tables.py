"""True classes and categories of stimuli from CSV files."""

from pathlib import Path

import pytest

from gradenc_core.stimuli.label_tables import read_categories, read_labels


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("stimulus,label\r\na.png,3\r\n", encoding="utf-8-sig")
    assert read_labels(path) == {"a.png": 3}


def test_categories_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "categories.csv"
    path.write_text('stimulus,category\na.png,aardvark\nb.png,"dog, small"\nc.png, 7 \n')
    assert read_categories(path) == {"a.png": "aardvark", "b.png": "dog, small", "c.png": "7"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stimulus,label\n", "begins with stimulus,label; begin it with stimulus,category"),
        ("stimulus,category\na,\n", "line 2: a,; give a stimulus and its category"),
        ("stimulus,category\na,x,y\n", "line 2: a,x,y; give a stimulus and its category"),
        ("stimulus,category\na,x\na,y\n", "line 3: a again; give every stimulus once"),
        ('stimulus,category\na,"' + "x" * 200_000, "a quotation mark not closed"),
        ("", "is empty; begin it with stimulus,category"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "categories.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_categories(path)


def test_spaces_around_cells_and_blank_lines_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "categories.csv"
    path.write_text(" stimulus , category\n\n a.png , dog \n ,\nb.png,cat\n\n")
    assert read_categories(path) == {"a.png": "dog", "b.png": "cat"}
