"""The three studies of the paper in small, whose records are shipped in semgan_nb/records/studies: which augmentation,
which target, how many images.

`python benchmarks/studies.py WORK` prepares tiles of the embedded superalloy micrographs in the folder WORK and trains
the `laptop` preset on few of them for 130 kimg, two seeds each, on 100 images where their number is not the question:
the targets r_t 0.3, 0.5 and 0.7 and no augmentation at all; the augmentations `bg` and `bright`; 30 and 300 images.
A run that belongs to two of the studies is trained once and copied. The runs are trained by two workers of a Dask
cluster on this machine, one thread each. Then it copies what is small: the records of all runs and a strip of eight
samples for each snapshot. About two and a half hours on two idle cores; broken off and started again, it goes on.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

METRICS = ("lite0_fd500_holdout", "lite0_pr5003_holdout", "micro500_holdout", "latent_share_train")
SHARED = (  # (study, run) that is also (study, run), for each seed
    ("targets", "aug=noaug", "augmentations", "aug=noaug"),
    ("targets", "ada_target=0.5", "sizes", "subset=100"),
)
STRIP, LIMIT = 8, 7_000_000  # samples in a strip; bytes of all that is shipped


def studies(kimg):
    "The three studies, made or gone on with in this folder, in the order in which they are trained."
    from semgan_nb.runs import laptop
    from semgan_nb.studies import Study

    tick = min(2.0, kimg / 15)  # a snapshot every 10 kimg; shorter for a trial
    base = laptop(32).replace(total_kimg=kimg, kimg_per_tick=tick, snap=5, keep_snapshots=2, metrics=METRICS)
    targets = Study.targets("targets", base, small=True)
    noaug = [{"aug": "noaug"}]
    yield Study.create("targets", targets.shared, {"ada_target": (0.3, 0.5, 0.7)}, (0, 1), noaug)
    yield Study.augmentations("augmentations", base, small=True)
    yield Study.sizes("sizes", base, small=True)


def share(seed):
    "Copy the runs that two studies have in common, where the one has trained them and the other has not begun them."
    for study, run, other, same in SHARED:
        source, to = Path(study, f"{run}-seed{seed}"), Path(other, f"{same}-seed{seed}")
        if source.is_dir() and not to.exists():
            part = to.with_name(to.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            part.rename(to)


def train_all(kimg):
    "Train what is missing of the three studies, with a Dask cluster of two processes; yields each when it is done."
    from dask.distributed import Client, LocalCluster

    from semgan_nb.studies import table_text
    from semgan_nb.study_run import run_study

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        for found in studies(kimg):
            for seed in (0, 1):
                share(seed)
            points = run_study(found, "tiles.zip", executor=client.get_executor(), at_once=2, state_every=120)
            if bad := [f"{p['run'].name}: {p['state']} {p['message']}" for p in points if p["state"] != "done"]:
                sys.exit("not done:\n" + "\n".join(bad))
            print(table_text(found.best_table(METRICS[0]), METRICS[0]), flush=True)
            yield found


def ship_config(run, out):
    "Copy config.json of a run into the folder `out`; where the archive lay on this machine is nobody's business."
    about = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in about["data"].items() if name not in ("absolute", "relative")}
    about["data"] = kept | {"path": Path(kept["path"]).name}
    (Path(out) / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def ship(found, to):
    "Copy what is small; of the state of a run only what a reader asks for."
    import numpy as np
    from PIL import Image

    from semgan_nb.runs import image_number, read_config
    from semgan_nb.studies import read_samples, sample_files

    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    shutil.copy(found.path / "study.json", to)
    for point in found.status():
        run, out = point["run"], to / point["run"].name
        out.mkdir()
        ship_config(run, out)
        for path in [run / "stats.jsonl", *run.glob("metric-*.jsonl"), *run.glob("ladder-*.json")]:
            shutil.copy(path, out)
        status = {name: point[name] for name in ("state", "kimg", "total_kimg", "message")}
        (out / "status.json").write_text(
            json.dumps({**status, "cur_nimg": round(1000 * point["kimg"])}, indent=1) + "\n", encoding="utf-8"
        )
        for path in sample_files(run):
            images, _ = read_samples(run, image_number(path) / 1000, STRIP)
            Image.fromarray(np.hstack(images)).save(out / path.name, optimize=True)
        side = read_config(run)["data"]["resolution"]
        Image.open(run / "reals.png").crop((0, 0, STRIP * side, side)).save(out / "reals.png", optimize=True)


def check_shipped(to):
    "No file names this machine's folder, and all of them together are small."
    files = [path for path in to.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    for path in files:
        if path.suffix in (".json", ".jsonl") and str(Path.cwd()) in path.read_text(encoding="utf-8"):
            sys.exit(f"{path} names the folder {Path.cwd()}")
    print(f"wrote {to}: {len(files)} files, {size / 1e6:.2f} MB")
    if size > LIMIT:
        sys.exit(f"that is more than {LIMIT / 1e6:g} MB")


def main():
    import semgan_nb

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kimg", type=float, default=130.0, help="length of every run (default 130)")
    parser.add_argument(
        "--records",
        type=Path,
        default=Path(semgan_nb.__file__).parent / "records" / "studies",
        help="where the small copies go (default: into the package)",
    )
    options = parser.parse_args()
    records = options.records.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)  # relative paths from here on: config.json names the archive

    from semgan_nb.foundation import default_cache
    from semgan_nb.judges import get_judge
    from semgan_nb.micrographs import embedded
    from semgan_nb.preparation import prepare

    if not Path("tiles.zip").exists():
        prepare(embedded(), "tiles.zip", 32, window=128, stride=32)
    get_judge(METRICS[0], "tiles.zip", cache=default_cache()).ladder()  # once, not in both processes
    for found in train_all(options.kimg):
        ship(found, records / found.path.name)
    check_shipped(records)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
