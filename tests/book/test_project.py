"""The project's own rules: the notebooks are the source, and all that is made from them agrees with them."""

import ast
import functools
import os
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import nbformat
import pytest
from notebooks import directives

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "semgan_nb"
CHAPTERS = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def exported_cells(notebook):
    return [
        cell
        for cell in notebook_of(notebook).cells
        if cell.cell_type == "code" and {"export", "exporti", "exports"} & set(directives(cell))
    ]


def module_of(notebook):
    """The module a chapter writes, such as 'micrographs' for 12_micrographs.ipynb."""
    for cell in notebook_of(notebook).cells:
        if cell.cell_type == "code" and "default_exp" in directives(cell):
            return directives(cell)["default_exp"]
    return None


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def notebook_of(path):
    return nbformat.read(path, 4)


def own_imports(tree):
    """Names of this package's modules imported anywhere in `tree`, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("semgan_nb."):
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or module.split(".")[0] == "semgan_nb":
                inner = module if node.level else module.partition(".")[2]
                if inner:
                    yield inner
                else:
                    yield from (alias.name for alias in node.names)


def nbdev(command, folder):
    """Run one nbdev command in a process of its own: nbdev keeps the first settings it finds."""
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def tree_copy(tmp_path_factory):
    """A copy of settings, notebooks and package, for commands that write."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "settings.ini", copy)
    ignore = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "*.tmp")
    for folder in ("nbs", "semgan_nb"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    return copy


def test_package_is_what_the_notebooks_export(tree_copy):
    package = tree_copy / "semgan_nb"
    for path in package.rglob("*.py"):
        if path not in (package / "__init__.py", package / "__main__.py"):
            path.unlink()
    nbdev("from nbdev.doclinks import nbdev_export; nbdev_export()", tree_copy)
    made = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*.py")}
    kept = {path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in MODULES}
    assert sorted(made) == sorted(kept), "a module has no notebook, or a notebook was not exported: run nbdev_export"
    differing = [name for name in made if made[name] != kept[name]]
    assert not differing, f"differ from their notebooks (run nbdev_export): {differing}"


def test_notebooks_are_clean(tree_copy):
    before = {path: path.read_bytes() for path in (tree_copy / "nbs").rglob("*.ipynb")}
    nbdev("from nbdev.clean import nbdev_clean; nbdev_clean()", tree_copy)
    dirty = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert not dirty, f"run nbdev_clean: {dirty}"


@functools.cache
def chapter_of_module():
    return {module_of(path): path.name[:2] for path in CHAPTERS}


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_exported_cells_import_only_lower_chapters(notebook):
    number = chapter_of_module()
    for cell in exported_cells(notebook):
        for name in own_imports(ast.parse(cell.source)):
            chapter = next((module for module in number if module and (name + ".").startswith(module + ".")), None)
            assert chapter, f"{notebook.name} imports {name!r}, which no chapter writes"
            assert number[chapter] < notebook.name[:2], (
                f"{notebook.name} imports {chapter!r} of chapter {number[chapter]}"
            )


def test_stored_outputs_name_no_folder_of_a_machine():
    """What a notebook printed holds no absolute path of the package: it is another one for everybody."""
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        for cell in notebook_of(notebook).cells:
            for output in cell.get("outputs", []):
                said = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
                assert not re.search(r"[/\\][^\s'\"]*[/\\]semgan_nb[/\\]", said), f"{notebook.name}: {said[:200]}"


def test_package_needs_no_notebook_tools():
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            found = {name.split(".")[0] for name in names} & {"nbdev", "fastcore", "execnb"}
            assert not found, f"{path.name} imports {found}"


def test_package_runs_no_code_from_files():
    """Loading weights never executes what a file says: no bare pickle, torch.load only with weights_only=True."""
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called, where = ast.unparse(node.func), f"{path.name}:{node.lineno}"
            assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), where
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert options.get("weights_only") == "True", where
            if called in ("np.load", "numpy.load"):
                assert options.get("allow_pickle", "False") == "False", where


def test_public_names_are_there():
    import semgan_nb

    assert all(callable(getattr(semgan_nb, name)) for name in semgan_nb.__all__)
    with pytest.raises(AttributeError):
        _ = semgan_nb.nothing


def test_readme_is_made_from_the_index():
    done = forked.run([sys.executable, ROOT / "tools" / "readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    missing = [
        target
        for target in targets
        if not re.match(r"[a-z]+:|#", target) and not (ROOT / target.partition("#")[0]).exists()
    ]
    assert not missing, missing


def test_shipped_records_name_no_place_of_a_machine():
    found = sorted((ROOT / "semgan_nb" / "records").rglob("config.json"))
    assert len(found) == 22
    for path in found:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        assert not {"absolute", "relative"} & set(data) and Path(data["path"]).name == data["path"], path
