"""Chapter 51: training that begins from other weights. What becomes of the weights: tests/unit/test_checkpoints.py."""

import pickle
import shutil
from pathlib import Path

import official_files
import pytest
import torch
from command import said
from made_up_runs import logs
from official_files import same

import tiny

from semgan_nb.checkpoints import load, save_snapshot
from semgan_nb.official import load_networks
from semgan_nb.transfer import transfer_config
from semgan_nb.cli import info, main
from semgan_nb.runs import laptop, read_config, read_status, snapshots
from semgan_nb.training import train

TINY = tiny.TINY.replace(z_dim=8, w_dim=8, total_kimg=0.08, kimg_per_tick=0.016)


# -- conversion and info
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    G, D = official_files.networks(img_channels=3, mapping_layers=4)
    G_ema = official_files.networks(1, img_channels=3, mapping_layers=4)[0]
    path = tmp_path_factory.mktemp("pickle") / "rgb.pkl"
    path.write_bytes(official_files.dump(official_files.content_of(G_ema, G, D), 3))
    return path, G_ema, G, D


# -- transfer
# -------------------------------------------------------------------------------------------------------------


def transferred(pickled, **more):
    source = load_networks(pickled[0])
    return transfer_config(TINY.replace(init_from=str(pickled[0]), init_adapt=["channels"], freezed=3, **more), source)[
        0
    ]


def test_a_transfer_is_recorded_and_goes_on_exactly(archive, pickled, tmp_path):
    config = transferred(pickled)
    assert len(list(train(config, archive, tmp_path / "whole"))) == 6
    record = read_config(tmp_path / "whole")
    assert (
        record["resolved"]["init_from"] == str(pickled[0])
        and len(record["init"]["sha256"]) == 64
        and any("mean over the colours" in line for line in record["init"]["lines"])
    )
    assert (tmp_path / "whole" / "log.txt").read_text().count("not taken over") == 1
    ticks = train(config, archive, tmp_path / "broken")
    next(ticks), next(ticks)
    ticks.close()
    moved = pickled[0].rename(tmp_path / "moved.pkl")  # it is not needed any more
    try:
        assert read_status(tmp_path / "broken")["state"] == "stopped"
        list(train(config, archive, tmp_path / "broken"))
    finally:
        moved.rename(pickled[0])
    assert logs(tmp_path / "whole") == logs(tmp_path / "broken")
    a, b = load(tmp_path / "whole"), load(tmp_path / "broken")
    assert same(a.G, b.G) and same(a.D, b.D)
    frozen = load_networks(pickled[0]).D.b16.conv0.weight
    assert torch.equal(a.D.b16.conv0.weight, frozen) and not torch.equal(
        a.D.b8.conv0.weight, load_networks(pickled[0]).D.b8.conv0.weight
    )


def test_the_first_snapshot_is_the_source(archive, snapshot, tmp_path):
    "Half-life long, no ramp: after one batch the average is still the source's."
    config, _ = transfer_config(TINY.replace(init_from=str(snapshot), ema_kimg=1e6), load_networks(snapshot))
    next(ticks := train(config, archive, tmp_path / "r"))
    ticks.close()
    first, source = load(snapshots(tmp_path / "r")[0]).G, load(snapshot).G
    assert all(torch.allclose(p, q, atol=1e-4) for p, q in zip(first.parameters(), source.parameters()))


def test_from_a_run_means_its_newest_snapshot_of_then(archive, tmp_path):
    list(train(TINY, archive, tmp_path / "old"))
    newest = snapshots(tmp_path / "old")[-1]
    config = transfer_config(TINY.replace(init_from=str(tmp_path / "old")), load_networks(tmp_path / "old"))[0]
    ticks = train(config, archive, tmp_path / "new")
    next(ticks)
    ticks.close()
    assert read_config(tmp_path / "new")["resolved"]["init_from"] == str(newest) and read_config(tmp_path / "new")[
        "requested"
    ]["init_from"] == str(tmp_path / "old")
    shutil.copy(newest, tmp_path / "old" / "snapshot-000999999i.safetensors")  # the old run trained on
    list(train(config, archive, tmp_path / "new"))
    assert read_status(tmp_path / "new")["state"] == "done"
    said(lambda: list(train(config.replace(init_from=str(pickle)), archive, tmp_path / "new")))


def test_a_source_that_changed_before_anything_was_saved(archive, snapshot, tmp_path):
    own = tmp_path / "own.safetensors"
    shutil.copy(snapshot, own)
    config = transfer_config(TINY.replace(init_from=str(own)), load_networks(own))[0]
    ticks = train(config, archive, tmp_path / "r")
    next(ticks)
    ticks.close()
    shutil.rmtree(tmp_path / "r" / "state")
    for path in [
        *(tmp_path / "r").glob("snapshot-*"),
        *(tmp_path / "r").glob("fakes*"),
        tmp_path / "r" / "stats.jsonl",
    ]:
        path.unlink(missing_ok=True)
    save_snapshot(own, *official_files.networks(5))
    assert "has changed since" in said(lambda: list(train(config, archive, tmp_path / "r")))
    shutil.copy(snapshot, own)
    list(train(config, archive, tmp_path / "r"))


def test_refusals_write_nothing(archive, pickled, tmp_path):
    for config in (
        transferred(pickled).replace(init_adapt=()),
        TINY.replace(init_from=str(tmp_path / "absent.pkl")),
        TINY.replace(init_from=str(archive)),
        transferred(pickled).replace(channel_max=16),
    ):
        said(lambda: list(train(config, archive, tmp_path / "r")))
        assert not (tmp_path / "r").exists()
    assert "channels, resolution, mapping" in said(TINY.replace, init_adapt=["colour"])


def test_command_line(archive, pickled, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(archive), "--resume", "x.pkl"]) == 2
    text = capsys.readouterr().err
    assert "--out" in text and "--init-from" in text and text.count("\n") == 1
    short = ["--kimg", "0.032", "--batch", "8", "--kimg-per-tick", "0.016", "--metrics", "none"]
    assert main(["train", str(archive), "--out", "r", "--init-from", str(pickled[0]), *short]) == 2
    assert "--init-adapt channels" in capsys.readouterr().err and not Path("r").exists()
    assert (
        main(["train", str(archive), "--out", "r", "--init-from", str(pickled[0]), "--init-adapt", "channels", *short])
        == 0
    )
    text = capsys.readouterr().out
    assert (
        "ema_rampup is none instead of 0.05" in text
        and f"z_dim is 8 instead of {laptop().z_dim}, as in the source" in text
        and "mean over the colours" in text
    )
    assert read_config("r")["resolved"]["mapping_layers"] == 4 and "mean over the colours" in info("r")
    assert (
        main(["train", str(archive), "--out", "r", "--kimg", "0.048"]) == 0
    )  # goes on, without a word about the transfer
    assert "instead of" not in capsys.readouterr().out and read_status("r")["state"] == "done"
    assert main(["train", str(archive), "--init-from", str(pickled[0]), "--init-adapt", "channels", *short]) == 0
    assert [p.name for p in Path("runs").iterdir()] and "resumecustom" in next(Path("runs").iterdir()).name
