"""True classes of stimuli from a CSV file."""

from pathlib import Path

from gradenc_core.stimuli.classes import read_labels


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("stimulus,label\r\na.png,3\r\n", encoding="utf-8-sig")
    assert read_labels(path) == {"a.png": 3}
