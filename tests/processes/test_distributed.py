"""Chapters 09 and 58, several processes: two ranks of one round against one process of two rounds, going on with
another number, a rank that dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import torch

from made_up_runs import logs
import tiny

from semgan_nb.checkpoints import load_state
from semgan_nb.foundation import BadInput, RunFailed
from semgan_nb.monitoring import request_stop
from semgan_nb.runs import read_config, read_stats, read_status
from semgan_nb.training import train
from semgan_nb.launch import launch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo")
TINY = tiny.TINY.replace(p=0.3)


def ranks_of(script, n, folder, *args, **environment):
    "Start n processes with the environment of ranks, as a cluster would."
    (folder / "meet").unlink(missing_ok=True)
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(n),
        "SEMGAN_RENDEZVOUS": (folder / "meet").as_uri(),
        **environment,
    }
    return [
        forked.Popen(
            [sys.executable, "-c", script, *map(str, args)],
            env={**common, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=forked.PIPE,
            stderr=forked.PIPE,
            text=True,
        )
        for r in range(n)
    ]


FLOAT64 = """
import json, sys, torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
from semgan_nb.dataset import Dataset
from semgan_nb.runs import Config
from semgan_nb.distributed import init_distributed
from semgan_nb.trainer import Trainer
ranks = init_distributed()
t = Trainer(Config.from_dict(json.loads(sys.argv[1])), Dataset(sys.argv[2]), ranks=ranks)
found = []
inner = t._phase
def phase(name, net, optimizer, *rest):
    inner(name, net, optimizer, *rest)
    found.append((name, [p.grad.clone() for p in net.parameters()]))
t._phase = phase
for _ in range(6):
    t.iterate()
torch.save(dict(found=found, w_avg=t.G.mapping.w_avg, pl_mean=t.pl_mean, p=float(t.ada.p), rt=t.ada.rt, signs=(t.ada.sign_sum, t.ada.sign_count), moments=t.statistics.moments,
                weights=list(t.G_ema.state_dict().values()), sampler=t.sampler.state_dict()), sys.argv[3] + str(ranks.rank))
"""


def float64_run(n, archive, folder, config):
    processes = ranks_of(FLOAT64, n, folder, json.dumps(config.to_dict()), archive, folder / f"of{n}-")
    for p in processes:
        _, err = p.communicate(timeout=120)
        assert p.returncode == 0, err
    return [torch.load(folder / f"of{n}-{r}") for r in range(n)]


@pytest.mark.parametrize("rounds, n", [(2, 2), (4, 2)])
def test_two_ranks_are_two_rounds(archive, tmp_path, rounds, n):
    "In float64: gradients of every phase to 1e-9, sign statistics and p the same."
    config = TINY.replace(batch_size=4 * rounds, ada_interval=2)
    (alone,), several = float64_run(1, archive, tmp_path, config), float64_run(n, archive, tmp_path, config)
    assert [name for name, _ in alone["found"]][:8] == [
        "Gmain",
        "Greg",
        "Dmain",
        "Dreg",
        "Gmain",
        "Dmain",
        "Gmain",
        "Dmain",
    ] and len(alone["found"]) == 15
    for rank in several:
        worst = 0.0
        for (name, ours), (other, theirs) in zip(alone["found"], rank["found"], strict=True):
            assert name == other
            for a, b in zip(ours, theirs, strict=True):
                assert a.dtype == torch.float64
                worst = max(worst, float((a - b).abs().max() / max(float(a.abs().max()), 1e-12)))
        assert worst < 1e-9, worst
        assert (rank["p"], rank["rt"], rank["signs"], rank["sampler"]) == (
            alone["p"],
            alone["rt"],
            alone["signs"],
            alone["sampler"],
        )
        assert torch.allclose(rank["w_avg"], alone["w_avg"], rtol=1e-9, atol=0) and torch.allclose(
            rank["pl_mean"], alone["pl_mean"], rtol=1e-9
        )
        assert rank["moments"].keys() == alone["moments"].keys()
        for name, (count, *sums) in alone["moments"].items():
            assert rank["moments"][name][0] == count and np.allclose(
                rank["moments"][name][1:], sums, rtol=1e-6
            )  # each report is summed in float32
    assert all(torch.equal(a, b) for a, b in zip(several[0]["weights"], several[1]["weights"]))
    print(f"largest difference of a gradient, relative to the largest entry: {worst:.1e}")


def test_two_ranks_go_on_exactly(archive, tmp_path, forked_programs):
    "Stopped and taken up again, by two processes: equal to two processes that never stopped, to the last bit."
    launch(TINY, archive, tmp_path / "a" / "r", 2)
    launch(TINY.replace(total_kimg=0.064), archive, tmp_path / "b" / "r", 2)
    launch(TINY, archive, tmp_path / "b" / "r", 2)
    a, b = (load_state(tmp_path / x / "r" / "state")["trainer"] for x in "ab")
    assert (
        all(torch.equal(a[n][k], b[n][k]) for n in ("G", "D", "G_ema") for k in a[n])
        and a["ada"] == b["ada"]
        and torch.equal(a["pl_mean"], b["pl_mean"])
    )
    assert read_config(tmp_path / "a" / "r")["environment"]["ranks"] == 2 and len(logs(tmp_path / "a" / "r")) == 6
    with open(tmp_path / "a" / "r" / "stats.jsonl", encoding="utf-8") as f:
        assert json.loads(f.readline())["Loss/scores/real"]["num"] == 16  # of both ranks, in Dmain and Dreg


def test_going_on_with_another_number_of_ranks_is_said(archive, tmp_path, forked_programs):
    launch(TINY.replace(total_kimg=0.064), archive, tmp_path / "r", 2)
    list(train(TINY, archive, tmp_path / "r"))
    list(train(TINY, archive, tmp_path / "alone"))
    log = (tmp_path / "r" / "log.txt").read_text()
    assert "ranks 2 -> 1" in log and "not exact to the last bit" in log
    a, b = (load_state(tmp_path / x / "state")["trainer"] for x in ("r", "alone"))
    assert all(torch.allclose(a["G"][k], b["G"][k], atol=1e-2) for k in a["G"])  # the same training, but for rounding
    assert a["sampler"] == b["sampler"]


DIES = """
import json, os, signal, sys
from semgan_nb.runs import Config
import semgan_nb.trainer as trainer
import semgan_nb.training as training
inner = trainer.Trainer.iterate
def iterate(self):
    if self.ranks.rank == int(sys.argv[4]) and self.batch_idx == 9:
        if sys.argv[5] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the third GPU has fallen off the bus")
    inner(self)
trainer.Trainer.iterate = iterate
for tick in training.train(Config.from_dict(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3], state_every=0):
    pass
"""


@pytest.mark.parametrize("how", ["raise", "kill"])
@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_dies_ends_the_run(archive, tmp_path, how, who):
    "Within a minute, with what it said; and going on works."
    processes = ranks_of(DIES, 2, tmp_path, json.dumps(TINY.to_dict()), archive, tmp_path / "r", who, how)
    began = time.monotonic()
    errors = [p.communicate(timeout=90)[1] for p in processes]
    assert all(p.returncode for p in processes) and time.monotonic() - began < 60
    other = errors[1 - who]
    said = "the third GPU has fallen off the bus" if how == "raise" else "ended without a word"
    assert said in other, other
    status = read_status(tmp_path / "r")
    if who == 1 or how == "raise":
        assert status["state"] == "failed" and said in status["message"]
    assert load_state(tmp_path / "r" / "state")["trainer"]["batch_idx"] == 9
    list(train(TINY, archive, tmp_path / "r"))
    assert read_status(tmp_path / "r")["state"] == "done" and len(logs(tmp_path / "r")) == 6


def test_launch_says_which_process_died(archive, tmp_path):
    import threading

    def kill_one():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for entry in Path("/proc").glob("[0-9]*/environ"):
                try:
                    if (
                        b"LOCAL_RANK=1" in entry.read_bytes()
                        and str(tmp_path).encode() in (entry.parent / "cmdline").read_bytes()
                        and read_stats(tmp_path / "r")
                    ):
                        os.kill(int(entry.parent.name), signal.SIGKILL)
                        return
                except (OSError, ValueError):
                    pass
            time.sleep(0.05)

    if not Path("/proc").exists():
        pytest.skip("finds the process by /proc")
    thread = threading.Thread(target=kill_one)
    thread.start()
    began = time.monotonic()
    with pytest.raises(RunFailed, match=r"process 1 of 2 \(\d+\) was killed by signal 9"):
        launch(TINY.replace(total_kimg=50.0), archive, tmp_path / "r", 2, state_every=0)
    thread.join()
    assert time.monotonic() - began < 90 and "ended without a word" in read_status(tmp_path / "r")["message"]


def test_launch_refuses_as_one_process_does(archive, tmp_path, forked_programs):
    with pytest.raises(
        BadInput, match=r"batch_size is 8: it must be a multiple of batch_gpu \(4\) times the number of processes \(4\)"
    ):
        launch(TINY, archive, tmp_path / "r", 4)
    list(train(TINY.replace(total_kimg=0.016), archive, tmp_path / "r"))
    with pytest.raises(BadInput, match="seed is 0 there and 3 here"):
        launch(TINY.replace(seed=3), archive, tmp_path / "r", 2)


def test_torchrun_and_a_stop_file(archive, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\nfrom semgan_nb.runs import Config\nfrom semgan_nb.training import train\nfor tick in"
        " train(Config.from_dict(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]):\n    os.write(1, f'tick"
        " {tick.number}\\n'.encode())\n"
    )  # a line in one piece: two ranks write into one pipe
    p = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(script),
            json.dumps(TINY.replace(total_kimg=50.0).to_dict()),
            str(archive),
            str(tmp_path / "r"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert p.stdout.readline().startswith("tick 0")
    request_stop(tmp_path / "r")
    out, err = p.communicate(timeout=90)
    assert p.returncode == 0, err
    status = read_status(tmp_path / "r")
    assert (
        status["state"] == "stopped"
        and status["message"] == "asked to stop"
        and load_state(tmp_path / "r" / "state")["trainer"]["cur_nimg"] == status["cur_nimg"]
    )


def test_gpus_of_the_command(archive, tmp_path):
    "`semgan train --gpus 2` in a terminal; Ctrl-C reaches the processes once, and the same command goes on."
    command = [
        sys.executable,
        "-c",
        "import sys; from semgan_nb.cli import main; sys.exit(main())",
        "train",
        str(archive),
        "--out",
        str(tmp_path / "r"),
        "--gpus",
        "2",
        "--metrics",
        "none",
        "--tensorboard",
        "--channel-base",
        "64",
        "--channel-max",
        "8",
        "--g-channels",
        "8,8,4",
    ]
    p = forked.Popen(
        [*command, "--kimg", "50"],
        stdout=forked.PIPE,
        stderr=forked.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not read_stats(tmp_path / "r") and time.monotonic() < deadline:
        time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "the same command goes on" in err and "Traceback" not in err, err
    status = read_status(tmp_path / "r")
    assert (
        status["state"] == "stopped"
        and status["message"] == "interrupted"
        and load_state(tmp_path / "r" / "state")["trainer"]["cur_nimg"] == status["cur_nimg"] > 0
    )
    kimg = status["kimg"] + 0.032
    done = forked.run(
        [*command, "--kimg", f"{kimg:.3f}"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0 and ": done, " in done.stdout, done.stderr
    assert read_config(tmp_path / "r")["resolved"]["batch_gpu"] == 8 and list(
        (tmp_path / "r" / "tensorboard").iterdir()
    )
