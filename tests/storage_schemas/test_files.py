import hashlib
import os
from pathlib import Path

import pytest

from gradenc_errors import Remedy, remedy_of
from storage_schemas import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_first_exclusive_writer_wins(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "record.json"
    assert files.write_exclusive(path, b"first")
    assert not files.write_exclusive(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(path.parent) == ["record.json"]


def test_replace_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "state.json"
    for data in (b"old", b"new"):
        files.replace(path, data)
        assert path.read_bytes() == data
    assert names(path.parent) == ["state.json"]


def test_files_are_readable_by_the_group_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        files.write_exclusive(tmp_path / "record.json", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o664


def test_checksum_is_crc32c(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123456789")
    assert files.checksum(path) == "e3069283"  # the check value of CRC-32C (RFC 3720)
    path.write_bytes(b"")
    assert files.checksum(path) == "00000000"


def test_digests_of_files_longer_than_a_block(tmp_path: Path) -> None:
    data = os.urandom(2 * files.BLOCK + 17)
    path = tmp_path / "x"
    path.write_bytes(data)
    assert files.file_digest(path) == hashlib.sha256(data).hexdigest()
    whole = files.checksum(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert files.checksum(path) != whole


@pytest.mark.parametrize("content", [b"", b'{"a"', b"[1]", b"\xff\xfe", b"null"])
def test_read_json_returns_none_for_what_is_no_object(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    assert files.read_json(path) is None
    path.write_bytes(content)
    assert files.read_json(path) is None


def test_partials_of_other_files_stay(tmp_path: Path) -> None:
    for name in ("1.aa.partial", "1.bb.partial", "11.aa.partial", "1", "0.json.cc.partial"):
        (tmp_path / name).touch()
    files.remove_partials([tmp_path / "1", tmp_path / "0.json", tmp_path / "absent" / "2"])
    assert names(tmp_path) == ["1", "11.aa.partial"]


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(FileExistsError, match=r"cannot create it.*check.*/plain'") as caught:
        files.replace(tmp_path / "plain" / "record.json", b"")
    assert remedy_of(caught.value) is Remedy.RESUME
    with pytest.raises(IsADirectoryError, match=r"cannot delete it.*check"):
        files.remove(tmp_path)
