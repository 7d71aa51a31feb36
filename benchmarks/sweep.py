"""A small real sweep of r_t on few images: makes the study that is shipped in semgan_nb/records/sweep.

`python benchmarks/sweep.py WORK` prepares tiles of the embedded superalloy micrographs in the folder WORK and trains
the `laptop` preset on 100 of them, few enough to overfit: without
augmentation, and with ADA (a horizon of 20 kimg for p) at the targets 0.3, 0.5 and 0.7, two seeds each, two runs at
a time with one thread each. Then it copies the records of all runs
and a strip of 16 samples for each snapshot. About 40 minutes on two cores at 64 kimg; broken off and started again,
it goes on. A longer --kimg goes on with the same runs.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

METRIC = "lite0_fd500_holdout"
AXES, EXTRA, SEEDS = {"ada_target": [0.3, 0.5, 0.7]}, [{"aug": "noaug"}], [0, 1]
STRIP, LIMIT = 16, 3_000_000  # samples in a strip; bytes of all that is shipped


def study(kimg):
    from semgan_nb.runs import laptop
    from semgan_nb.studies import Study

    tick = min(2.0, kimg / 8)  # a snapshot every 8 kimg; shorter for a trial
    return Study.create(
        "sweep",
        laptop(32).replace(
            subset=100, ada_kimg=20.0, total_kimg=kimg, kimg_per_tick=tick, snap=4, keep_snapshots=2, metrics=[METRIC]
        ),
        AXES,
        SEEDS,
        EXTRA,
    )


def ship_config(run, out):
    "Copy config.json of a run into the folder `out`; where the archive lay on this machine is nobody's business."
    about = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in about["data"].items() if name not in ("absolute", "relative")}
    about["data"] = kept | {"path": Path(kept["path"]).name}
    (Path(out) / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def ship(found, to, strip=STRIP):
    "Copy what is small; of the state of a run only what a reader asks for."
    import numpy as np
    from PIL import Image

    from semgan_nb.runs import read_config
    from semgan_nb.studies import read_samples, sample_files
    from semgan_nb.runs import image_number

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
            images, _ = read_samples(run, image_number(path) / 1000, strip)
            Image.fromarray(np.hstack(images)).save(out / path.name, optimize=True)
        side = read_config(run)["data"]["resolution"]
        Image.open(run / "reals.png").crop((0, 0, strip * side, side)).save(out / "reals.png", optimize=True)


def check_shipped(to):
    "No file names this machine's folder, and all of them are small."
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
    parser.add_argument("--kimg", type=float, default=64.0, help="length of every run (default 64)")
    parser.add_argument(
        "--records",
        type=Path,
        default=Path(semgan_nb.__file__).parent / "records" / "sweep",
        help="where the small copy goes (default: into the package)",
    )
    options = parser.parse_args()
    records = options.records.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)  # relative paths from here on: config.json names the archive

    from semgan_nb.engines import RunProcesses
    from semgan_nb.evaluation import Judge
    from semgan_nb.micrographs import embedded
    from semgan_nb.preparation import prepare
    from semgan_nb.studies import table_text
    from semgan_nb.study_run import run_study
    from semgan_nb.foundation import default_cache

    if not Path("tiles.zip").exists():
        prepare(embedded(), "tiles.zip", 32, window=128, stride=32)
    Judge(METRIC, "tiles.zip", cache=default_cache()).ladder()  # once, not in both processes
    found = study(options.kimg)
    with RunProcesses(2) as engine:
        run_study(found, "tiles.zip", executor=engine, state_every=60)
    if bad := [f"{p['run'].name}: {p['state']} {p['message']}" for p in found.status() if p["state"] != "done"]:
        sys.exit("not done:\n" + "\n".join(bad))
    ship(found, records)
    check_shipped(records)
    print(table_text(found.best_table(METRIC), METRIC))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
