"""Chapters 50 to 57: what else is true of runs that end early: kills at random moments, full disks and what is said
of them, runs that ran away, two writers. That they go on exactly: test_exactly.py."""

import filelock
import random
import subprocess
import sys
import time

import forked
import numpy as np
import pytest
import stops
import torch

import tiny

import semgan_nb.trainer as trainer
import semgan_nb.training as training
import semgan_nb.foundation as foundation
import semgan_nb.losses as losses
from semgan_nb.checkpoints import load_state
from semgan_nb.dataset import Dataset
from semgan_nb.foundation import BadInput
from semgan_nb.foundation import RunFailed
from semgan_nb.runs import read_metrics, read_stats, read_status, snapshots
from semgan_nb.trainer import Trainer
from semgan_nb.resources import disk_use
from semgan_nb.training import Diverged, Run, ticks, train

TINY = tiny.TINY.replace(total_kimg=0.32, keep_snapshots=2, metrics=("random_fd10_full",))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums taken by another number of threads differ in their last bits: all runs that are compared here have one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- kills
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(archive, unbroken, tmp_path, kills):
    """SIGKILL from outside after a random while, with states written at every iteration, slowly; the run goes on
    until as many kills are done, then to its end."""
    rng, run, met, stood, config = random.Random(kills), tmp_path / "r", 0, [], stops.TINY
    if kills > 5:
        config, unbroken = TINY, tmp_path / "unbroken" / "r"
        stops.go_on(config, archive, unbroken, 1e9)
        assert len(read_stats(unbroken)) == 11 and len(read_metrics(unbroken)["random_fd10_full"]) == 6
    names = lambda: sorted(p.name for p in (run / "state").iterdir()) if (run / "state").exists() else []
    for k in range(kills):
        p, before, deadline = (
            forked.start_call(stops.trained_slowly, config.to_dict(), str(archive), str(run), 0.04),
            names(),
            time.monotonic() + 60,
        )
        if k % 5:  # some while after it began to save; every fifth at any moment from the start on
            while names() == before and p.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.25))
        else:
            time.sleep(rng.uniform(0.0, 1.5))
        p.kill(), p.wait()
        met += any(name.startswith(".") for name in names())
        stood.append(read_status(run).get("cur_nimg", 0))
    stops.go_on(config, archive, run)
    assert read_status(run)["state"] == "done"
    stops.assert_same(run, unbroken)
    print(f"{kills} kills, {met} of them while a state was being written, at {stood} images")
    if kills >= 50:
        assert met >= 5


def test_told_to_end_from_outside(archive, unbroken, tmp_path):
    """SIGTERM from another process, as a cluster sends it, while the run is at work: it saves where it stands, says
    so, and goes on to the same end."""
    run, seen = tmp_path / "r", []
    for _ in range(3):
        p, deadline = stops.start(stops.TINY, archive, run, 1e9), time.monotonic() + 60
        while read_status(run).get("state") != "running" and p.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        while len(read_stats(run)) < 2 + 2 * len(seen) and p.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        p.terminate()
        assert p.wait(60) not in (0, -9), "it ended before it was told to"
        status = read_status(run)
        assert status["state"] == "stopped" and "interrupted" in status["message"]
        seen.append(load_state(run / "state")["trainer"]["cur_nimg"])
        assert seen[-1] == status["cur_nimg"] and seen == sorted(seen) and seen[0] > 0
    stops.go_on(stops.TINY, archive, run, 1e9)
    stops.assert_same(run, unbroken)


def test_a_directory_of_a_run_killed_before_its_first_file(archive, tmp_path):
    run = tmp_path / "r"
    run.mkdir()
    (run / "lock").touch(), (run / ".config-0123abcd.json").write_text("{")
    next(train(TINY.replace(metrics=()), archive, run))
    assert not (run / ".config-0123abcd.json").exists()


# -- full disks
# -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_last_good_state(archive, tmp_path, monkeypatch):
    "That the run goes on from it exactly is asked in test_exactly.py."
    run = train(TINY, archive, tmp_path / "r", state_every=0)
    next(run), next(run), next(run)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "r" / "state").iterdir()}
    with monkeypatch.context() as m:

        def half(value, f):
            f.write(b"half of a state")
            stops.full()

        m.setattr(torch, "save", half)
        with pytest.raises(
            RunFailed,
            match=(
                r"no room for a saved state.* are free\. The last good state is at 0\.\d{3} kimg\. Free some space;"
                r" then the same command goes on"
            ),
        ):
            next(run)
    assert {p.name: p.read_bytes() for p in (tmp_path / "r" / "state").iterdir()} == kept
    assert read_status(tmp_path / "r")["state"] == "failed" and "no room" in read_status(tmp_path / "r")["message"]


def test_a_full_disk_at_a_snapshot_and_known_beforehand(archive, tmp_path, monkeypatch):

    config = TINY.replace(metrics=())
    run = train(config, archive, tmp_path / "r", state_every=0)
    next(run)
    with monkeypatch.context() as m:
        m.setattr(training, "save_snapshot", stops.full)
        with pytest.raises(RunFailed, match="no room for the pictures, weights and lines of a tick"):
            list(run)
    with monkeypatch.context() as m:
        m.setattr(foundation, "free_bytes", lambda folder: 1000)
        with pytest.raises(
            RunFailed, match=r"no room for a saved state in .*: it takes 1\.\d MB, and 1\.0 kB are free"
        ):
            list(train(config, archive, tmp_path / "r", state_every=0))
        with pytest.raises(RunFailed, match="no room for the first state and snapshot"):
            next(train(config, archive, tmp_path / "new"))
    list(train(config, archive, tmp_path / "r"))
    assert read_status(tmp_path / "r")["state"] == "done"


def test_disk_use_is_bounded_and_told(archive, tmp_path):
    config = TINY.replace(metrics=(), total_kimg=0.16)
    use = disk_use(Trainer(config, Dataset(archive)))
    most = 0
    for _ in train(config, archive, tmp_path / "r", state_every=0):
        most = max(most, sum(p.stat().st_size for p in (tmp_path / "r").rglob("*") if p.is_file()))
    assert most <= use["total"]
    assert max(p.stat().st_size for p in (tmp_path / "r" / "state").iterdir()) <= use["state"] and all(
        p.stat().st_size <= use["snapshot"] for p in snapshots(tmp_path / "r")
    )
    assert "takes at most" in (tmp_path / "r" / "log.txt").read_text()


def test_on_a_disk_that_is_really_full(archive, tmp_path):
    "A file system of a few MB in memory; needs the right to mount one."
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not sys.platform.startswith("linux")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode
    ):
        pytest.skip("this user cannot mount a small disk")
    try:
        config = TINY.replace(metrics=())
        run = train(config, archive, disk / "r", state_every=0)
        next(run), next(run)
        ballast = disk / "ballast"
        with open(ballast, "wb") as f:
            try:
                while True:
                    f.write(bytes(10_000)), f.flush()
            except OSError:
                pass
        with pytest.raises(RunFailed, match="no room for"):
            list(run)
        assert (
            ballast.stat().st_size > 0
            and read_status(disk / "r")["state"] == "failed"
            and "no room for" in read_status(disk / "r")["message"]
        )
        good = load_state(disk / "r" / "state")["trainer"]["cur_nimg"]
        ballast.unlink()
        list(train(config, archive, disk / "r"))
        assert good >= 40 and read_status(disk / "r")["state"] == "done" and len(read_stats(disk / "r")) == 11
    finally:
        subprocess.run(["umount", str(disk)])


# -- runs that ran away
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_stop_at_the_last_good_state(archive, tmp_path, monkeypatch, value):
    inner = losses.r1_penalty
    monkeypatch.setattr(
        trainer,
        "r1_penalty",
        lambda logits, images: inner(logits, images) + (value if trainers[0].cur_nimg >= 128 else 0),
    )
    trainers = []
    make = Trainer.__init__
    monkeypatch.setattr(
        Trainer, "__init__", lambda self, *args, **kwargs: (make(self, *args, **kwargs), trainers.insert(0, self))[0]
    )
    with pytest.raises(
        Diverged,
        match=(
            r"Loss/r1_penalty is no longer a finite number at 0\.136 kimg; the last good state is at 0\.128"
            r" kimg.*--init-from .*snapshot-000000072i.safetensors.*--g-lr 0.0025"
        ),
    ) as e:
        list(train(TINY.replace(metrics=()), archive, tmp_path / "r", state_every=0))
    assert load_state(tmp_path / "r" / "state")["trainer"]["cur_nimg"] == 128 and not np.isfinite(
        e.value.stats["Loss/r1_penalty"]["mean"]
    )
    status, log = read_status(tmp_path / "r"), (tmp_path / "r" / "log.txt").read_text()
    assert (
        status["state"] == "failed"
        and "--g-lr" in status["message"]
        and "Loss/r1_penalty: " in log
        and "Loss/D/loss: " in log
    )
    assert all(bool(torch.isfinite(t).all()) for t in load_state(tmp_path / "r" / "state")["trainer"]["G"].values())


def test_weights_that_are_not_finite_are_never_saved(archive, tmp_path):
    with pytest.raises(Diverged, match="a weight is no longer"):
        with Run(TINY.replace(metrics=()), archive, tmp_path / "r") as run:
            next(ticks(run))
            next(run.trainer.G_ema.parameters()).data.fill_(float("inf"))
    assert read_status(tmp_path / "r")["state"] == "failed"
    assert [p.name for p in (tmp_path / "r" / "state").glob("*.pt")] == [
        "state-000000000000.pt"
    ]  # of the beginning, before anything went wrong


def test_the_best_snapshot_outlives_the_last_ones(archive, tmp_path, monkeypatch):
    "Two metrics, best at different snapshots; besides these, the last two are kept."
    values = {
        "random_fd10_full": iter([5.0, 1.0, 3.0, 4.0, 6.0, 7.0]),
        "random_fd12_full": iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    }

    def judged(judges, run, G, snapshot, cur_nimg, progress=None):
        records = [
            dict(
                results={judge.metric: next(values[judge.metric])},
                metric=judge.metric,
                snapshot_pkl=snapshot.name,
                kimg=cur_nimg / 1000,
                cur_nimg=cur_nimg,
            )
            for judge in judges
        ]
        for record in records:
            foundation.append_line(run / f"metric-{record['metric']}.jsonl", record)
        return records

    monkeypatch.setattr(training, "judge_snapshot", judged)
    list(train(TINY.replace(metrics=tuple(values)), archive, tmp_path / "r"))
    assert [p.name for p in snapshots(tmp_path / "r")] == [f"snapshot-{n:09d}i.safetensors" for n in (8, 72, 264, 320)]


# -- two writers
# ----------------------------------------------------------------------------------------------------------


def test_many_processes_at_once_and_one_trains(archive, unbroken, tmp_path):
    "All begin on the same empty directory; one holds it, the others are refused and write nothing."
    processes = [stops.start(stops.TINY, archive, tmp_path / "r", stderr=forked.DEVNULL) for _ in range(4)]
    for p in processes:
        p.wait(300)
    assert sorted(p.returncode for p in processes).count(0) >= 1
    stops.assert_same(tmp_path / "r", unbroken)


def test_a_run_begun_by_another_between_the_look_and_the_lock(archive, tmp_path, monkeypatch):

    acquire, began = filelock.FileLock.acquire, []

    def late(self, *args, **kwargs):
        if not began:
            began.append(1)
            list(train(TINY.replace(metrics=(), total_kimg=0.016, seed=5), archive, tmp_path / "r"))
        return acquire(self, *args, **kwargs)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with pytest.raises(BadInput, match="seed is 5 there and 0 here"):
        next(train(TINY.replace(metrics=()), archive, tmp_path / "r"))
    with pytest.raises(BadInput, match="seed is 5 there"):  # and the lock was let go
        next(train(TINY.replace(metrics=()), archive, tmp_path / "r"))
