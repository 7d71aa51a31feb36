"""Make anew what the package ships of trained networks.

`python tools/records.py WORK [PART ...]` trains in the folder WORK and copies what is small into `semgan_nb/records`
and `nbs/images`. Without a PART it makes all of them, in this order:

superalloy   the demo on the micrographs that are shipped: its generator, and the picture of the README
steel        the demo on synthetic steel: its generator
baselines    what these two have to beat
memory       two runs on 10 and 100 images, and the generated images that are most like a training image
studies      the three studies of the paper in small (benchmarks/studies.py)
leak         fixed augmentations that leak (benchmarks/leak.py)
quickstart   the tutorial, with its outputs
walks        the films of the paper from these two generators, their six stations, and a short loop of both (README)

A part that was broken off goes on where it stopped; one that is done is only copied again. Every part says what it
took of the processor. All trainings run on one thread, so that another machine of the same kind gives the same
numbers.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))
RECORDS, IMAGES = ROOT / "semgan_nb" / "records", ROOT / "nbs" / "images"


def put(source, to):
    "Copy a file to where it is shipped from."
    from semgan_nb.foundation import atomic

    to.parent.mkdir(parents=True, exist_ok=True)
    with atomic(to) as part:
        shutil.copyfile(source, part)
    print(f"  {to.relative_to(ROOT)}: {to.stat().st_size / 1e3:.0f} kB")


def trained_demo(work, data, name):
    "The folder of a demo that ran to its end; its last generator is shipped under the name."
    from semgan_nb.demo import demo
    from semgan_nb.runs import snapshots

    out = work / name
    demo(data, out=out)
    put(snapshots(out / "run")[-1], RECORDS / f"snapshot-{name}32.safetensors")
    return out


def superalloy(work):
    from PIL import Image

    out = trained_demo(work, "superalloy", "superalloy")
    picture = work / "demo.png"
    Image.open(out / "samples.png").convert("L").save(picture, optimize=True)
    put(picture, IMAGES / "demo.png")


def steel(work):
    trained_demo(work, "synthetic", "steel")


def baselines(work):
    from semgan_nb.baselines import baselines
    from semgan_nb.checkpoints import load

    for name, shipped in (("superalloy", "superalloy"), ("steel", "synthetic")):
        G = load(RECORDS / f"snapshot-{name}32.safetensors").G
        result = baselines(work / name / "data.zip", {"generated": G}, out=work / "baselines" / shipped, progress=None)
        print(result["text"])
        put(work / "baselines" / shipped / "baselines.json", RECORDS / "baselines" / f"{shipped}.json")


def memory(work):
    import numpy as np
    from PIL import Image

    from semgan_nb.checkpoints import load
    from semgan_nb.latent import judged_images
    from semgan_nb.micrographs import embedded
    from semgan_nb.preparation import prepare
    from semgan_nb.runs import laptop
    from semgan_nb.training import train
    from studies import ship_config

    metric, archive = "aligned_memory500_subset", work / "alloy32.zip"
    if not archive.exists():
        prepare(embedded(), archive, 32, window=128, stride=32)
    for subset in (10, 100):
        run = work / f"subset={subset}-seed0"
        config = laptop(32).replace(
            subset=subset, total_kimg=60, kimg_per_tick=2.0, snap=2, keep_snapshots=2, metrics=[metric]
        )
        for tick in train(config, archive, out=run):
            if tick.records:
                print(f"  {run.name} {tick.kimg:5.1f} kimg  {tick.records[0]['text']}", flush=True)
        record = json.loads((run / f"metric-{metric}.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        images = judged_images(load(run).G, record["num_gen"])
        Image.fromarray(np.hstack([images[pair["image"], 0] for pair in record["worst"][:8]])).save(
            run / "worst.png", optimize=True
        )
        ship_config(run, RECORDS / "memory" / run.name)
        for name in ("status.json", "stats.jsonl", f"metric-{metric}.jsonl", f"ladder-{metric}.json", "worst.png"):
            put(run / name, RECORDS / "memory" / run.name / name)


def studies(work):
    subprocess.run([sys.executable, ROOT / "benchmarks" / "studies.py", work / "studies"], check=True)


def leak(work):
    subprocess.run([sys.executable, ROOT / "benchmarks" / "leak.py", work / "leak", "--kimg", "112"], check=True)


def quickstart(work):
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "nbs" / "tutorials" / "01_quickstart.ipynb"
    notebook, place = nbformat.read(path, 4), work / "quickstart"
    place.mkdir(exist_ok=True)
    NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    ).execute()
    nbformat.write(notebook, place / path.name)
    subprocess.run([sys.executable, ROOT / "tools" / "pictures.py", "--shrink", place / path.name], check=True)
    put(place / path.name, path)
    subprocess.run(["nbdev_clean", "--fname", path], cwd=ROOT, check=True)


def walks(work):
    import numpy as np

    from semgan_nb.films import walk_frames, write_film
    from semgan_nb.generate import open_generator
    from semgan_nb.origin import Origin
    from semgan_nb.walks import PAPER_FILM, PAPER_SEEDS, walk

    place, films, every = work / "walks", [], 6
    for name in ("superalloy", "steel"):
        walk(name, place / f"{name}.mp4", paper=True, progress=False)
        put(place / f"{name}.png", IMAGES / f"walk-{name}.png")
        films.append(list(walk_frames(open_generator(name).G_ema, PAPER_SEEDS, PAPER_FILM["frames"]))[::every])
    gap = np.full((32, 2), 255, np.uint8)
    few = lambda frame: (np.rint(frame / 255 * 31) * 255 / 31).astype(np.uint8)  # 32 grey levels: half the bytes
    both = [np.hstack([few(a), gap, few(b)]) for a, b in zip(*films)]
    origin = Origin("walk", "", "superalloy, steel", PAPER_SEEDS, PAPER_FILM | dict(every=every))
    write_film(both, place / "both.gif", PAPER_FILM["fps"] / 2, progress=False, side=128, origin=origin)
    put(place / "both.gif", IMAGES / "walk.gif")


PARTS = {f.__name__: f for f in (superalloy, steel, baselines, memory, studies, leak, quickstart, walks)}


def seconds():
    "Of the processor: this process and those that it began and that have ended."
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help="any of " + ", ".join(PARTS))
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        sys.exit(f"there is no part {unknown[0]!r}: choose of {', '.join(PARTS)}")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for name in options.parts or PARTS:
        began, spent = time.monotonic(), seconds()
        print(name, flush=True)
        PARTS[name](work)
        print(f"  {name}: {seconds() - spent:.0f} s of the processor, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
