"""benchmarks/gpu.py in its rehearsal on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_benchmark_writes_its_table_and_keeps_to_its_budget(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--out", tmp_path / "t.md"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith(("| 32", "| 64"))]
    assert (
        len(rows) == 12
        and all(float(row[4]) > 0 for row in rows)
        and "rehearsal" in text
        and done.stdout.endswith(text)
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--budget", "0", "--out", tmp_path / "t.md"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and (tmp_path / "t.md").read_text(encoding="utf-8").count("no time was left") == 12
