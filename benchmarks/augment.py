"""What augmentation costs: whole training iterations with `bg` at p = 0.5 and without, in turn, in one process.

`python benchmarks/augment.py [--sizes 64 256] [--repeats 5] [--busy]`; the preset is `laptop` (narrow networks:
augmentation weighs most) up to 64 px, else `auto`. At `laptop` sixteen iterations are timed
together, regularisation included; at `auto`, where sixteen take minutes, single ones, and the median has no
regularisation phase. Printed are the median times, the share by their difference, and the share by count: the pipe
alone, forward and backward, as often
as an iteration calls it, in the time of the augmented iteration. `--busy`: one thread and processor time, for a
machine that does other things as well. Nothing here asserts a time.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from semgan_nb.augment import augment_pipe
from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.layers import keep_memory
from semgan_nb.runs import preset
from semgan_nb.trainer import Trainer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=5, help="times sixteen iterations (laptop), or times one (auto)")
    parser.add_argument("--busy", action="store_true", help="one thread, processor time")
    parser.add_argument("--preset", help="laptop, auto, ... (default: laptop up to 64 px, else auto)")
    parser.add_argument("--batch", type=int, help="images per iteration (default: the preset's, at most 8 at 256 px)")
    options = parser.parse_args()
    keep_memory()
    if options.busy:
        torch.set_num_threads(1)
    clock = time.process_time if options.busy else time.perf_counter
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads;"
        f" milliseconds{' of processor time' if options.busy else ''} per iteration, medians of {options.repeats}"
    )
    for size in options.sizes:
        kind = options.preset or ("laptop" if size <= 64 else "auto")
        c = preset(kind, size)
        batch = options.batch or (c.batch_size if kind == "laptop" else min(c.batch_size, 8))
        c = c.replace(batch_size=batch, batch_gpu=batch, augpipe="bg", aug="fixed", p=0.5, metrics=("none",))
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(0)
            write_archive(
                Path(folder) / "a.zip",
                (dict(image=rng.integers(0, 256, (size, size), dtype=np.uint8)) for _ in range(32)),
                {},
            )
            data = Dataset(Path(folder) / "a.zip")
        trainers = {"without": Trainer(c.replace(aug="noaug", p=0.0), data), "with bg, p = 0.5": Trainer(c, data)}
        per = 16 if kind == "laptop" else 1  # sixteen: a whole cycle of the lazy regularisation
        times = {name: [] for name in trainers}
        for i in range(options.repeats + 1):
            for name, trainer in trainers.items():
                start = clock()
                for _ in range(per):
                    trainer.iterate()
                if i:
                    times[name].append(1000 * (clock() - start) / per)
        without, augmented = (statistics.median(t) for t in times.values())
        print(
            f"{size:4d} px, {kind}, batch {batch}: without {without:.1f}, with bg at p = 0.5 {augmented:.1f}:"
            f" augmentation is {(augmented - without) / augmented:.1%} of an iteration"
        )
        x = torch.randn(batch, 1, size, size, requires_grad=True)
        for p in (0.0, 0.5, 1.0):
            pipe, forward, backward = augment_pipe("bg"), [], []
            pipe.p.fill_(p)
            for _ in range(9):
                start = clock()
                y = pipe(x)
                middle = clock()
                y.sum().backward()
                forward.append(1000 * (middle - start))
                backward.append(1000 * (clock() - middle))
            ahead, back = statistics.median(forward), statistics.median(backward)
            print(f"      the pipe alone, p = {p:g}: forward {ahead:.2f}, backward {back:.2f}", end="")
            # three times forward, once backward; every sixteenth iteration R1 goes forward, backward, and through both
            # again
            print(
                f"; by count {(3 * ahead + back + (2 * ahead + 2 * back) / 16) / augmented:.1%} of an iteration"
                if p == 0.5
                else ""
            )


if __name__ == "__main__":
    main()
