"""The verbs walk, study and lab."""

import json
import shutil
import os
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
import tiny
from command import say
from made_up_runs import fake_train, random_snapshot
from PIL import Image

from semgan_nb import cli, training_verbs
from semgan_nb.runs import Config, laptop, read_config
from semgan_nb.studies import Study
from semgan_nb.study_cost import study_cost
from semgan_nb.study_run import run_study
from semgan_nb.training import train

NETWORKS = {name: getattr(tiny.TINY, name) for name in ("z_dim", "w_dim", "channel_base", "channel_max")}
TINY = dict(**NETWORKS, batch_size=8, batch_gpu=8, total_kimg=0.032, kimg_per_tick=0.016, snap=1)
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()] + ["--metrics=none"]


@pytest.fixture(scope="module")
def run(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    list(train(Config(**TINY, metrics=()), archive, out))
    return out


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_walk_makes_a_film_and_a_figure(run):
    status, out, _ = say("walk", run, "--frames", 30, "--seeds", "0-2")
    assert status == 0 and "walk.mp4: 30 frames, 1.25 s" in out
    assert imageio_ffmpeg.count_frames_and_secs("walk.mp4")[0] == 30 and Image.open("walk.png").width > 500
    status, *_ = say(
        "walk",
        sorted(run.glob("*.safetensors"))[0],
        "--out",
        "frames",
        "--frames",
        7,
        "--psi",
        0.5,
        "--noise",
        "none",
        "--space",
        "w",
    )
    assert status == 0 and len(list(Path("frames").glob("frame*.png"))) == 7 and Path("frames.png").exists()


def test_walk_takes_the_noise_along(run):
    status, out, err = say("walk", run, "--noise", "walk", "--frames", 12, "--seeds", "0,1,0")
    assert status == 0 and "walk.mp4: 12 frames" in out and "note:" not in err
    assert imageio_ffmpeg.count_frames_and_secs("walk.mp4")[0] == 12 and Path("walk.png").exists()


def test_walk_says_that_a_network_has_no_noise_to_walk():
    random_snapshot("plain.safetensors", use_noise=False)
    pixels = lambda path: Image.open(path).tobytes()  # the files say which noise was asked for
    for noise, notes in (("walk", 1), ("const", 0)):
        status, _, err = say("walk", "plain.safetensors", "--noise", noise, "--frames", 3, "--out", noise)
        assert status == 0 and err.count("note: plain.safetensors has no noise inputs") == notes
    assert (
        all(pixels(Path("walk") / f.name) == pixels(f) for f in Path("const").glob("*.png"))
        and len(list(Path("walk").glob("*.png"))) == 3
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seeds", "3"], "two seeds"),
        (["--out", "a.avi"], ".mp4"),
        (["--frames", "1"], "both ends"),
        (["--fps", "0"], "frames per second"),
        (["--best", "fid50k"], "no record"),
    ],
)
def test_faults_of_a_walk_are_one_sentence(run, options, words):
    status, _, err = say("walk", run, *options)
    assert status == 2 and words in err and len(err.splitlines()) == 1 and not any(Path().iterdir())


@pytest.fixture
def nothing_is_trained(monkeypatch):
    """Neither to measure what it would take, nor in earnest."""
    monkeypatch.setattr(sys.modules[run_study.__module__], "train", fake_train)
    measured = dict(images=8, seconds=dict(Gmain=0.1, Dmain=0.1, Dreg=0.1), base=None, peak=None)
    monkeypatch.setattr(sys.modules[study_cost.__module__], "probe", lambda *args, **options: measured)


def test_a_sweep_from_the_command_line(archive, nothing_is_trained):
    command = [
        "study",
        "sweep",
        archive,
        "--at-once",
        "1",
        "--ada-target",
        "0.3,0.5",
        "--seeds",
        "0-1",
        "--with",
        "noaug",
        "--with",
        "aug=fixed,p=0.2",
        *OPTIONS,
    ]
    status, out, _ = say(*command)
    folder = Path("studies/noise-ada_target")
    assert status == 0 and f"{folder}: 8 runs, 8 done" in out
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(
        f"{p}-seed{s}" for p in ("ada_target=0.3", "ada_target=0.5", "aug=noaug", "aug=fixed,p=0.2") for s in (0, 1)
    )
    assert read_config(folder / "aug=fixed,p=0.2-seed1")["resolved"]["p"] == 0.2
    before = (folder / "aug=noaug-seed0" / "stats.jsonl").read_bytes()
    assert say(*command)[0] == 0 and (folder / "aug=noaug-seed0" / "stats.jsonl").read_bytes() == before
    assert "8 runs, 8 done" in say("study", "report", folder)[1]


def test_a_failed_point_is_named_and_the_status_says_so(archive, nothing_is_trained):
    Path("s/base-seed0").mkdir(parents=True)
    Path("s/study.json").write_text(
        json.dumps(dict(format=1, version="0", base=laptop(16).replace(**TINY, metrics=("none",)).to_dict(), points=[]))
    )
    Path("s/base-seed0/notes.txt").touch()
    status, out, _ = say("study", "sweep", archive, "--out", "s", "--seeds", "0-1", "--at-once", "1", *OPTIONS)
    assert status == 1 and "base-seed0 refused" in out and "1 done" in out


def test_the_studies_of_the_paper_are_one_line_each(archive, nothing_is_trained):
    options = [*OPTIONS, "--small", "--at-once", "1", "--metrics", "none"]
    for what, axis, values in (
        ("augmentations", "augpipe", {"bg", "bright", None}),
        ("targets", "ada_target", {0.3, 0.5, 0.7}),
        ("sizes", "subset", {30, 40}),  # forty images are all there are
    ):
        status, out, _ = say("study", what, archive, *options, "--dry-run")
        runs = 2 * len(values)
        assert status == 0 and f"{runs} runs of " in out and " kWh at 65 W" in out and "on the disk" in out
        assert not Path("studies").exists()
        assert say("study", what, archive, *options)[0] == 0
        study = Study(f"studies/noise-{what}-small")
        assert {p["fields"].get(axis) for p in study.points} == values and len(study.points) == runs
        assert {p["state"] for p in study.status()} == {"done"}
        shutil.rmtree("studies")


def test_values_and_seeds_that_are_added_alone_are_trained(archive, nothing_is_trained):
    options = [*OPTIONS, "--out", "s", "--at-once", "1", "--metrics", "none"]
    assert say("study", "targets", archive, *options, "--target", "0.3,0.5", "--seeds", "0")[0] == 0
    before = {p["run"]: (p["run"] / "stats.jsonl").read_bytes() for p in Study("s").points}
    status, out, _ = say("study", "targets", archive, *options, "--target", "0.9", "--seeds", "0,1")
    assert status == 0 and "s: 4 runs" in out and "  2 runs of" in out and "4 done" in out
    assert all((run / "stats.jsonl").read_bytes() == text for run, text in before.items())
    assert (
        "every run is done already" in say("study", "targets", archive, *options, "--target", "0.9", "--seeds", "0")[1]
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (["--small"], "--small belongs to augmentations, targets, sizes"),
        (["--snap", "1,2"], "would train equal networks"),
        (["--subset", "40,30", "--with", "subset_by=micrograph"], "no effect beside no subset"),
        (
            ["--seeds", "0", "--with", "tf32=yes", "--with", "tf32=no"],
            "would train equal networks on these data and this machine",
        ),
        (["--metrics", "random_fd20_holdout", "--subset", "10,20"], "has no hold-out part"),
        (["--first-gpu", "3"], "has no GPU"),
        (["--gpus", "2", "--batch-gpu", "16"], "times the number of processes (2)"),
        (["--ada-targt", "0.3"], "did you mean --ada-target"),
        (["--ada-target", "0.3,x"], "invalid number"),
        (["--with", "ada_targte=1"], "did you mean 'ada_target'"),
        (["--with", "p=x"], "no value for p"),
        (["--seeds", "2-1"], "rising"),
        (["--ada-target", "3"], "from 0 to 1"),
    ],
)
def test_faults_of_a_study_are_one_sentence(archive, options, words, monkeypatch):
    monkeypatch.setattr(training_verbs, "_train_study", lambda *args: pytest.fail("it was not refused"))
    status, _, err = say("study", "sweep", archive, *options)
    assert status == 2 and words in err and len(err.splitlines()) == 1 and not any(Path().iterdir())


def test_the_lab_folder_is_the_users():
    book = Path(__file__).resolve().parents[2] / "nbs"
    notebook = cli.lab_folder("my lab")
    assert (
        notebook == Path("my lab/01_quickstart.ipynb")
        and notebook.read_bytes() == (book / "tutorials" / notebook.name).read_bytes()
    )
    shipped = sorted(
        path.relative_to(book)
        for pattern in ("[0-9]*.ipynb", "glossary.ipynb", "images/*.png")
        for path in book.glob(pattern)
    )
    assert (
        sorted(path.relative_to("my lab/chapters") for path in Path("my lab/chapters").rglob("*.*")) == shipped
        and len(shipped) > 50
    )
    assert all((Path("my lab/chapters") / name).read_bytes() == (book / name).read_bytes() for name in shipped)
    chapter, gone = Path("my lab/chapters/12_micrographs.ipynb"), Path("my lab/chapters/60_generate.ipynb")
    notebook.write_text("mine"), chapter.write_text("mine too"), gone.unlink()
    assert cli.lab_folder("my lab").read_text() == "mine" and chapter.read_text() == "mine too" and gone.exists()
    Path("file").touch()
    Path("other").mkdir()
    Path("other/chapters").touch()
    for folder in ("file", "other"):
        status, _, err = say("lab", folder)
        assert status == 2 and "is a file" in err and len(err.splitlines()) == 1


def test_lab_opens_the_notebook(monkeypatch):
    from jupyterlab.labapp import LabApp

    called = []
    monkeypatch.setattr(LabApp, "launch_instance", classmethod(lambda cls, argv: called.append(argv)))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "elsewhere")
    assert say("lab", "--no-browser", "--port", "8999")[0] == 0
    assert called == [
        [
            f"--ServerApp.root_dir={Path('semgan-lab').resolve()}",
            "--LabApp.default_url=/lab/tree/01_quickstart.ipynb",
            "--ServerApp.port=8999",
            "--no-browser",
        ]
    ]
    assert os.environ["JUPYTER_CONFIG_PATH"].startswith("elsewhere" + os.pathsep)


@pytest.mark.parametrize("own, expected", [(None, "false"), ("true", "true"), ("none", "none")])
def test_lab_does_not_ask_about_news_and_leaves_the_users_settings_alone(monkeypatch, own, expected):
    from jupyterlab.commands import get_app_dir
    from jupyterlab.labapp import LabApp
    from jupyterlab_server.settings_utils import get_settings

    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(Path("config").resolve()))
    monkeypatch.setattr(LabApp, "launch_instance", classmethod(lambda cls, argv: None))
    mine = Path("mine/@jupyterlab/apputils-extension/notification.jupyterlab-settings")
    mine.parent.mkdir(parents=True)
    if own:
        mine.write_text(json.dumps(dict(fetchNews=own)))
    name = "@jupyterlab/apputils-extension:notification"
    answer = lambda: (
        lambda found: found["settings"].get("fetchNews", found["schema"]["properties"]["fetchNews"]["default"])
    )(get_settings("none", os.path.join(get_app_dir(), "schemas"), "mine", schema_name=name)[0])
    assert answer() == (own or "none")  # as JupyterLab is by itself
    assert say("lab", "--no-browser")[0] == 0
    assert answer() == expected and mine.exists() == bool(own) and not Path("config").exists()
