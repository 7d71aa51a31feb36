"""Lint and format of notebooks, tests and tools, as ruff.toml has them."""

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
