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


PAPER_STUDIES = dict(  # the settings of the paper's three studies: field -> (true distance, true recall)
    augpipe=dict(
        noaug=(35, 0.20),
        blit=(8, 0.52),
        geom=(8.2, 0.50),
        bright=(22, 0.30),
        filter=(30, 0.22),
        noise=(24, 0.25),
        cutout=(21, 0.33),
    ),
    ada_target={
        0.3: (7.2, 0.50),
        0.4: (7.6, 0.52),
        0.5: (6.6, 0.58),
        0.6: (8, 0.52),
        0.7: (10, 0.45),
        0.8: (13, 0.4),
        0.9: (17, 0.3),
    },
    subset={
        size: (55.13 - 13.96 * np.log10(size), 0.2724 + 0.005615 * size**0.5) for size in (10, 50, 100, 500, 1000, 3000)
    },
)
DISTANCE, DIVERSITY, PHYSICS = "lite0_fd500_full", "lite0_pr5003_full", "micro500_full"


def _moments(rng, truth, scatter, kimgs):
    """(kimg, result -> value) of a made-up course whose best distance and recall are the truth, but for a scatter."""
    distance, recall = truth
    distance, recall = distance * (1 + scatter * rng.normal()), recall * (1 + scatter * rng.normal())
    for kimg in kimgs:
        late = 200 * np.exp(-kimg / 12) + distance * (0.004 * max(kimg - 60, 0))
        share = float(np.clip(recall * (1 - np.exp(-kimg / 10)), 0, 1))
        yield (
            kimg,
            {
                DISTANCE: {DISTANCE: distance + late},
                DIVERSITY: {f"{DIVERSITY}_precision": 0.7, f"{DIVERSITY}_recall": round(500 * share) / 500},
                PHYSICS: {PHYSICS: 1 + distance / 20 + late / 50},
            },
        )


def made_up_study(folder, axis, truth=None, seeds=3, scatter=0.05, kimgs=range(0, 97, 16), skip=(), state="done"):
    """A folder of runs that differ in one field and the seed, whose best values are known (truth: value of the field
    -> (distance, recall)); skip: metrics that are not recorded."""
    rng, side = np.random.default_rng(0), 32
    for value, true in (truth or PAPER_STUDIES[axis]).items():
        fields = dict(aug="noaug") if value == "noaug" else {axis: value}
        for seed in range(seeds):
            run = folder / f"{next(iter(fields))}={next(iter(fields.values()))}-seed{seed}"
            run.mkdir(parents=True)
            config = laptop().replace(**{"metrics": [DISTANCE], "total_kimg": 96, "seed": seed, **fields})
            data = dict(DATA, count=value if axis == "subset" else 3000)
            resolved = config.to_dict()
            about = dict(format=1, version="0.2.0", requested={}, resolved=resolved, data=data, environment={})
            (run / "config.json").write_text(json.dumps(about))
            (run / "status.json").write_text(json.dumps(dict(state=state, kimg=96.0, total_kimg=96.0, cur_nimg=96000)))
            lines = {}
            for kimg, results in _moments(rng, true, scatter, kimgs):
                row = {"Progress/kimg": kimg, "Loss/signs/real": min(kimg / 60, 0.6), "Progress/augment": kimg / 500}
                row |= {"Timing/total_sec": 20.0 * kimg, "Resources/energy_kwh": 0.001 * kimg}
                stats = {name: dict(num=1, mean=float(number), std=0.0) for name, number in row.items()}
                lines.setdefault("stats.jsonl", []).append(stats)
                about = dict(kimg=kimg, cur_nimg=1000 * kimg, snapshot_pkl=f"snapshot-{kimg:06d}.safetensors")
                counts = dict(num_real=500, num_gen=500, real="full", seed=0, extractor="lite0")
                for metric, values in results.items():
                    if metric not in skip:
                        record = dict(results=values, metric=metric, **about, **counts)
                        lines.setdefault(f"metric-{metric}.jsonl", []).append(record)
                sheet = rng.integers(0, 256, (2 * side, 8 * side), dtype=np.uint8)
                Image.fromarray(sheet).save(run / f"fakes{kimg:06d}.png")
            for name, records in lines.items():
                (run / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


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
