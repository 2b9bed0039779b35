from pathlib import Path

import pytest

from gradenc_core.text import read_text


def test_a_byte_order_mark_is_left_out_and_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n")
    assert read_text(path) == "café\r\n"


def test_another_encoding_is_refused_with_the_file_and_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.tsv"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.tsv is no UTF-8 text \(byte 3 is 0xe9\)"):
        read_text(path)
