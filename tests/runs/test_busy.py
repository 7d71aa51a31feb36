"""Beside other programs: threads that yield, the number of threads that belongs to a run, and what a run says of its
neighbours."""

import subprocess
import sys

import pytest
import tiny
import torch

from semgan_nb.foundation import cores
from semgan_nb.runs import read_config, read_stats, read_status
from semgan_nb.resources import Neighbours, Yielding, choose_threads
from semgan_nb.training import train

TINY = tiny.TINY.replace(total_kimg=0.064)


@pytest.fixture
def any_threads(monkeypatch):
    "No number of threads in the environment, and three cores to have; afterwards everything as it was."
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("semgan_nb.resources.cores", lambda: 3)
    yield monkeypatch
    torch.set_num_threads(before)


def test_a_run_keeps_the_number_of_threads_it_began_with(archive, tmp_path, any_threads):
    """Begun with two threads and gone on with in a process that has one: equal to a run that never ended, to the
    last bit."""
    torch.set_num_threads(2)
    list(train(TINY, archive, tmp_path / "unbroken" / "r"))
    loop = train(TINY, archive, tmp_path / "r")
    next(loop)
    loop.close()
    torch.set_num_threads(1)
    seen = [torch.get_num_threads() for _ in train(TINY, archive, tmp_path / "r")]
    assert seen and set(seen) == {2} and torch.get_num_threads() == 1
    assert read_config(tmp_path / "r")["environment"]["threads"] == 2
    log = (tmp_path / "r" / "log.txt").read_text()
    assert "threads: 2 instead of 1, as the run began" in log and "not exact" not in log
    same = lambda run: [
        {k: v for k, v in s.items() if not k.startswith(("Timing", "Resources", "timestamp"))} for s in read_stats(run)
    ]
    assert same(tmp_path / "r") == same(tmp_path / "unbroken" / "r")
    weights = [sorted((tmp_path / run).glob("snapshot-*"))[-1] for run in ("r", "unbroken/r")]
    from semgan_nb.checkpoints import load

    a, b = (load(path).G.state_dict() for path in weights)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_threads_are_no_more_than_cores_and_the_environment_decides(archive, tmp_path, any_threads):
    torch.set_num_threads(4)
    loop = train(TINY, archive, tmp_path / "r")
    next(loop), loop.close()
    assert read_config(tmp_path / "r")["environment"]["threads"] == 3 and torch.get_num_threads() == 4
    any_threads.setattr("semgan_nb.resources.cores", lambda: 2)
    assert choose_threads(tmp_path / "r") == 2  # the machine has become smaller
    torch.set_num_threads(1)
    any_threads.setenv("OMP_NUM_THREADS", "1")
    assert choose_threads(tmp_path / "r") == 1
    list(train(TINY, archive, tmp_path / "r"))
    assert "threads 3 -> 1): not exact to the last bit" in (tmp_path / "r" / "log.txt").read_text()


def test_a_run_says_that_the_machine_is_busy(archive, tmp_path, monkeypatch):
    taken = iter([0.0, 0.9 * cores(), 0.9 * cores(), 0.0])
    monkeypatch.setattr(Neighbours, "taken", lambda self: next(taken))
    monkeypatch.setattr("semgan_nb.training.Yielding", lambda threads: Yielding(1))  # who would look as well
    monkeypatch.setattr(
        Neighbours,
        "__init__",
        lambda self, threads: (
            setattr(self, "threads", cores()),
            setattr(self, "said", ""),
            setattr(self, "fastest", 0.0),
            self.restart(),
        )[0],
    )
    told = [
        read_status(tmp_path / "r")["message"] for _ in train(TINY.replace(total_kimg=0.096), archive, tmp_path / "r")
    ]
    log = (tmp_path / "r" / "log.txt").read_text()
    assert [bool(words) for words in told] == [False, True, True, False] and f"of {cores()} cores" in told[1]
    assert log.count("other programs take") == 1 and log.count("leave room again") == 1


def test_neighbours_see_another_program_and_not_their_own():
    import time

    beside = Neighbours(threads=cores())
    assert beside.taken() is None  # too short to say
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as loop:
        try:
            time.sleep(1.2)
            with_loop = beside.taken()
        finally:
            loop.kill()
    if with_loop is None:
        pytest.skip("this system does not say")
    assert with_loop > 0.1
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        pass
    assert beside.taken() < cores() + 0.2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenMP of GCC")
def test_a_training_yields_while_others_crowd_it_and_computes_the_same(archive, monkeypatch):
    """The watcher brakes and lets go; with the brake on, the weights after four iterations are those without, to the
    last bit; no thread is left."""
    import threading
    import time

    from semgan_nb.dataset import Dataset
    from semgan_nb.trainer import Trainer

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    taken = [0.0]
    monkeypatch.setattr(Neighbours, "taken", lambda self: taken[0])
    wait = lambda wanted: [time.sleep(0.05) for _ in range(200) if yielding.braked != wanted]
    mine = lambda: [t.name for t in threading.enumerate() if t.name.startswith("semgan")]
    try:
        free, held = (Trainer(TINY, Dataset(archive)) for _ in range(2))
        for _ in range(4):
            free.iterate()
        with Yielding(2) as yielding:
            assert mine() == ["semgan yields"] and not yielding.braked
            taken[0] = float(cores())
            wait(True)
            assert yielding.braked and "semgan asleep" in mine()
            for _ in range(4):
                held.iterate()
            taken[0] = 0.0
            wait(False)
            assert not yielding.braked and mine() == ["semgan yields"]
            yielding.brake(True)
        assert not mine()
        a, b = free.state_dict(), held.state_dict()
        assert all(torch.equal(a[n][k], b[n][k]) for n in ("G", "D", "G_ema") for k in a[n])
    finally:
        torch.set_num_threads(before)


def test_one_thread_has_nobody_to_wait_for():
    import threading

    with Yielding(1):
        assert not [t for t in threading.enumerate() if t.name.startswith("semgan")]
