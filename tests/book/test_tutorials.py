"""The package ships the tutorials and the chapters, as they are in nbs/. Whether they run is asked in test_chapters.py."""
import sys
from pathlib import Path

import forked
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


def test_the_package_ships_the_tutorials_and_the_chapters():
    done = forked.run([sys.executable, ROOT / "tools" / "tutorials.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert TUTORIALS and all(f'"{pattern}"' in setup for pattern in ("tutorials/*", "chapters/*", "chapters/images/*", "lab/labconfig/*"))


def test_what_is_shipped_of_the_book_is_no_burden():
    files = [path for folder in ("tutorials", "chapters") for path in (ROOT / "semgan_nb" / folder).rglob("*")]
    assert sum(path.stat().st_size for path in files) < 15_000_000
    assert {path.name for path in files} >= {path.name for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")}


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_and_without_errors(path):
    assert path.stat().st_size < 700_000
    outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_has_no_switches_for_tests(path):
    """What tests need smaller is a parameter that a reader may change too."""
    cells = nbformat.read(path, 4).cells
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in cells) == 1
    found = [word for cell in cells for word in ("environ", "getenv", "SEMGAN_", "chdir", "QUICK") if word in cell.source]
    assert not found, found


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_images_that_stand_for_variety_have_fresh_noise_and_say_so(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    grids = [cell.source for cell in cells if "plots.real_and_generated(" in cell.source or ("plots.image_grid(" in cell.source and "generated" in cell.source)]
    assert grids and all("fresh noise" in text for text in grids)
    assert not [cell.source for cell in cells if "sample(" in cell.source and "noise_mode" not in cell.source]
