"""Files of a lab's own that a run was planned with."""

from pathlib import Path

import pytest

from jobs.plugins import require_unchanged
from storage_schemas.files import file_digest


def test_a_file_that_is_gone_or_changed_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("stimulus,label\n")
    digest = file_digest(path)
    require_unchanged(path, digest, "these labels")
    path.write_text("stimulus,label\na,1\n")
    with pytest.raises(ValueError, match=r"labels.csv has changed .* put the old file back"):
        require_unchanged(path, digest, "these labels")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"labels.csv, .* is gone; put it back"):
        require_unchanged(path, digest, "these labels")
