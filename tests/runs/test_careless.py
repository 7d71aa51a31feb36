"""Careless commands: numbers that make no sense are refused before anything is written, in a dry run as in earnest;
nothing that is there is lost; a run is found, and knows its archive."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import say
from made_up_runs import made_up_run, random_snapshot

from semgan_nb import plots
from semgan_nb.checkpoints import data_of
from semgan_nb.dashboards.live import run_state
from semgan_nb.foundation import BadInput
from semgan_nb.opening import RunWriter
from semgan_nb.runs import Config, read_config, read_status, snapshots
from semgan_nb.studies import Study
from semgan_nb.opening import strength_warning

WORDS = "years of work"
TINY = (
    "--z-dim=16 --w-dim=16 --channel-base=64 --channel-max=8 --g-channels=8,8,4 --batch-size=8 --batch-gpu=4"
    " --kimg=0.016 --kimg-per-tick=0.016 --snap=1 --metrics=none".split()
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def place(here, archive, quarters, unbroken):
    "noise.zip, steel, run (that ended), thesis.txt."
    shutil.copy(archive, "noise.zip"), shutil.copytree(quarters, "steel"), shutil.copytree(unbroken, "run")
    Path("thesis.txt").write_text(WORDS)
    return here


def refused(command, *words):
    status, out, err = say(*(command.split() if isinstance(command, str) else command))
    lines = err.splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith("semgan: ") and not out, (command, status, out, err)
    assert all(word in err for word in words), err
    return err


TRAIN = [
    ("--kimg inf", "kimg"),
    ("--kimg nan", "kimg"),
    ("--seed 20000000000000000000", "seed"),
    ("--channel-base 3", "channel-base"),
    ("--channel-base 8", "channel_base is 8", "16 px"),
    ("--g-lr inf", "g-lr"),
    ("--freezed 99", "freezed is 99", "at most 7"),
    ("--p 0.9 --p-max 0.5", "p is 0.9", "p_max (0.5)"),
    ("--p-max nan", "p-max"),
    ("--memory 0", "memory"),
    ("--memory nan", "memory"),
    ("--gpus 0", "gpus"),
    ("--gpus 3", "batch_size is 8"),
    ("--first-gpu 3", "first_gpu is 3", "no GPU"),
    ("--state-every nan", "state-every"),
    ("--metrics nonsense", "nonsense"),
    ("--metrics lite0_fd100000000_full", "100000000"),
    ("--subset 1000000", "subset: 1000000", "40"),
    ("--gamma nan", "gamma"),
    ("--g-lr 25", "25 was given", "more than 0 and at most 1"),
    ("--d-lr 1.5", "at most 1"),
    ("--out thesis.txt", "thesis.txt is a file"),
    ("--out thesis.txt/run", "thesis.txt is a file"),
    ("--watts inf", "watts"),
    ("--g-channels 8,8", "g_channels"),
    ("--page 3", "no option --page"),
]


@pytest.mark.parametrize(
    "options, words",
    [(options, words) for options, *words in TRAIN],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("dry", ["", " --dry-run"], ids=["earnest", "dry"])
def test_a_training_refuses_the_same_in_a_dry_run_and_in_earnest(here, archive, monkeypatch, options, words, dry):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("thesis.txt").write_text(WORDS)
    refused([*f"train {archive} --out new".split(), *TINY, *options.split(), *dry.split()], *words)
    assert [p.name for p in here.iterdir()] == ["thesis.txt"] and Path("thesis.txt").read_text() == WORDS


@pytest.mark.parametrize(
    "command, words",
    [
        (command, words)
        for command, *words in [
            ("walk run --psi nan", "psi"),
            ("walk run --psi inf", "psi"),
            ("walk run --frames 1000000000000", "frames"),
            ("walk run --fps inf", "fps"),
            ("walk run --seeds 0-100000000", "seeds"),
            ("walk run --out thesis.txt/w.mp4", "thesis.txt"),
            ("walk run --out .", "name of a film"),
            ("walk run --figure thesis.txt", ".png, .pdf or .svg"),
            ("phases run ph --psi nan", "psi"),
            ("phases run ph --seeds 0-100000000", "at most 100000"),
            ("phases steel ph --median 1001", "median"),
            ("phases steel ph --sigma inf", "sigma"),
            ("phases steel ph --images 0", "images"),
            ("phases steel ph --bar -3", "bar"),
            ("prepare steel p.zip --size 96", "64 and 128"),
            ("prepare steel p.zip --size 32 --median 1001", "median"),
            ("prepare steel p.zip --size 32 --bar -3", "bar"),
            ("prepare steel p.zip --size 32 --page -1", "page"),
            ("prepare steel p.zip --size 32 --holdout nan", "holdout"),
            ("synth s.zip --n 30", "--images or --specimens"),
            ("synth s.zip --images 10000000000", "images"),
            ("synth s.zip --field 1e9", "field"),
            ("synth s.zip --seed -1", "seed"),
            ("synth s.zip --images 3", "number of specimens"),
            ("demo --data steel --size 96", "64 and 128"),
            ("demo --data steel --metrics nonsense", "nonsense"),
            ("lab --port 99999", "port"),
            ("baselines noise.zip --count 1", "count"),
            ("baselines noise.zip --device nonsense", "device is 'nonsense'"),
            ("metrics run --device nonsense", "device is 'nonsense'"),
            ("metrics run --metrics none", "nothing to be judged by"),
            ("train run", "run is a run"),
            ("study sweep run --ada-target 0.3,0.5", "run is a run"),
            ("baselines run", "run is a run"),
            ("metrics run --data steel", "steel"),
            ("study sweep noise.zip --seeds 0-100000000", "seeds"),
            (
                "study sweep noise.zip --aug noaug --ada-target 0.3,0.5",
                "ada_target, which has no effect beside aug noaug",
            ),
            ("study sweep noise.zip --ada-target 0.3,0.5 --with aug=noaug,p=0.3", "p, which has no effect"),
            ("study sweep noise.zip --ada-target nan,0.5", "ada-target"),
            ("study sweep noise.zip --subset 10,100000", "subset: 100000"),
            ("phases steel ph --pixel-size -5nm", "'-5nm' was given, a length such as 50nm"),
            ("phases steel ph --pixel-size 1e-300nm", "a length such as 50nm"),
            ("prepare steel p.zip --size 32 --stretch -5,95", "stretch: (-5.0, 95.0)"),
            ("synth s.zip --fractions -1,0.5", "fractions: (-1.0, 0.5)"),
            ("prepare steel p.zip --size 32 --group nowhere.csv", "group: 'nowhere.csv'"),
            ("prepare steel p.zip --size 32 --group noise.zip", "noise.zip: cannot be read as a table"),
            ("prepare steel p.zip --size 32 --reference nowhere.tif", "nowhere.tif: there is no such file"),
            ("study sweep noise.zip --with preset=auto", "preset is no axis", "--cfg"),
        ]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_commands_refuse_what_makes_no_sense(place, command, words):
    before = sorted(str(p) for p in place.rglob("*"))
    refused(command, *words)
    assert sorted(str(p) for p in place.rglob("*")) == before and Path("thesis.txt").read_text() == WORDS


def test_equal_networks_are_no_study(here, archive):
    with pytest.raises(BadInput, match="would train equal networks"):
        Study.create("s", Config(), {}, [0], [dict(aug="ada"), dict(ada_target=0.6)])


def test_what_has_no_effect_is_said(here, archive):
    status, out, _ = say("train", archive, "--out", "r", *TINY, "--aug", "noaug", "--target", "0.3", "--memory", "2")
    assert (
        status == 0
        and "note: ada_target has no effect beside aug noaug" in out
        and "note: --memory has no effect beside --batch-gpu" in out
    )


# -- nothing is lost
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target, command",
    [
        ("walk.mp4", "walk run --frames 3"),
        ("walk.png", "walk run --frames 3"),
        ("a.gif", "walk run --frames 3 --out a.gif"),
        ("data.zip", "prepare steel data.zip --size 32"),
        ("s.zip", "synth s.zip --images 40 --specimens 4"),
        ("m.zip", "synth s.zip --images 40 --specimens 4 --maps m.zip"),
        ("d/data.zip", "demo --data steel --out d"),
        ("x.pt", "convert run x.pt"),
        ("x.safetensors", "convert run x.safetensors"),
        ("ph/spot1_0d_0.png", "phases steel ph --formats png"),
        ("b/baselines.json", "baselines noise.zip --out b --count 10"),
        ("b/baselines.png", "baselines noise.zip --out b --count 10"),
        ("b/baselines.md", "baselines noise.zip --out b --count 10"),
        ("p.png", "metrics run --metrics aligned_memory20_subset --pairs p.png"),
        ("r/thesis.docx", "train noise.zip --out r"),
        ("st/thesis.docx", "study sweep noise.zip --out st --ada-target 0.3,0.5"),
    ],
)
def test_a_file_that_is_there_is_not_replaced(place, target, command):
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).write_text(WORDS)
    before = sorted(str(p) for p in place.rglob("*"))
    refused(command, Path(target).name)
    assert Path(target).read_text() == WORDS and sorted(str(p) for p in place.rglob("*")) == before


def test_phase_maps_do_not_replace_the_micrographs(place):
    before = {p: p.read_bytes() for p in Path("steel").iterdir()}
    refused("phases steel steel --formats png", "spot1_0d_0.png is there already")
    assert {p: p.read_bytes() for p in Path("steel").iterdir()} == before


@pytest.mark.parametrize(
    "command, other",
    [
        ("walk run --frames 3 --out a.mp4", ""),
        ("walk run --frames 3 --out a.gif", ""),
        ("prepare steel p.zip --size 32", "synth p.zip --images 40 --specimens 4"),
        ("synth s.zip --images 40 --specimens 4 --maps m.zip", "synth m.zip --images 40 --specimens 4"),
        ("convert run x.safetensors", ""),
        ("phases steel ph", ""),
    ],
)
def test_own_earlier_output_is_replaced_and_that_of_another_command_is_not(place, command, other):
    for _ in range(2):
        assert say(*command.split())[0] == 0
    if other:
        refused(other, "is there already")
        assert say(*other.split(), "--overwrite")[0] == 0


def test_a_snapshot_of_other_networks_is_kept(place):
    """Two runs on the same data say the same of themselves at the same age, and are not the same."""
    import torch

    for seed in (0, 1):
        torch.manual_seed(seed)
        random_snapshot(Path(f"{seed}.safetensors"))
    assert (
        say("convert", "0.safetensors", "x.safetensors")[0] == say("convert", "0.safetensors", "x.safetensors")[0] == 0
    )
    before = Path("x.safetensors").read_bytes()
    refused("convert 1.safetensors x.safetensors", "x.safetensors is there already")
    assert (
        Path("x.safetensors").read_bytes() == before
        and say("convert", "1.safetensors", "x.safetensors", "--overwrite")[0] == 0
    )
    Path("x.safetensors").write_bytes(before[:-8])  # a damaged one is nobody's output
    refused("convert 1.safetensors x.safetensors", "x.safetensors is there already")


def test_an_archive_of_other_micrographs_is_kept(place):
    assert say("prepare", "steel", "p.zip", "--size", "32")[0] == 0
    Path("other").mkdir()
    for path in Path("steel").iterdir():  # the same names, other content
        from PIL import Image

        Image.open(path).rotate(90).save(Path("other") / path.name)
    refused("prepare other p.zip --size 32", "p.zip is there already")


# -- a run and its parts
# --------------------------------------------------------------------------------------------------


def test_a_run_without_its_states_is_refused_and_keeps_its_snapshots(place):
    shutil.rmtree("run/state")
    kept, config = (
        {p.name: p.read_bytes() for p in Path("run").iterdir() if p.is_file()},
        [
            f"--{k.replace('_', '-')}={','.join(v) if isinstance(v, list) else v}"
            for k, v in read_config("run")["requested"].items()
            if k not in ("preset", "metrics")
        ],
    )
    for more in ((), ("--dry-run",), ("--gpus", "2")):
        refused(
            ["train", "noise.zip", "--out", "run", *more],
            "no saved state",
            "--out",
            f"--init-from {snapshots('run')[-1]}",
        )
    assert {p.name: p.read_bytes() for p in Path("run").iterdir() if p.is_file()} == kept and config


def test_a_broken_state_names_a_way_on(place):
    for path in Path("run/state").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    err = say("train", "noise.zip", "--out", "run", "--kimg", "1")[2]
    assert "can be read, so the run cannot go on" in err and f"--init-from {snapshots('run')[-1]}" in err


def test_a_resume_that_is_refused_shows_no_bar(place):
    refused("train noise.zip --out run --gamma 77", "r1_gamma is")
    refused("train noise.zip --out run --gamma 77 --dry-run", "r1_gamma is")


def test_a_run_finds_its_archive_by_content(place, monkeypatch):
    about = json.loads(Path("run/config.json").read_text())
    about["data"] |= dict(path="noise.zip", absolute=str(place / "noise.zip"), relative="../noise.zip")
    Path("run/config.json").write_text(json.dumps(about))
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    assert data_of("../run").samefile("../noise.zip")  # after cd
    Path("../moved").mkdir(), shutil.move("../run", "../moved/run"), shutil.move("../noise.zip", "../moved/noise.zip")
    assert data_of("../moved/run").samefile("../moved/noise.zip")  # moved together
    shutil.move("../moved/noise.zip", "here.zip")
    with pytest.raises(BadInput, match="is not at .*noise.zip.*--data"):
        data_of("../moved/run")
    assert data_of("../moved/run", "here.zip") == Path("here.zip")
    assert say("synth", "other.zip", "--images", 40, "--specimens", 4, "--size", 16)[0] == 0
    with pytest.raises(BadInput, match="other.zip is not the archive that .* was trained on: its content is another"):
        data_of("../moved/run", "other.zip")
    config = Config.from_dict(about["resolved"])
    writer = RunWriter(
        "../moved/run", config, about["data"] | dict(path="here.zip")
    )  # as `train` does, which renews the place
    writer.close("done")
    assert data_of("../moved/run").samefile("here.zip") and read_config("../moved/run")["resolved"] == about["resolved"]


def test_info_of_a_run_that_was_killed(here):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = made_up_run(here / "run", total_kimg=96)
    status = json.loads((run / "status.json").read_text()) | dict(
        state="running", pid=gone.pid, heartbeat=time.time(), total_kimg=48
    )
    (run / "status.json").write_text(json.dumps(status))
    assert read_status(run)["state"] == "lost"  # at once, for its process is gone
    assert "stopped without a word at 48 of 96 kimg" in say("info", run)[1]
    (run / "status.json").write_text(json.dumps(status | dict(pid=os.getpid())))
    assert read_status(run)["state"] == "running"
    (run / "status.json").write_text(json.dumps(status | dict(host="elsewhere", heartbeat=time.time() - 100)))
    assert read_status(run)["state"] == "lost"


# -- p beyond 1
# -----------------------------------------------------------------------------------------------------------


def test_one_warning_where_p_rises_above_1(here, archive):
    command = [
        "train",
        archive,
        "--out",
        "r",
        *TINY,
        "--kimg",
        "0.2",
        "--target",
        "0",
        "--ada-kimg",
        "0.01",
        "--ada-interval",
        "1",
    ]
    status, _, err = say(*command)
    assert status == 0 and err.count("--p-max") == 1 and "--ada-target" in err
    assert (
        Path("r/log.txt").read_text().count("warning: p has risen above 1") == 1
        and "--p-max" in read_status("r")["warning"]
    )
    assert (
        "warning: p has risen above 1" in say("info", "r")[1]
        and "warning: p has risen above 1" in run_state("r")["text"]
    )
    status, _, err = say(*[word if word != "0.2" else "0.25" for word in command])
    assert (
        status == 0
        and "--p-max" not in err
        and Path("r/log.txt").read_text().count("warning: p has") == 1
        and read_status("r")["warning"]
    )
    marks = [line for line in plots.curves("r").axes[-1].lines if list(line.get_ydata()) == [1, 1]]
    assert len(marks) == 1 and not strength_warning(Config(), 1.0) and not strength_warning(Config(aug="fixed"), 2.0)


# -- other people's folders
# -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such names")
def test_names_that_are_not_utf8_are_listed(place):
    shutil.copy("steel/spot1_0d_0.png", b"steel/img\xff.png")
    for command in ("prepare steel p.zip --size 32", "demo --data steel --out d", "phases steel ph", "info steel"):
        assert r"img\xff.png" in refused(command, "not UTF-8")


def test_what_else_is_in_a_folder_is_said_in_one_note(place):
    for name in ("a.dm3", "b.dm3", "c.heic", "d.webp", "e.zip", "notes.txt"):
        Path("steel", name).write_bytes(b"x")
    os.symlink("/nowhere/x.tif", "steel/link.tif")
    status, out, _ = say("prepare", "steel", "p.zip", "--size", "32")
    note = next(line for line in out.splitlines() if "not read" in line)
    assert (
        status == 0
        and all(
            words in note
            for words in ("2 .dm3", "1 .heic", "1 .webp", "1 packed, e.g. e.zip", "1 dangling links, e.g. link.tif")
        )
        and "txt" not in note
    )


def test_labels_without_an_image_are_said(here, archive):
    import zipfile

    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile("labelled.zip", "w") as other:
        names = [name for name in whole.namelist() if name != "dataset.json"]
        for name in names:
            other.writestr(name, whole.read(name))
        images = [name for name in names if name.endswith(".png")]
        other.writestr("dataset.json", json.dumps(dict(labels=[["absent.png", 1], *([name, 0] for name in images)])))
    assert "1 entries of dataset.json, e.g. absent.png, name no image" in say("info", "labelled.zip")[1]
    assert "labels of the archive are ignored" in say("train", "labelled.zip", "--out", "r", *TINY)[1]


# -- the system refuses
# ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["read-only", "full"])
def bad_disk(place, request):
    disk = place / "disk"
    disk.mkdir()
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode
    ):
        pytest.skip("this user cannot mount a small disk")
    try:
        if request.param == "full":
            with open(disk / "ballast", "wb") as f:
                f.write(bytes(1 << 20))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(disk)])


def test_every_command_says_which_file_cannot_be_written(bad_disk):
    for command in (
        "walk run --out disk/w.mp4",
        "walk run --out disk/frames",
        "prepare steel disk/p.zip --size 32",
        "synth disk/s.zip --images 40 --specimens 4",
        "convert run disk/x.pt",
        "convert run disk/x.safetensors",
        "phases steel disk/ph",
        "baselines noise.zip --out disk/b --count 10",
        "demo --data steel --out disk/d",
        "study sweep noise.zip --out disk/st --ada-target 0.3,0.5",
        "train noise.zip --out disk/r",
        "lab disk/lab --no-browser",
        "metrics run --pairs disk/p.png",
        "fetch nasa-superalloy disk/f",
    ):
        status, _, err = say(*command.split())
        assert status == 2 and "cannot be written (" in err and "disk" in err and "Traceback" not in err, (command, err)


def test_a_fetch_that_fails_leaves_no_folder(here, monkeypatch):
    import requests

    def refuse(*args, **options):
        raise requests.ConnectionError("Failed to resolve")

    monkeypatch.setattr(requests.Session, "get", refuse)
    assert say("fetch", "nasa-superalloy", "new/steel")[0] == 2 and not list(here.iterdir())
