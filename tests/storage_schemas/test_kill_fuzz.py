import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_fuzz.py")


@pytest.mark.parametrize(
    "kills", [200, pytest.param(3000, marks=pytest.mark.long)], ids=lambda n: f"{n} kills"
)
def test_random_kills_of_competing_writers_lose_nothing(tmp_path: Path, kills: int) -> None:
    """`violations` lists what was lost, wrong, left over, held twice or not as in a clean run."""
    output = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "fuzz", "--kills", str(kills), "--seed", "20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.stdout, output.stderr
    summary = json.loads(output.stdout)
    print(json.dumps(summary, indent=2))
    assert summary["violations"] == []
    assert output.returncode == 0, output.stderr
    assert summary["kills"] >= kills
    # The kills fell into work, others read meanwhile, and there was damage to repair.
    assert summary["commits"] > kills / 4
    assert len(summary["steps"]) > 5
    assert summary["units_read"] > summary["commits"] / 4
    assert summary["damaged"]
