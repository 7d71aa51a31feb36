"""The package ships the tutorials, as they are in nbs/. Whether they run is asked in test_chapters.py."""
import sys
from pathlib import Path

import forked
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


def test_the_package_ships_the_tutorials():
    done = forked.run([sys.executable, ROOT / "tools" / "tutorials.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert TUTORIALS and '"tutorials/*"' in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_and_without_errors(path):
    assert path.stat().st_size < 700_000
    outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
