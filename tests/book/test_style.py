"""Lint, format and types, as ruff.toml and mypy.ini have them."""

import ast
import dataclasses
import importlib
import inspect
import os
import subprocess
import sys
import sysconfig
import typing
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from semgan_nb.foundation import rules_of

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


def test_types_fit(tmp_path):
    "mypy finds nothing in the package. A wrong call beside it is found, so an empty answer means something."
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from semgan_nb.preparation import prepare\n\nprepare('a', 'b', size='large')\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "semgan_nb", str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(found) == 1 and "wrong.py:3" in found[0] and 'expected "int"' in found[0], done.stdout + done.stderr


def test_a_rule_is_of_the_type_that_stands_beside_it():
    "Annotated[int, Rule(int, …)]: an editor and the program say the same of a parameter."
    seen = 0
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for function in vars(importlib.import_module(name)).values():
            if getattr(function, "__module__", "") != name or not (
                inspect.isfunction(function) or inspect.isclass(function)
            ):
                continue
            if inspect.isclass(function) and not dataclasses.is_dataclass(function):
                continue
            for parameter, rule in rules_of(function).items():
                beside = inspect.signature(function).parameters[parameter].annotation.__origin__
                kinds = {str} if rule.choices else {rule.kind}
                wanted = kinds | {type(other) for other in rule.also}
                assert set(typing.get_args(beside) or (beside,)) == wanted, f"{name}.{function.__name__}: {parameter}"
                seen += 1
    assert seen > 50


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
