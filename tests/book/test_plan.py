"""The plan of the house: rooms small enough, one definition a cell, and no number of a chapter and no name of a
module in any text that leads nowhere."""

import ast
import importlib
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "semgan_nb"
CHAPTERS = {path.name[:2]: path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "_modidx.py"))
PROGRAMS = (
    sorted(
        path
        for folder in ("tests", "benchmarks", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if "v0.1.0" not in path.parts
    )
    + MODULES
)
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "tests/data/README.md")]


def cells():
    "(notebook, cell) of every notebook of the book, tutorials and index too."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            yield path, cell


def texts():
    "(where, text) of everything that may name a chapter or a module."
    for path, cell in cells():
        yield path.name, cell.source
    for path in {*PROGRAMS, *PAGES} - {Path(__file__).resolve()}:
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def numbers_of_chapters(text):
    return [
        number
        for words in re.findall(r"\b[Cc]hapters? (\d+(?:(?:, | and | to |-)\d+)*)", text)
        for number in re.findall(r"\d+", words)
    ]


def test_every_chapter_that_is_named_exists():
    wrong = [
        f"{where}: chapter {number}"
        for where, text in texts()
        for number in numbers_of_chapters(text)
        if number not in CHAPTERS
    ]
    assert not wrong, wrong
    assert numbers_of_chapters("chapters 10, 12 and 99 to 7; Chapter 3") == ["10", "12", "99", "7", "3"]


def imports_in(text):
    "(module, names or None) of every import of the package that a text holds, in code, in a string or in prose."
    text = text.replace("\\n", "\n")
    for module, names in re.findall(r"from (semgan_nb[\w.]*) import \(?([\w, \n]+)", text):
        yield (
            module,
            [
                name.split(" as ")[0].strip()
                for name in re.split(r"[,\n]", names.partition("\n\n")[0] if "(" not in names else names)
                if re.fullmatch(r"\w+( as \w+)?", name.strip())
            ][: None if "(" in text else 40],
        )
    for module in re.findall(r"(?<!\w)import (semgan_nb\.[\w.]+)", text):
        yield module.rstrip("."), None
    for module, name in re.findall(r"[\"'`](semgan_nb(?:\.\w+)+):(\w+)", text):
        yield module, [name]
    for dotted in re.findall(r"[\"'`](semgan_nb(?:\.\w+)+)[\"'`]", text):
        yield dotted, None


def on_one_line(text):
    "The same text with every import in brackets, and every string in pieces, on a line of its own."
    text = re.sub(r"import \(\s*([\w\s,]*?),?\s*\)", lambda m: "import " + " ".join(m[1].split()), text)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def leads_somewhere(module, names):
    "Whether a dotted name is a module, or an attribute of one, and has these names."
    parts, attributes = module.split("."), []
    while parts:
        try:
            there = importlib.import_module(".".join(parts))
            break
        except ModuleNotFoundError:
            attributes.insert(0, parts.pop())
    else:
        return False
    for attribute in attributes:
        if not hasattr(there, attribute):
            return False
        there = getattr(there, attribute)
    for name in names or []:
        if not hasattr(there, name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                return False
    return True


def test_every_module_that_a_text_names_exists():
    """Code in strings, code that panels show, examples in prose, places that tests replace: what none of Python's
    own errors would find."""
    wrong, count = [], 0
    for where, text in texts():
        for line in on_one_line(text).splitlines():
            for module, names in imports_in(line):
                count += 1
                if not leads_somewhere(module, names):
                    wrong.append(f"{where}: {line.strip()[:160]}")
    assert not wrong, "\n".join(wrong)
    assert count > 500  # or nothing was looked at
    assert (
        not leads_somewhere("semgan_nb.nowhere", None)
        and not leads_somewhere("semgan_nb.runs", ["nothing"])
        and leads_somewhere("semgan_nb.evaluation.Judge.ladder", None)
    )


def test_rooms_are_small_enough_to_live_in():
    sizes = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    large = {name: lines for name, lines in sizes.items() if lines > 600}
    assert not large, f"more than 600 lines: {large}"


def exported(path):
    return [
        cell
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "code" and re.match(r"#\s*\|\s*exporti?\b", cell.source)
    ]


def test_cells_are_short():
    for path in CHAPTERS.values():
        sizes = [len(cell.source.splitlines()) for cell in exported(path)]
        assert max(sizes) <= 60, f"{path.name}: an exported cell has {max(sizes)} lines"
        assert statistics.median(sizes) <= 25, f"{path.name}: half of its exported cells have over 25 lines"


def test_chapters_hold_no_state_of_widgets():
    "It is hundreds of kilobytes, shows nothing outside the kernel that made it, and nbdev_clean leaves it."
    for path in CHAPTERS.values():
        assert "widgets" not in nbformat.read(path, 4).metadata, f"{path.name}: delete metadata.widgets"


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=lambda path: path.stem)
def test_a_cell_exports_one_definition(path):
    for cell in exported(path):
        found = [node.name for node in ast.parse(cell.source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert len(found) <= 1, f"{path.name}: {found} in one cell"


def test_the_index_lists_every_chapter():
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d\d) \| \[([\w.]+)\]\(nbs/(\d\d_\w+\.ipynb)\)", table, re.M)
    files = [file for _, _, file in listed]
    assert files == [path.name for path in CHAPTERS.values()], (
        "the table of nbs/index.ipynb has a row for each chapter, in order (then: python tools/readme.py):"
        f" {sorted({*files} ^ {path.name for path in CHAPTERS.values()}) or files}"
    )
    assert all(number == file[:2] for number, _, file in listed)
    parts = re.findall(r"^\| \*\*(\d)\*\* ", table, re.M)
    assert parts == sorted({number[0] for number in CHAPTERS})


READERS = [
    *("scores", "runs", "studies", "study_results", "plots", "study_plots", "material_plots", "widgets"),
    *("pages", "demo_result", "report", "study_report", "run_leaks"),
    *(f"dashboards.{path.stem}" for path in sorted((ROOT / "semgan_nb/dashboards").glob("[a-z]*.py"))),
]


def test_reading_a_run_does_not_import_training():
    code = """if True:
        import importlib, sys
        for module in sys.argv[1:]:
            importlib.import_module(f"semgan_nb.{module}")
            if found := [name for name in ("training", "trainer", "launch") if f"semgan_nb.{name}" in sys.modules]:
                sys.exit(f"semgan_nb.{module} imports {found}")"""
    done = subprocess.run([sys.executable, "-c", code, *READERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_of_chapters_are_changed_everywhere_at_once():
    """tools/renumber.py: numbers may change places, in prose and in links; other numbers stay."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import renumber
    finally:
        sys.path.pop(0)
    moves, files = (
        {"33": "34", "34": "33"},
        {"33_microstructure.ipynb": "34_microstructure.ipynb", "34_phase_maps.ipynb": "33_phase_maps.ipynb"},
    )
    before = (
        "Chapter 33 measures, chapters 34 and 35 write 33 of them ([maps](34_phase_maps.ipynb)).\n| 34 |"
        " [phase_maps](34_phase_maps.ipynb) | [chapters 33](33_microstructure.ipynb) and [34](34_phase_maps.ipynb)"
    )
    assert (
        renumber.renamed(before, moves, files)
        == "Chapter 34 measures, chapters 33 and 35 write 33 of them ([maps](33_phase_maps.ipynb)).\n| 33 |"
        " [phase_maps](33_phase_maps.ipynb) | [chapters 34](34_microstructure.ipynb) and [33](33_phase_maps.ipynb)"
    )
    index = (ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8")
    assert renumber.in_order(index) == index
    chapters = {number: path for number, path in CHAPTERS.items()}
    assert renumber.asked(["33=34", "34=33"], chapters) == moves
    free = next(number for k in range(100) if (number := f"{k:02}") not in CHAPTERS)
    for wrong, words in ((["33=34"], "two chapters"), ([f"{free}=98"], f"no chapter {free}"), (["33"], "OLD=NEW")):
        with pytest.raises(SystemExit, match=words):
            renumber.asked(wrong, chapters)


def links_in(text):
    "(file, anchor) of the links of a text that lead to a file of the project."
    return [
        (file, anchor)
        for file, anchor in re.findall(r"\]\((?!https?:|#|data:|attachment:)([^)\s#]+)#?([^)\s]*)\)", text)
    ]


def test_every_link_of_the_book_leads_somewhere():
    count = 0
    for path, cell in cells():
        if cell.cell_type != "markdown":
            continue
        for file, anchor in links_in(cell.source):
            base = ROOT if path.stem == "index" and not (path.parent / file).exists() else path.parent
            assert (base / file).is_file(), f"{path.name}: {file}"
            if anchor:
                titles = re.findall(
                    r"^#+ (.+)$", "\n".join(c.source for c in nbformat.read(base / file, 4).cells), re.M
                )
                assert anchor in [title.replace(" ", "-") for title in titles], f"{path.name}: {file}#{anchor}"
            count += 1
    assert count > 200  # or nothing was looked at
