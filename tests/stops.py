"""Runs that are stopped: every way of stopping at every place, as programs to fork (see forked.py), and what must be
the same of two runs."""

import errno
import io
import os
import signal
import sys
import time
from pathlib import Path

import forked
import torch
from safetensors import safe_open

import tiny

from semgan_nb.checkpoints import digest, load_state
from semgan_nb.foundation import append_line
from semgan_nb.monitoring import request_stop
from semgan_nb.opening import RunWriter
from semgan_nb.runs import Config, read_metrics, read_stats, snapshots
from semgan_nb.trainer import Trainer
from semgan_nb.training import train

TINY = tiny.TINY.replace(kimg_per_tick=0.016, keep_snapshots=2, metrics=("random_fd10_full",))
PLACES = {
    "loop": "a tick is in hand, outside of the package",
    "iteration": "G has taken its step, D has not",
    "sheet": "the pictures of a tick are written, under a name for the time being",
    "snapshot": "its weights are written, under a name for the time being",
    "snapshot written": "and have their name",
    "metric": "the record of a metric is written",
    "line": "the line of the tick is written",
    "state": "half of a state is written",
}
WAYS = ("kill", "Ctrl-C", "Ctrl-C twice", "terminate", "interrupt", "error", "full disk", "stop", "leave")


def possible(way, place):
    return not (
        way == "leave"
        and place != "loop"
        or way == "Ctrl-C twice"
        and place != "iteration"
        or way == "full disk"
        and place in ("loop", "iteration")
    )


# -- in the program
# -------------------------------------------------------------------------------------------------------


def trained(config, archive, out, state_every=0.0):
    """A run to its end."""
    for _ in train(Config.from_dict(config), archive, out, state_every=state_every):
        pass


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def trained_until(config, archive, out, state_every, way, place, images):
    """A run that is stopped in a way at the first time that it is at a place with so many images seen."""
    trainers, met = [], []

    def at(here):
        if here != place or met or not trainers or trainers[0].cur_nimg < images:
            return
        met.append(here)
        print(trainers[0].cur_nimg, flush=True)
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif way in ("Ctrl-C", "Ctrl-C twice"):
            for _ in range(1 + (way == "Ctrl-C twice")):
                os.kill(os.getpid(), signal.SIGINT)
        elif way == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        elif way == "interrupt":
            raise KeyboardInterrupt
        elif way == "error":
            raise ValueError("the GPU has fallen off the bus")
        elif way == "full disk":
            full()
        elif way == "stop":
            request_stop(out)

    make, dmain, replace, save, append = Trainer.__init__, Trainer._dmain, os.replace, torch.save, append_line
    look = RunWriter.stop_requested

    def made(self, *args, **options):
        trainers.insert(0, self)
        make(self, *args, **options)

    def in_the_middle(self, *args):
        at("iteration")
        return dmain(self, *args)

    def renamed(old, new):
        name = Path(new).name
        at("sheet" if name.startswith("fakes") else "snapshot" if name.startswith("snapshot-") else "")
        replace(old, new)
        at("snapshot written" if name.startswith("snapshot-") else "")

    def in_halves(value, f):
        buffer = io.BytesIO()
        save(value, buffer)
        data = buffer.getvalue()
        f.write(data[: len(data) // 2]), f.flush()
        at("state")
        f.write(data[len(data) // 2 :])

    def appended(path, record):
        append(path, record)
        at("line" if Path(path).name == "stats.jsonl" else "metric" if Path(path).name.startswith("metric-") else "")

    def looked(self):
        if met:
            self._asked_at = 0.0  # the second between two looks is over
        return look(self)

    RunWriter.stop_requested = looked
    Trainer.__init__, Trainer._dmain, os.replace, torch.save = made, in_the_middle, renamed, in_halves
    for module in list(sys.modules.values()):
        if vars(module).get("append_line") is append:
            module.append_line = appended
    for _tick in train(Config.from_dict(config), archive, out, state_every=state_every):
        at("loop")
        if met and way == "leave":
            break


def slow_writes(seconds):
    """Every state is written in two halves with a pause between them, so that a kill from outside meets a
    half-written file."""
    save, replace = torch.save, os.replace

    def in_halves(value, f):
        buffer = io.BytesIO()
        save(value, buffer)
        data = buffer.getvalue()
        f.write(data[: len(data) // 2]), f.flush()
        time.sleep(seconds)
        f.write(data[len(data) // 2 :])

    def slowly(old, new):
        time.sleep(seconds / 4)
        replace(old, new)
        time.sleep(seconds / 4)

    torch.save, os.replace = in_halves, slowly


def trained_slowly(config, archive, out, pause):
    slow_writes(pause)
    trained(config, archive, out)


# -- in the test
# ----------------------------------------------------------------------------------------------------------


def start(config, archive, out, state_every=0.0, **options):
    return forked.start_call(trained, config.to_dict(), str(archive), str(out), state_every, **options)


def go_on(config, archive, out, state_every=0.0):
    """To the end, in a process of its own."""
    process = start(config, archive, out, state_every)
    assert process.wait(300) == 0


TIMES = ("Timing", "Resources", "timestamp", "total_time")


def plain(record):
    return {k: v for k, v in record.items() if not k.startswith(TIMES)}


def everything(run):
    """All that a finished run is, but for times: state, logs, snapshots, pictures."""
    state = load_state(run / "state")
    assert state["pending"] is False
    trainer = dict(
        state["trainer"], elapsed=0, statistics={k: plain(v) for k, v in state["trainer"]["statistics"].items()}
    )
    for noted in ("energy",):
        trainer.pop(noted, None)
    files = {p.name: p.read_bytes() for p in sorted(run.iterdir()) if p.name.startswith(("fakes", "reals"))}
    for p in snapshots(run):  # the order of the entries in a file's head is by chance
        with safe_open(p, "np") as f:
            files[p.name] = f.metadata(), {name: f.get_tensor(name).tobytes() for name in f.keys()}
    return dict(
        state=digest(trainer),
        stats=[plain(s) for s in read_stats(run)],
        metrics={m: [plain(r) for r in records] for m, records in read_metrics(run).items()},
        files=files,
    )


def assert_same(run, other):
    a, b = everything(run), everything(other)
    assert a["files"].keys() == b["files"].keys() and all(a["files"][k] == b["files"][k] for k in a["files"])
    assert a["stats"] == b["stats"] and a["metrics"] == b["metrics"] and a["state"] == b["state"]
    assert not [p for folder in (run, run / "state") for p in folder.glob(".*")], "a half-written file was left"
    assert len(list((run / "state").iterdir())) <= 2
