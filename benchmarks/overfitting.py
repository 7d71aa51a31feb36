"""Overfitting, and what adaptive augmentation does about it, on 100 images: makes the records that chapter 07 shows.

`python benchmarks/overfitting.py WORK` prepares tiles of the embedded superalloy micrographs in the folder WORK, trains two runs of the `laptop` preset on the same 100 of them, one without
augmentation and one with ADA (a horizon of 20 kimg for p), side by side with one thread each, and writes their small records into semgan_nb/records/overfitting. About a quarter of an
hour on two cores; broken off and started again, it goes on."""
import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

RUNS = {"noaug": dict(aug="noaug"), "ada": dict(aug="ada", ada_kimg=20.0)}
COMMON = dict(subset=100, d_lr=0.0025, total_kimg=136.0, kimg_per_tick=2.0, snap=4, metrics=["lite0_fd500_holdout"], keep_snapshots=2)


def go(name):
    import torch

    torch.set_num_threads(1)
    from semgan_nb.runs import laptop
    from semgan_nb.training import train

    for tick in train(laptop(32).replace(**COMMON, **RUNS[name]), "tiles.zip", name, state_every=60):
        if tick.records:
            print(f"{name:6s} {tick.kimg:7.2f} kimg  r_t {tick.rt:5.2f}  p {tick.p:.3f}  " + "  ".join(f"{k} {v:.1f}" for r in tick.records for k, v in r["results"].items()), flush=True)


def main(work):
    from PIL import Image

    import semgan_nb
    from semgan_nb.micrographs import embedded
    from semgan_nb.preprocess import prepare
    from semgan_nb.runs import snapshots

    records = Path(semgan_nb.__file__).parent / "records" / "overfitting"
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    if not Path("tiles.zip").exists():
        prepare(embedded(), "tiles.zip", 32, window=128, stride=32)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=go, args=(name,)) for name in RUNS]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    if any(p.exitcode for p in processes):
        sys.exit("a run failed: see its log.txt")
    for name in RUNS:
        (records / name).mkdir(parents=True, exist_ok=True)
        for path in [Path(name, "config.json"), Path(name, "stats.jsonl"), *Path(name).glob("metric-*.jsonl"), *Path(name).glob("ladder-*.json")]:
            shutil.copy(path, records / name / path.name)
        fakes = sorted(Path(name).glob("fakes0*.png"))[-1]
        Image.open(fakes).crop((0, 0, 32 * 16, 32 * 2)).save(records / name / "samples.png")
    print(f"wrote {records}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "overfitting").resolve())
