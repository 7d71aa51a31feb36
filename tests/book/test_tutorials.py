"""What the stored tutorials look like. Whether they run is asked in test_chapters.py."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


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
    found = [
        word for cell in cells for word in ("environ", "getenv", "SEMGAN_", "chdir", "QUICK") if word in cell.source
    ]
    assert not found, found


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_images_that_stand_for_variety_have_fresh_noise_and_say_so(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    grids = [
        cell.source
        for cell in cells
        if "plots.real_and_generated(" in cell.source
        or ("plots.image_grid(" in cell.source and "generated" in cell.source)
    ]
    assert all("fresh noise" in text for text in grids) and (grids or not any("train(" in c.source for c in cells))
    assert not [cell.source for cell in cells if "sample(" in cell.source and "noise_mode" not in cell.source]
