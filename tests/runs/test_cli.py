"""Chapters 93 to 99: the command's faults and help, and the demo from end to end with a training of a few hundred
images."""

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
from made_up_runs import SMALL_DEMO
from PIL import Image

from semgan_nb import demo_result
from semgan_nb.launch import evaluate
from semgan_nb.demo import demo
from semgan_nb.cli import VERBS, info, main
from semgan_nb.foundation import BadInput
from semgan_nb.micrographs import list_images
from semgan_nb.runs import read_config, read_metrics, read_stats, read_status, snapshots

TINY, SHORT = SMALL_DEMO, 48  # frames of a film
OPTIONS = [
    f"--{name.replace('_', '-')}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
    for name, value in TINY.items()
]


@pytest.fixture(autouse=True)
def short_film(monkeypatch):
    "Two seconds; the whole minute of a demo is counted in test_report."
    monkeypatch.setattr(demo_result, "write_walk", functools.partial(demo_result.write_walk, frames=SHORT))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def micrographs(quarters):
    return quarters


@pytest.fixture(scope="module")
def finished(demo_run, tmp_path_factory):
    """A demo that ran to its end, a copy to work on; what it returned and said names the folder it ran in."""
    out, found, words = demo_run
    return shutil.copytree(out, tmp_path_factory.mktemp("demo") / "out"), found, words


def complaint(*argv):
    """What the command says of a fault: one sentence, after a progress bar perhaps; and status 2."""
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        status = main([str(arg) for arg in argv])
    assert status == 2
    *bars, sentence = words.getvalue().splitlines()
    assert sentence.startswith("semgan: ") and all("%|" in bar or not bar for bar in bars), words.getvalue()
    return sentence


def test_help_is_quick_and_fits_a_page(capsys):
    code = "import sys; from semgan_nb.cli import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for verb in VERBS:
        assert f"\n  {verb}  " in said
        assert main([verb, "--help"]) == 0
        assert 5 < capsys.readouterr().out.count("\n") <= 50, verb


def test_python_m_is_the_command():
    said = forked.run([sys.executable, "-m", "semgan_nb", "info", "absent"], capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr.splitlines()[-1].startswith("semgan: absent: there is no such"), said


@pytest.mark.parametrize(
    "argv, word",
    [
        (["trian"], "train"),
        (["train", "x.zip", "--gama=1"], "--gamma"),
        (["train", "x.zip", "--kimg", "long"], "kimg"),
        (["train"], "data"),
        (["train", "x.zip"], "x.zip"),
        (["synth", "x.zip", "--size", "33"], "33"),
        (["info", "absent"], "absent"),
        (["demo", "--data", "absent"], "absent"),
        (["demo", "--aug", "more"], "noaug"),
        (["metrics", "absent"], "absent"),
        (["train", "x.zip", "surplus"], "surplus"),
    ],
    ids=str,
)
def test_faults_are_one_sentence_and_write_nothing(here, argv, word):
    assert word in complaint(*argv)
    assert not list(here.iterdir())


def test_bad_images_are_named(here):
    (here / "empty").mkdir()
    assert "empty" in complaint("prepare", "empty", "a.zip", "--size", 32)
    (here / "text").mkdir()
    (here / "text" / "steel.png").write_text("no image")
    assert "steel.png" in complaint("prepare", "text", "a.zip", "--size", 32)
    assert "steel.png" in complaint("demo", "--data", "text")
    (here / "small").mkdir()
    Image.fromarray(np.arange(400, dtype=np.uint32).astype(np.uint8).reshape(20, 20)).save(here / "small" / "tiny.png")
    assert "tiny.png" in complaint("prepare", "small", "a.zip", "--size", 32)
    assert sorted(path.name for path in here.iterdir()) == ["empty", "small", "text"]


def test_demo_writes_what_it_says(finished):
    out, found, words = finished
    for name in (
        "data.zip",
        "curves.png",
        "samples.png",
        "two_points.png",
        "report.html",
        "walk.mp4",
        "run/config.json",
        "run/ladder-random_fd50_holdout.json",
    ):
        assert (out / name).stat().st_size > 100, name
    assert Image.open(out / "samples.png").size[0] > 400
    part = found["metrics"]["random_fd50_holdout"]
    assert part["sentence"] in words and "GENERATED" in words and found["physics"]["text"] in words
    assert "matched" in found["physics"]["text"]
    assert read_status(out / "run")["state"] == "done"


def test_demo_without_a_working_ffmpeg_goes_on(finished, micrographs, monkeypatch):
    import imageio_ffmpeg

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    out, _, _ = finished
    (out / "walk.mp4").unlink()
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    words = []
    found = demo(str(micrographs), out=out, window=128, stride=16, progress=False, say=words.append, **TINY)
    assert (
        found["film"] is None
        and "no film" in "\n".join(words)
        and "<video" not in (out / "report.html").read_text(encoding="utf-8")
    )


def test_demo_judges_a_finished_run_by_another_metric(finished, micrographs):
    out, _, _ = finished
    found = demo(
        str(micrographs),
        out=out,
        window=128,
        stride=16,
        progress=False,
        say=lambda _: None,
        **{**TINY, "metrics": ("random_fd20_holdout",)},
    )
    assert (
        list(found["metrics"]) == ["random_fd20_holdout"]
        and found["metrics"]["random_fd20_holdout"]["ladder"]["num_gen"] == 20
    )


def test_demo_again_does_nothing_twice(finished, micrographs):
    out, found, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "run").rglob("*.safetensors")} | {
        out / "data.zip": (out / "data.zip").stat().st_mtime_ns
    }
    words = []
    again = demo(str(micrographs), out=out, window=128, stride=16, progress=False, say=words.append, **TINY)
    assert again["metrics"] == found["metrics"] and "was done already" in "\n".join(words)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_demo_refuses_other_settings_and_foreign_folders(finished, micrographs, tmp_path):
    out, _, _ = finished
    with pytest.raises(BadInput, match="size is 32 there and 64 here"):
        demo(str(micrographs), size=64, out=out, window=128, stride=16)
    with pytest.raises(BadInput, match="r1_gamma is 1.0 there and 5.0 here"):
        demo(str(micrographs), out=out, window=128, stride=16, progress=False, say=lambda _: None, **TINY, r1_gamma=5.0)
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(BadInput, match="thesis.docx"):
        demo(str(micrographs), out=tmp_path)


def test_metrics_are_added_once_and_never_beside_a_training(finished):
    import filelock

    out, _, _ = finished
    records = evaluate(out / "run", ["random_fd20_full"], every=True, progress=False)
    assert len(records) == len(snapshots(out / "run")) == len(read_metrics(out / "run")["random_fd20_full"])
    assert {"results", "kimg", "cur_nimg", "snapshot_pkl", "num_real", "num_gen", "extractor_sha256"} <= set(records[0])
    again = evaluate(out / "run", ["random_fd20_full"], progress=False)
    assert again == records[-1:] and len(read_metrics(out / "run")["random_fd20_full"]) == len(records)
    with filelock.FileLock(str(out / "run" / "lock")):
        assert "in use" in complaint("metrics", out / "run")


def test_info_says_what_things_are(finished, micrographs):
    out, _, _ = finished
    assert "6 images" in info(micrographs) and "256 x 256" in info(list_images(micrographs)[0])
    assert (
        "held out" in info(out / "data.zip")
        and "done" in info(out / "run")
        and "cur_nimg" in info(snapshots(out / "run")[-1])
    )
    assert info(out / "run" / "state").count("state of a run at") == len(list((out / "run" / "state").glob("*.pt"))) > 0


def test_train_goes_on_with_a_run(finished, here, capsys):
    out, _, _ = finished
    assert main(["train", str(out / "data.zip"), "--cfg", "laptop", *OPTIONS]) == 0
    run = next((here / "runs").iterdir())
    assert run.name.startswith("00001-data-laptop") and read_status(run)["state"] == "done"
    assert main(["train", str(out / "data.zip"), "--out", str(run), "--kimg", "0.32"]) == 0
    assert read_config(run)["resolved"]["total_kimg"] == 0.32 and read_config(run)["resolved"]["channel_max"] == 16
    assert main(["train", str(out / "data.zip"), "--out", str(run)]) == 0
    assert "was done already" in capsys.readouterr().out
    assert "r1_gamma" in complaint("train", out / "data.zip", "--out", run, "--gamma", 7)


def test_demo_interrupted_in_every_stage_goes_on(finished, micrographs, tmp_path, monkeypatch):
    """Stage by stage: the archive, its record, the ladder, the first tick, the film, the report; training is cut by
    a signal below."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    out, words = tmp_path / "cut", []
    run = lambda: demo(str(micrographs), out=out, window=128, stride=16, progress=False, say=words.append, **TINY)
    for place in (
        "semgan_nb.preparation.write_archive",
        "semgan_nb.demo.write_json",
        "semgan_nb.evaluation.Judge.ladder",
        "semgan_nb.training._Reporter.begin",
        "semgan_nb.training._Reporter.evaluate",
        "semgan_nb.films._encode",
        "semgan_nb.demo_result.read_demo",
        "semgan_nb.report.write_report",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                run()
        assert not [path for path in (out.rglob("*") if out.exists() else ()) if path.name.endswith(".tmp")], place
    found = run()
    assert json.dumps(found["metrics"]) == json.dumps(finished[1]["metrics"]) and Path(found["report"]).exists()
    assert sum("preparing" in line for line in words) == 3 and "was done already" in "\n".join(words)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent to a process as POSIX does")
def test_interrupted_demo_goes_on_to_the_same_end(finished, micrographs, tmp_path):
    out, found, _ = finished
    command = [
        sys.executable,
        "-c",
        "import functools, sys; from semgan_nb import demo_result; from semgan_nb.cli import main;"
        f" demo_result.write_walk = functools.partial(demo_result.write_walk, frames={SHORT}); sys.exit(main())",
        "demo",
        "--data",
        str(micrographs),
        "--window",
        "128",
        "--stride",
        "16",
        "--out",
        str(tmp_path / "cut"),
        *OPTIONS,
    ]
    process = forked.Popen(command, stdout=forked.DEVNULL, stderr=forked.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not read_stats(tmp_path / "cut" / "run"):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "goes on" in errors.splitlines()[-1]
    assert read_status(tmp_path / "cut" / "run")["state"] == "stopped"
    again = forked.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    kept = [
        {"kimg": record["kimg"], **record["results"]}
        for record in read_metrics(tmp_path / "cut" / "run")["random_fd50_holdout"]
    ]
    whole = [
        {"kimg": record["kimg"], **record["results"]} for record in read_metrics(out / "run")["random_fd50_holdout"]
    ]
    assert json.dumps(kept) == json.dumps(whole)
