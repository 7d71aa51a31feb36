"""Beside other programs: threads that wait asleep, the number of threads that belongs to a run, and what a run says of its neighbours."""
import os
import subprocess
import sys

import pytest
import torch

import semgan_nb
from semgan_nb.foundation import cores
from semgan_nb.runs import Config, read_config, read_stats, read_status
from semgan_nb.resources import Neighbours, choose_threads
from semgan_nb.training import train

TINY = Config(z_dim=16, w_dim=16, channel_base=64, channel_max=8, batch_size=8, batch_gpu=4, total_kimg=0.064, kimg_per_tick=0.032, metrics=())
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def said_by(code, **environment):
    "What a fresh Python prints, with nothing of OpenMP in its environment but what is given."
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.run([sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, check=True).stdout.split()


SHOW = "import os; print(*(os.environ.get(name, '-') for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')))"


def test_importing_the_package_first_lets_threads_sleep():
    assert said_by(f"import semgan_nb; {SHOW}; print(semgan_nb._THREADS_SLEEP)") == ["PASSIVE", "1000", "-", "True"]


def test_the_command_sets_it_before_torch():
    code = f"import sys, semgan_nb.cli; print('torch' in sys.modules); import semgan_nb.training; {SHOW}; print('torch' in sys.modules)"
    assert said_by(code) == ["False", "PASSIVE", "1000", "-", "True"]


@pytest.mark.parametrize("name, value", [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "infinity"), ("KMP_BLOCKTIME", "200")])
def test_what_the_user_has_set_stays_alone(name, value):
    found = said_by(f"import semgan_nb; {SHOW}", **{name: value})
    assert found == [value if k == name else "-" for k in SETTINGS]


def test_too_late_where_torch_is_there():
    environment = {}
    assert not semgan_nb._threads_sleep(environment, torch_is_there=True) and not environment
    assert said_by(f"import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import semgan_nb; {SHOW}; print(semgan_nb._THREADS_SLEEP)") == ["-", "-", "-", "False"]


def test_children_inherit_it():
    code = f"import subprocess, sys, semgan_nb; print(subprocess.run([sys.executable, '-c', {SHOW!r}], capture_output=True, text=True).stdout)"
    assert said_by(code) == ["PASSIVE", "1000", "-"]


@pytest.fixture
def any_threads(monkeypatch):
    "No number of threads in the environment, and three cores to have; afterwards everything as it was."
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("semgan_nb.resources.cores", lambda: 3)
    yield monkeypatch
    torch.set_num_threads(before)


def test_a_run_keeps_the_number_of_threads_it_began_with(archive, tmp_path, any_threads):
    """Begun with two threads and gone on with in a process that has one: equal to a run that never ended, to the last bit."""
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
    same = lambda run: [{k: v for k, v in s.items() if not k.startswith(("Timing", "Resources", "timestamp"))} for s in read_stats(run)]
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
    monkeypatch.setattr(Neighbours, "__init__", lambda self, threads: (setattr(self, "threads", cores()), setattr(self, "said", ""), setattr(self, "fastest", 0.0), self.restart())[0])
    monkeypatch.setattr(semgan_nb, "_THREADS_SLEEP", False)
    told = [read_status(tmp_path / "r")["message"] for _ in train(TINY.replace(total_kimg=0.096), archive, tmp_path / "r")]
    log = (tmp_path / "r" / "log.txt").read_text()
    assert [bool(words) for words in told] == [False, True, True, False] and f"of {cores()} cores" in told[1]
    assert log.count("other programs take") == 1 and log.count("leave room again") == 1
    assert "import semgan_nb before torch" in log


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


def test_chapters_import_the_package_before_torch():
    "In a notebook the exported cell of imports would else load PyTorch first."
    import json
    import re
    from pathlib import Path

    for path in sorted((Path(__file__).resolve().parents[2] / "nbs").rglob("*.ipynb")):
        lines = [line for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
        first = {name: next((k for k, line in enumerate(lines) if re.match(rf"\s*(import|from) {name}\b", line)), len(lines)) for name in ("torch", "semgan_nb")}
        assert first["torch"] == len(lines) or first["semgan_nb"] < first["torch"], f"{path.name}: begin with a cell that says import semgan_nb"
