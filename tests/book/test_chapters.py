"""Every chapter runs from top to bottom, and so does the tutorial with parameters that make it quick; each in a
process of its own."""

import re
import shutil
import sys
from pathlib import Path

import forked
import nbformat
import notebooks
import pytest

from semgan_nb.micrographs import embedded, list_images
from semgan_nb.preparation import prepare

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
    done = forked.run(
        [sys.executable, notebooks.__file__, path],
        cwd=folder,
        env={**notebooks.settings(place), **environment},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    if done.returncode:
        pytest.fail(done.stderr, pytrace=False)


@pytest.mark.parametrize("name", [path.name for path in CHAPTERS], ids=lambda name: name.split(".")[0])
def test_chapter_runs_top_to_bottom(name, running_place):
    runs(running_place / "nbs" / name, running_place / "nbs", running_place)


QUICK = {
    "01_quickstart": dict(total_kimg=0.256, metric="random_fd50_holdout", film_frames=48)
}  # for the cell of parameters: seconds instead of minutes, and nothing learned
TRAINING = [path for path in TUTORIALS if path.stem in QUICK]


def with_parameters(path, dest, **values):
    """A copy of a notebook with other values in its cell tagged `parameters`; all else, and the line that each of
    them stands in, is as it was."""
    book = nbformat.read(path, 4)
    (cell,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    for name, value in values.items():
        cell.source, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.M)
        assert count == 1, f"{path.name} has no parameter {name}"
    nbformat.write(book, dest)
    return book


def training_cell(book):
    return max(k for k, cell in enumerate(book.cells) if cell.cell_type == "code" and "in train(" in cell.source)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_top_to_bottom(path, tmp_path):
    place, quick = tmp_path / "place", tmp_path / path.name
    place.mkdir()
    again = with_parameters(path, quick, **QUICK.get(path.stem, {}))
    runs(quick, place, tmp_path)
    if path not in TRAINING:
        assert not list(place.iterdir())  # it only reads
        return
    (film,) = place.glob("*/walk.mp4")
    assert film.stat().st_size > 1000
    again.cells = again.cells[
        : training_cell(again) + 1
    ]  # the second time everything is there: it says it is done; looked at up to the training, what follows only reads
    nbformat.write(again, quick)
    runs(quick, place, tmp_path)


INTERRUPT = """import os, signal, threading, time
said = []


class Markdown(Markdown):
    def __init__(self, text):
        said.append(text)
        super().__init__(text)


def interrupt():
    while not any(" of 50 thousand images" in text for text in said):
        time.sleep(0.01)
    time.sleep(WAIT)
    os.kill(os.getpid(), signal.SIGINT)


threading.Thread(target=interrupt, daemon=True).start()"""
STOPPED = r"""import re
found, stopped = re.fullmatch(r"stopped at (\S+) kimg; run this cell again and it goes on from there", said[-1]), read_status(run)
assert found and stopped["state"] == "stopped" and f"{stopped['kimg']:.3g}" == found[1] and 0 < float(found[1]) < 50, (said, stopped)
total_kimg = stopped["kimg"] + 0.1"""
WENT_ON = """done = read_status(run)
assert said[-1] == f"{done['kimg']:g} thousand images seen" and done["state"] == "done" and done["kimg"] >= total_kimg, said
assert f"going on at {stopped['kimg']:.3f} kimg" in (run / "log.txt").read_text()"""


@pytest.mark.parametrize(
    "wait", [0.5, pytest.param(0, marks=pytest.mark.slow)], ids=["in between", "while it says how far it is"]
)
@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_interrupting_the_training_of_a_tutorial_ends_in_one_sentence(path, wait, tmp_path):
    """What the kernel does at the button: SIGINT. The same cell again goes on, here to an end that is near. The
    archive is there already, from six of the micrographs."""
    place, quick, code = tmp_path / "place", tmp_path / path.name, nbformat.v4.new_code_cell
    (place / "quickstart").mkdir(parents=True)
    some, data = list_images(embedded())[:6], place / "quickstart" / "data.zip"
    prepare(some, data, 32, window=128, stride=64, holdout=0.3, progress=False)
    book = with_parameters(path, quick, **{**QUICK[path.stem], "total_kimg": 50})
    k = training_cell(book)
    book.cells = [
        *book.cells[:k],
        code(INTERRUPT.replace("WAIT", str(wait))),
        book.cells[k],
        code(STOPPED),
        code(book.cells[k].source),
        code(WENT_ON),
    ]
    nbformat.write(book, quick)
    runs(quick, place, tmp_path)


def test_what_fails_is_named(tmp_path):
    """The notebook, the cell and the traceback; nothing after it runs, nor what is marked so. What works in a
    notebook works here: await, magics, pictures, widgets, bars."""
    new = nbformat.v4.new_notebook
    code = nbformat.v4.new_code_cell
    good = [
        "import asyncio\nawait asyncio.sleep(0)",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])",
        "import ipywidgets\nslider = ipywidgets.IntSlider()\nslider",
        "from tqdm.auto import tqdm\nassert [k for k in tqdm(range(2))] == [0, 1] and 'notebook' in str(tqdm.__mro__)",
        "#| eval: false\nraise RuntimeError('not to be run')",
        "display(slider); x = 3;",
        "assert x == 3 and get_ipython() and __name__ == '__main__'",
        (
            "import subprocess, sys\nassert subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True,"
            " text=True).stdout == '7\\n'"
        ),
    ]
    for bad, words in (
        (None, ()),
        ("1 / 0", ("ZeroDivisionError", "1 / 0")),
        ("def f(:", ("SyntaxError", "def f(:")),
        ("print('before')\nassert x == 4, 'four'", ("AssertionError", "four", "before")),
        ("raise SystemExit(0)", ("SystemExit",)),
        ("await asyncio.wait_for(asyncio.sleep(9), 0.01)", ("TimeoutError",)),
        ("%nosuchmagic", ("nosuchmagic",)),
    ):
        nbformat.write(
            new(
                cells=[code(text) for text in (*good, bad, "raise RuntimeError('too far')") if text is not None][
                    : None if bad else -1
                ]
            ),
            tmp_path / "made_up.ipynb",
        )
        if bad is None:
            runs(tmp_path / "made_up.ipynb", tmp_path, tmp_path)
            continue
        with pytest.raises(pytest.fail.Exception) as e:
            runs(tmp_path / "made_up.ipynb", tmp_path, tmp_path)
        said = str(e.value)
        assert (
            f"made_up.ipynb, cell {len(good)}:" in said
            and bad in said
            and all(word in said for word in words)
            and "too far" not in said
        ), said
