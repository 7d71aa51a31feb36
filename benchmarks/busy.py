"""What does training keep beside other programs? As `train` runs it now (threads that yield while others crowd it:
`Yielding` of chapter 56), and as it was before (PyTorch
loaded first, OpenMP as it comes).

    python benchmarks/busy.py [--rounds 4]

Images a second of the preset `laptop` at 32 px on two cores: alone, beside one endless loop in another program,
beside three, and two trainings at once, both ways in turn in every round. Each
measurement begins after two and a half seconds of the same, in which a training notices what goes on around it. R1
is taken at every iteration, so that all iterations are the same work. Prints medians
and what they keep of the speed alone; ends with status 1 where a target is missed. Four minutes; on a machine that
has something else to do the figures say little.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("before", "now")
SETTLE = 2.5  # seconds before each measurement
LOADS = {"alone": 0, "beside one": 1, "beside three": 3, "two at once": 0}


def work(way, archive):
    """A training that stands ready: at every line of its input, a number of seconds, it takes so many whole
    iterations and answers with images a second."""
    if way == "before":
        import torch  # noqa: F401  before semgan_nb, which then comes too late
    from semgan_nb.dataset import Dataset
    from semgan_nb.layers import keep_memory
    from semgan_nb.resources import Yielding
    from semgan_nb.runs import laptop
    from semgan_nb.trainer import Trainer

    import torch

    keep_memory()
    trainer = Trainer(laptop().replace(aug="fixed", p=0.5, D_reg_interval=1), Dataset(archive))
    trainer.iterate()

    def images_a_second(seconds):
        began, images = time.perf_counter(), trainer.cur_nimg
        while time.perf_counter() - began < seconds:
            trainer.iterate()
        return (trainer.cur_nimg - images) / (time.perf_counter() - began)

    print("ready", flush=True)
    with Yielding(torch.get_num_threads() if way == "now" else 1):
        for line in sys.stdin:
            images_a_second(SETTLE)
            print(images_a_second(float(line)), flush=True)


def begin(way, archive):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    process = subprocess.Popen(
        [sys.executable, __file__, "--work", way, str(archive)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout.readline().strip() != "ready":
        raise SystemExit("a training did not begin")
    return process


def speed(trainings, seconds):
    "Images a second of all together."
    for p in trainings:
        print(seconds, file=p.stdin, flush=True)
    return sum(float(p.stdout.readline()) for p in trainings)


def measure(trainings, rounds, seconds, until):
    "(way, load) -> images a second, one a round; as many rounds as there is time for."
    found = {(way, load): [] for load in LOADS for way in WAYS}
    for k in range(rounds):
        if k and time.monotonic() > until:
            break
        for load, n in LOADS.items():
            loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
            try:
                time.sleep(0.3 if n else 0)
                for _ in range(3 if load == "alone" else 1):  # what all is compared with
                    for way in WAYS[:: 1 if k % 2 else -1]:
                        found[way, load].append(speed(trainings[way][: 2 if load == "two at once" else 1], seconds))
            finally:
                for p in loops:
                    p.kill(), p.wait()
    return found


def main():
    import psutil

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, at least")
    parser.add_argument("--json", help="a file for all that was measured")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(*options.work)
    if hasattr(psutil.Process, "cpu_affinity"):
        psutil.Process().cpu_affinity(psutil.Process().cpu_affinity()[:2])
    began, others = time.monotonic(), psutil.cpu_percent(2) / 100 * psutil.cpu_count()
    print(f"other programs take {others:.1f} of {psutil.cpu_count()} cores before anything begins")
    trainings = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        import numpy as np

        from semgan_nb.archives import write_archive

        noise = np.random.RandomState(0).randint(0, 256, (256, 32, 32), dtype=np.uint8)
        archive = Path(folder) / "noise.zip"
        write_archive(
            archive,
            [
                dict(
                    name=f"n{i}",
                    image=x,
                    source="noise",
                    source_sha256="",
                    crop=(0, 0, 32, 32),
                    group=f"g{i % 5}",
                    pixel_size_nm=None,
                    fraction=None,
                    part="train",
                )
                for i, x in enumerate(noise)
            ],
            dict(made_by="benchmark"),
        )
        try:
            for way in WAYS:
                for _ in range(2):
                    trainings[way].append(begin(way, archive))
            found = measure(trainings, options.rounds, options.seconds, began + 230)
        finally:
            for p in sum(trainings.values(), []):
                p.kill(), p.wait()
    median = {key: statistics.median(values) for key, values in found.items()}
    print(
        f"\n{'images a second':16}{'before':>10}{'now':>10}   of alone: {'before':>8}{'now':>8}   rounds:"
        f" {len(found['now', 'beside one'])}"
    )
    for load in LOADS:
        print(
            f"{load:16}"
            + "".join(f"{median[way, load]:10.1f}" for way in WAYS)
            + " " * 13
            + "".join(f"{median[way, load] / median[way, 'alone']:8.0%}" for way in WAYS)
        )
    targets = [
        ("alone, now of before", median["now", "alone"] / median["before", "alone"], 0.95),
        *(
            (load, median["now", load] / median["now", "alone"], least)
            for load, least in (("beside one", 0.4), ("beside three", 0.15), ("two at once", 0.8))
        ),
    ]
    for name, reached, least in targets:
        print(f"{name}: {reached:.0%}, at least {least:.0%} wanted{'' if reached >= least else ': MISSED'}")
    print(f"{time.monotonic() - began:.0f} s")
    if options.json:
        Path(options.json).write_text(
            json.dumps({f"{load}, {way}": values for (way, load), values in found.items()}, indent=1) + "\n",
            encoding="utf-8",
        )
    return int(any(reached < least for _, reached, least in targets))


if __name__ == "__main__":
    sys.exit(main())
