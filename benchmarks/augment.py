"""What augmentation costs: whole training iterations with `bg` at p = 0.5 and without, in turn, in one process.

`python benchmarks/augment.py [--sizes 64 256] [--repeats 5]`; the preset is `laptop` up to 64 px (narrow networks: augmentation weighs most), else `auto`. An iteration is one of each phase that is due, the regularisation
phases included. Printed are the median times, the share of the augmented iteration that augmentation makes, and the pipe alone at p = 0, 0.5 and 1. Nothing here asserts a time."""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from semgan_nb.augment import augment_pipe
from semgan_nb.dataset import Dataset, write_archive
from semgan_nb.layers import keep_memory
from semgan_nb.runs import preset
from semgan_nb.training import Trainer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5, help="times sixteen iterations (laptop), or times one (auto)")
    parser.add_argument("--batch", type=int, help="images per iteration (default: the preset's, at most 8 at 256 px)")
    options = parser.parse_args()
    keep_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds per iteration, medians of {options.repeats}")
    for size in options.sizes:
        c = preset("laptop" if size <= 64 else "auto", size)
        batch = options.batch or (c.batch_size if size <= 64 else min(c.batch_size, 8))
        c = c.replace(batch_size=batch, batch_gpu=batch, augpipe="bg", aug="fixed", p=0.5, metrics=("none",))
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(0)
            write_archive(Path(folder) / "a.zip", (dict(image=rng.integers(0, 256, (size, size), dtype=np.uint8)) for _ in range(32)), {})
            data = Dataset(Path(folder) / "a.zip")
        trainers = {"without": Trainer(c.replace(aug="noaug", p=0.0), data), "with bg, p = 0.5": Trainer(c, data)}
        per = 16 if size <= 64 else 1  # sixteen: a whole cycle of the lazy regularisation
        times = {name: [] for name in trainers}
        for i in range(options.repeats + 1):
            for name, trainer in trainers.items():
                start = time.perf_counter()
                for _ in range(per):
                    trainer.iterate()
                if i:
                    times[name].append(1000 * (time.perf_counter() - start) / per)
        without, augmented = (statistics.median(t) for t in times.values())
        print(f"{size:4d} px, batch {batch}: without {without:.1f}, with bg at p = 0.5 {augmented:.1f}: augmentation is {(augmented - without) / augmented:.1%} of an iteration")
        x = torch.randn(batch, 1, size, size)
        for p in (0.0, 0.5, 1.0):
            pipe, t = augment_pipe("bg"), []
            pipe.p.fill_(p)
            for _ in range(9):
                start = time.perf_counter()
                pipe(x)
                t.append(1000 * (time.perf_counter() - start))
            print(f"      the pipe alone, forward, p = {p:g}: {statistics.median(t):.2f}")


if __name__ == "__main__":
    main()
