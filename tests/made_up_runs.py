"""Run directories and studies with invented numbers, written as training writes them; and what of a run can be
compared with another."""

import dataclasses
import json
import os
import signal
import sys
import time

import numpy as np
from PIL import Image

from semgan_nb.checkpoints import save_snapshot
from semgan_nb.foundation import append_line
from semgan_nb.networks import Generator
from semgan_nb.opening import RunWriter, training_images
from semgan_nb.runs import laptop, read_stats
from semgan_nb.studies import Study
from semgan_nb.study_run import run_study
from semgan_nb.training import Tick

METRIC = "lite0_fd500_holdout"
REFERENCE_SETS = [
    ("floor", "other real images", 22),
    ("blur0.5", "blurred 0.5 px", 29),
    ("blur1", "blurred 1 px", 118),
    ("phase", "phase-randomised", 284),
]
DATA = dict(path="tiles.zip", fingerprint="made up", count=100, resolution=32, channels=1, pixel_size_nm=None)


class MadeUpRun:
    """A run directory held open: `tick` writes what a tick of training writes, `end` lets it go."""

    def __init__(self, folder, better=0.0, **fields):
        self.config = laptop().replace(**{"metrics": [METRIC], "total_kimg": 96, **fields})
        self.better, self.rng = better, np.random.default_rng(self.config.seed)
        self.writer = RunWriter(folder, self.config, DATA)
        self.dir = self.writer.dir
        self.writer.start()
        ladder = dict(
            metric=METRIC,
            num_real=500,
            num_gen=500,
            rungs=[dict(key=key, name=name, value=value) for key, name, value in REFERENCE_SETS],
        )
        self.writer.write_json(f"ladder-{METRIC}.json", ladder)

    def tick(self, kimg, snapshot=True, metric=METRIC):
        rt = min(kimg / 60, 0.97) if self.config.aug == "noaug" else min(kimg / 60, self.config.ada_target)
        row = {
            "Progress/kimg": kimg,
            "Loss/signs/real": rt,
            "Progress/augment": 0.0 if self.config.aug == "noaug" else kimg / 500,
        }
        self.writer.append(
            "stats.jsonl", {name: dict(num=1, mean=float(value), std=0.0) for name, value in row.items()}
        )
        if snapshot:
            value = (48 + 380 * np.exp(-kimg / 14)) * (1 + self.better)
            self.writer.append(
                f"metric-{metric}.jsonl",
                dict(
                    results={metric: value},
                    metric=metric,
                    kimg=kimg,
                    cur_nimg=int(1000 * kimg),
                    extractor="lite0",
                    extractor_sha256="",
                    num_real=500,
                    num_gen=500,
                    real="holdout",
                    seed=0,
                    snapshot_pkl=f"snapshot-{int(kimg):06d}.safetensors",
                ),
            )
            sheet = self.rng.integers(0, 256, (2 * 32, 8 * 32), dtype=np.uint8)
            Image.fromarray(sheet).save(self.dir / f"fakes{int(kimg):06d}.png")
        self.writer.set_status(
            cur_nimg=int(1000 * kimg), kimg=kimg, sec_per_kimg=25.0, eta_sec=(self.config.total_kimg - kimg) * 25
        )

    def end(self, state="done", message=""):
        self.writer.close(state, message)


def made_up_run(folder, kimgs=(0, 16, 32, 48), state="done", message="", **fields):
    """A run from beginning to end; its directory."""
    run = MadeUpRun(folder, **fields)
    for kimg in kimgs:
        run.tick(kimg)
    run.end(state, message)
    return run.dir


def fake_train(config, data, out, device=None, state_every=300.0):
    """What a study asks of `train`, without a network: a directory held by one process, refusals of other settings
    and data, ticks that go on where the last ones ended, stops, how it ended."""
    dataset = training_images(config, data)
    writer = RunWriter(
        out,
        config,
        dict(
            path=str(data),
            fingerprint=dataset.fingerprint,
            count=len(dataset),
            resolution=dataset.resolution,
            channels=dataset.channels,
            pixel_size_nm=None,
        ),
        device or "cpu",
    )
    state, message, number = "failed", "it never began", len(read_stats(writer.dir))
    images = lambda number: min(
        config.batch_size + round(number * config.kimg_per_tick * 1000), round(config.total_kimg * 1000)
    )
    try:
        writer.start()
        while not number or images(number - 1) < config.total_kimg * 1000:
            if writer.stop_requested():
                state, message = "stopped", "asked to stop"
                return
            kimg, done = images(number) / 1000, images(number) >= config.total_kimg * 1000
            stats = {
                "Progress/tick": number,
                "Progress/kimg": kimg,
                "Loss/scores/real": config.seed + config.ada_target,
            }
            writer.append(
                "stats.jsonl", {name: dict(num=1, mean=float(value), std=0.0) for name, value in stats.items()}
            )
            writer.set_status(cur_nimg=images(number), kimg=kimg)
            number += 1
            yield Tick(number - 1, images(number - 1), kimg, stats, 0.5, 0.1, None, None, done=done)
        state, message = "done", ""
    except (KeyboardInterrupt, GeneratorExit) as e:
        state, message = "stopped", "left" if isinstance(e, GeneratorExit) else "interrupted"
        raise
    except Exception as e:
        message = f"{type(e).__name__}: {e}"
        raise
    finally:
        writer.close(state, message)


def study_with_fake_training(path, archive):
    """A study run by a process that trains nothing; a line for every tick."""
    sys.modules[run_study.__module__].train = fake_train
    run_study(
        Study(path), archive, progress=lambda point, tick: (print(point["run"].name, tick.number), time.sleep(0.05))
    )  # so that the other one has a share


def made_up_sweep(folder, targets=(0.3, 0.5), seeds=(0, 1, 2), noaug=True, **fields):
    """A folder of runs that differ in ada_target and seed, with noaug beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for k, target in enumerate(targets):
            made_up_run(
                folder / f"ada_target={target}-seed{seed}",
                better=0.1 * k + 0.03 * seed,
                ada_target=target,
                seed=seed,
                **fields,
            )
        if noaug:
            made_up_run(folder / f"aug=noaug-seed{seed}", better=0.5 + 0.03 * seed, aug="noaug", seed=seed, **fields)
    return folder


def random_snapshot(path, pixel_size_nm=None, **arguments):
    """A snapshot of a small network that learned nothing."""
    G = Generator(
        **{
            **dict(
                z_dim=32,
                w_dim=32,
                img_resolution=32,
                img_channels=1,
                mapping_layers=2,
                channel_base=256,
                channel_max=16,
            ),
            **arguments,
        }
    )
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):  # at first 0: the noise would not be seen
            parameter.data.fill_(0.2)
    save_snapshot(path, G, None, cur_nimg=0, data_fingerprint="made up", pixel_size_nm=pixel_size_nm)
    return path


SMALL_DEMO = dict(
    total_kimg=0.256,
    kimg_per_tick=0.064,
    snap=2,
    z_dim=16,
    w_dim=16,
    channel_base=128,
    channel_max=16,
    g_channels=(16, 16, 8, 4),
    metrics=("random_fd50_holdout",),
)
TILES = dict(window=128, stride=16)


def small_demo(micrographs, folder):
    """A demo of a few hundred images from beginning to end; what it returned and said is in found.json."""
    from semgan_nb.demo import demo

    words = []
    found = demo(str(micrographs), out=folder / "out", **TILES, progress=False, say=words.append, **SMALL_DEMO)
    (folder / "found.json").write_text(json.dumps([found, "\n".join(words)]), encoding="utf-8")


def logs(run):
    """The lines of stats.jsonl without what depends on the clock and the machine."""
    return [
        {k: v for k, v in s.items() if not k.startswith(("Timing", "Resources", "timestamp"))} for s in read_stats(run)
    ]


# -- what a study may call in place of `train`, in processes of engines
# ---------------------------------------------------------------------


def slow_train(config, data, out, **how):
    """Fake training with time between its ticks."""
    for tick in fake_train(config, data, out, **how):
        yield tick
        time.sleep(0.05)


def killed_once(config, data, out, **how):
    """Fake training of which the process is killed at its second tick, the first time."""
    for tick in fake_train(config, data, out, **how):
        mark = out.parent / "control" / f"killed-{out.name}"
        if tick.number == 1 and config.ada_target == 0.3 and not mark.exists():
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield tick


def failing(config, data, out, **how):
    """Fake training that fails at its first tick, always, for one target."""
    ticks = fake_train(config, data, out, **how)
    for tick in ticks:
        if config.ada_target == 0.3:
            ticks.throw(RuntimeError("out of luck"))
        yield tick


def recording(config, data, out, **how):
    """Fake training that is judged at every tick; a higher target is worse."""
    for tick in fake_train(config, data, out, **how):
        value, name = 10 * config.ada_target, "random_fd50_full"
        record = dict(results={name: value}, metric=name, kimg=tick.kimg, snapshot_pkl=f"snapshot-{tick.number}")
        append_line(out / f"metric-{name}.jsonl", record)
        yield dataclasses.replace(tick, records=[record])


def study_by_processes(path, archive, loop):
    """A study run by a program with an engine of two processes."""
    from semgan_nb.engines import RunProcesses

    with RunProcesses(2) as engine:
        run_study(Study(path), archive, executor=engine, progress=False, loop=f"made_up_runs:{loop}")
