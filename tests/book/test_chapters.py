"""Every chapter runs from top to bottom, and so does the tutorial in its quick mode; each in a process of its own."""
import shutil
import sys
from pathlib import Path

import forked
import nbformat
import notebooks
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="session")
def running_place(tmp_path_factory):
    """A copy of the notebooks to run in."""
    place = tmp_path_factory.mktemp("run")
    shutil.copytree(ROOT / "nbs", place / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return place


def runs(path, folder, place, **environment):
    done = forked.run([sys.executable, notebooks.__file__, path], cwd=folder, env={**notebooks.settings(place), **environment}, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        pytest.fail(done.stderr, pytrace=False)


@pytest.mark.parametrize("name", [path.name for path in CHAPTERS], ids=lambda name: name.split(".")[0])
def test_chapter_runs_top_to_bottom(name, running_place):
    runs(running_place / "nbs" / name, running_place / "nbs", running_place)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_top_to_bottom(path, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    runs(path, place, tmp_path, SEMGAN_QUICK="1")
    (film,) = place.glob("*/walk.mp4")
    assert film.stat().st_size > 1000
    again = nbformat.read(path, 4)  # the second time everything is there: it goes on, or says it is done; looked at up to the training, what follows only reads
    last = max(k for k, cell in enumerate(again.cells) if cell.cell_type == "code" and "in train(" in cell.source)
    again.cells = again.cells[: last + 1]
    nbformat.write(again, tmp_path / path.name)
    runs(tmp_path / path.name, place, tmp_path, SEMGAN_QUICK="1")


def test_what_fails_is_named(tmp_path):
    """The notebook, the cell and the traceback; nothing after it runs, nor what is marked so. What works in a notebook works here: await, magics, pictures, widgets, bars."""
    new = nbformat.v4.new_notebook
    code = nbformat.v4.new_code_cell
    good = ["import asyncio\nawait asyncio.sleep(0)", "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])", "import ipywidgets\nslider = ipywidgets.IntSlider()\nslider",
            "from tqdm.auto import tqdm\nassert [k for k in tqdm(range(2))] == [0, 1] and 'notebook' in str(tqdm.__mro__)", "#| eval: false\nraise RuntimeError('not to be run')", "display(slider); x = 3;",
            "assert x == 3 and get_ipython() and __name__ == '__main__'", "import subprocess, sys\nassert subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True).stdout == '7\\n'"]
    for bad, words in ((None, ()), ("1 / 0", ("ZeroDivisionError", "1 / 0")), ("def f(:", ("SyntaxError", "def f(:")), ("print('before')\nassert x == 4, 'four'", ("AssertionError", "four", "before")),
                       ("raise SystemExit(0)", ("SystemExit",)), ("await asyncio.wait_for(asyncio.sleep(9), 0.01)", ("TimeoutError",)), ("%nosuchmagic", ("nosuchmagic",))):
        nbformat.write(new(cells=[code(text) for text in (*good, bad, "raise RuntimeError('too far')") if text is not None][: None if bad else -1]), tmp_path / "made_up.ipynb")
        if bad is None:
            runs(tmp_path / "made_up.ipynb", tmp_path, tmp_path)
            continue
        with pytest.raises(pytest.fail.Exception) as e:
            runs(tmp_path / "made_up.ipynb", tmp_path, tmp_path)
        said = str(e.value)
        assert f"made_up.ipynb, cell {len(good)}:" in said and bad in said and all(word in said for word in words) and "too far" not in said, said
