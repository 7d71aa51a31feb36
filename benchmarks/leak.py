"""Does an augmentation leak into a trained generator? Makes the records in semgan_nb/records/leak.

`python benchmarks/leak.py WORK [--kimg 48]` makes 2000 synthetic micrographs of rolled steel at 32 px, islands three
times as long as wide, in the folder WORK, and trains the `laptop` preset on them with `geom` at a fixed p of 0.05,
0.5 and 1, one after the other.
Then it holds what each has learned to paint against real images and writes the numbers and a strip of 16 samples for
each. Broken off and started again, it goes on.

`python benchmarks/leak.py WORK --data lit --p 0.9 --kimg 28 --seeds 0 1 2` does so with the shipped superalloy, half as
rich in contrast and lit from the top, and with the pipe `bg`; it prints what the meter of the run says at every
snapshot, and writes no record.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image


def lit(options):
    "Train on images that are bright at the top, and print what the run's meter says."
    from semgan_nb.archives import write_archive
    from semgan_nb.dataset import Dataset
    from semgan_nb.micrographs import embedded
    from semgan_nb.preparation import prepare
    from semgan_nb.runs import laptop
    from semgan_nb.training import train

    if not Path("lit.zip").exists():
        prepare(embedded(), "plain.zip", 32, window=128, stride=32, progress=False)
        plain = Dataset("plain.zip")
        ramp = np.linspace(60, -60, 32)[:, None]
        images = (64 + 0.5 * plain.images(range(len(plain)))[:, 0] + ramp).clip(0, 255).round().astype(np.uint8)
        part = {record["file"]: record["part"] for record in plain.manifest["images"]}
        items = zip(images, plain.names, plain.groups)
        items = [dict(image=image, part=part[name], group=group) for image, name, group in items]
        write_archive("lit.zip", items, dict(lit="from the top"))
    for p in options.p:
        for seed in options.seeds:
            config = laptop(32).replace(aug="fixed", augpipe="bg", p=p, total_kimg=options.kimg, seed=seed)
            config = config.replace(snap=5, metrics=["augment_leak500_subset"])
            for tick in train(config, "lit.zip", out=Path(f"lit-p={p:g}-seed{seed}")):
                for record in tick.records:
                    print(f"seed {seed} {tick.kimg:6.1f} kimg  {record['text']}", flush=True)


def main():
    import semgan_nb

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kimg", type=float, default=48.0)
    parser.add_argument("--p", type=float, nargs="+", default=[0.05, 0.5, 1.0])
    parser.add_argument("--data", choices=("rolled", "lit"), default="rolled")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of lit")
    parser.add_argument("--records", type=Path, default=Path(semgan_nb.__file__).parent / "records" / "leak")
    options = parser.parse_args()
    records = options.records.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    if options.data == "lit":
        return lit(options)

    from semgan_nb.dataset import Dataset
    from semgan_nb.synthetic_sets import prepare_synthetic
    from semgan_nb.foundation import write_json
    from semgan_nb.runs import laptop
    from semgan_nb.run_leaks import leaks
    from semgan_nb.studies import read_samples
    from semgan_nb.training import train

    if not Path("rolled.zip").exists():
        prepare_synthetic("rolled.zip", 32, 2000, fractions=(0.45, 0.6), stretch=1.8)
    runs = [Path(f"p={p:g}") for p in options.p]
    for run, p in zip(runs, options.p):
        config = laptop(32).replace(
            aug="fixed",
            augpipe="geom",
            p=p,
            total_kimg=options.kimg,
            snap=10,
            keep_snapshots=2,
            metrics=["lite0_fd400_holdout"],
        )
        for tick in train(config, "rolled.zip", out=run):
            if tick.records:
                print(f"{run} {tick.kimg:6.1f} kimg  {tick.records[0]['results']}", flush=True)
    records.mkdir(parents=True, exist_ok=True)
    found = leaks(runs)
    write_json(
        records / "leak.json",
        dict(data="synthetic rolled steel, 32 px, islands stretched by 1.8", preset="laptop", runs=found),
    )
    Image.fromarray(np.hstack(Dataset("rolled.zip", part="holdout").images(range(16))[:, 0])).save(
        records / "reals.png", optimize=True
    )
    for run in runs:
        Image.fromarray(np.hstack(read_samples(run, n=16)[0])).save(records / f"{run.name}.png", optimize=True)
    print(
        json.dumps(
            [dict(p=one["p"], **{name: round(v["value"], 2) for name, v in one["leaks"].items()}) for one in found]
        )
    )


if __name__ == "__main__":
    main()
