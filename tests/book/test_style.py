"""Lint and format of notebooks, tests and tools, as ruff.toml has them."""

import ast
import os
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RUFF = Path(sysconfig.get_path("scripts")) / ("ruff.exe" if sys.platform == "win32" else "ruff")


def ruff(*arguments, cwd=ROOT):
    return subprocess.run(
        [RUFF, *arguments], cwd=cwd, capture_output=True, text=True, env={**os.environ, "RUFF_NO_CACHE": "true"}
    )


@pytest.mark.parametrize("arguments", [("check", "--output-format=concise"), ("format", "--check")], ids=lambda a: a[0])
def test_ruff_has_nothing_to_say(arguments):
    done = ruff(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_reads_the_notebooks(tmp_path):
    "A fault in a notebook is found, so an empty answer means something."
    (tmp_path / "ruff.toml").write_text((ROOT / "ruff.toml").read_text(encoding="utf-8"), encoding="utf-8")
    chapter = (ROOT / "nbs" / "24_losses.ipynb").read_text(encoding="utf-8")
    assert chapter.count("import torch") > 0
    (tmp_path / "24_losses.ipynb").write_text(chapter.replace("import torch", "import torch, os", 1), encoding="utf-8")
    done = ruff("check", "--output-format=concise", cwd=tmp_path)
    assert done.returncode == 1 and "24_losses.ipynb" in done.stdout and "F401" in done.stdout, done.stdout


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert str(cited["version"]) == settings["DEFAULT"]["version"]
    assert cited["references"][0]["doi"] in (ROOT / "README.md").read_text(encoding="utf-8")


def public(tree):
    "(name, function) of every function and method without a leading underscore, and of every `__init__`."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    about = ast.get_docstring(method) or ""
                    yield f"{node.name}.{method.name}", method, about + (ast.get_docstring(node) or "")


MODULES = [path for path in sorted((ROOT / "semgan_nb").rglob("*.py")) if path.name != "_modidx.py"]


def test_public_parameters_have_types_and_refusals_are_documented():
    untyped, unsaid, count = [], [], 0
    for path in MODULES:
        for name, function, about in public(ast.parse(path.read_text(encoding="utf-8"))):
            arguments = function.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            given = [argument for argument in named if argument.arg not in ("self", "cls")]
            count += len(given)
            untyped += [f"{path.stem}.{name}: {argument.arg}" for argument in given if argument.annotation is None]
            raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
            kinds = {exc.func.id for exc in raised if isinstance(exc, ast.Call) and isinstance(exc.func, ast.Name)}
            if "BadInput" in kinds and "BadInput" not in about:
                unsaid.append(f"{path.stem}.{name}")
    assert not untyped and not unsaid, (untyped, unsaid)
    assert count > 1500  # or nothing was looked at
