"""The tutorials run from top to bottom in their quick mode, and the package ships the same files."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


def test_the_package_ships_the_tutorials():
    done = subprocess.run([sys.executable, ROOT / "tools" / "tutorials.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert TUTORIALS and '"tutorials/*"' in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_and_without_errors(path):
    assert path.stat().st_size < 700_000
    outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_top_to_bottom(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    if not importlib.util.find_spec("semgan_nb.dashboards"):
        pytest.skip("the dashboards of the last section are not there yet")
    for name, value in dict(SEMGAN_QUICK="1", SEMGAN_CACHE=tmp_path / "cache", JUPYTER_DATA_DIR=tmp_path / "jupyter", JUPYTER_CONFIG_DIR=tmp_path / "jupyter",
                            JUPYTER_RUNTIME_DIR=tmp_path / "runtime", IPYTHONDIR=tmp_path / "ipython", PYTHONPATH=ROOT, MPLBACKEND="module://matplotlib_inline.backend_inline").items():
        monkeypatch.setenv(name, str(value))
    place = tmp_path / "place"
    place.mkdir()
    notebook = nbformat.read(path, 4)
    for _ in range(2):  # the second time everything is there: it goes on, or says it is done
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    assert (place / "quickstart" / "walk.mp4").stat().st_size > 1000
