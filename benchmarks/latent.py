"""Trials towards a network whose latent vector decides what is seen: the lines of benchmarks/latent/trials.jsonl.

`python benchmarks/latent.py run WORK NAME [field=value ...]` trains the preset `laptop` at 32 px on the demo's
archive (`data=synthetic`: on that of `semgan demo --data synthetic`) in the folder WORK, on one thread, with
the settings that are given, and adds a line for each snapshot: the distance, the shares of z and of noise, the
seconds of the processor since the trial began. Broken off and started again, it goes on (the seconds then count
anew).
`python benchmarks/latent.py table` writes the table of benchmarks/README.md: a row for each trial."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

RECORDS = Path(__file__).parent / "latent" / "trials.jsonl"
METRIC = "lite0_fd500_holdout"


def add(line):
    from semgan_nb.foundation import append_line

    append_line(RECORDS, json.dumps(line))


def value_of(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(work, name, words):
    import torch

    from semgan_nb.layers import keep_memory
    from semgan_nb.micrographs import embedded
    from semgan_nb.synthetic_sets import prepare_synthetic
    from semgan_nb.preparation import prepare
    from semgan_nb.runs import laptop
    from semgan_nb.training import train

    torch.set_num_threads(1)
    keep_memory()
    fields = {key: value_of(text) for key, text in (word.split("=", 1) for word in words)}
    data = fields.pop("data", "superalloy")
    work.mkdir(parents=True, exist_ok=True)
    archive = work / f"{data}.zip"
    if not archive.exists():
        prepare(embedded(), archive, 32, window="auto") if data == "superalloy" else prepare_synthetic(archive, 32)
    config = laptop(32).replace(**{"snap": 35, "keep_snapshots": 1, "metrics": [METRIC, "latent_share"], **fields})
    add(dict(name=name, args=words, began=time.time()))
    for tick in train(config, archive, out=work / name, state_every=120):
        if tick.records:
            found = {result: value for record in tick.records for result, value in record["results"].items()}
            text = f"{name} {tick.kimg:6.1f} kimg  {found}"
            add(
                dict(
                    name=name,
                    kimg=tick.kimg,
                    fd={METRIC: found[METRIC]},
                    shares=[found.get("latent_share_z"), found.get("latent_share_noise")],
                    cpu=time.process_time(),
                    p=round(tick.p, 3),
                )
            )
            print(text, flush=True)


def table():
    trials = {}
    for line in RECORDS.read_text(encoding="utf-8").splitlines():
        line = json.loads(line)
        trial = trials.setdefault(line["name"], dict(args=line.get("args"), points=[], spent=0.0))
        if "args" not in line:
            trial["points"].append({**line, "cpu": trial["spent"] + line["cpu"]})
        elif line["args"] != trial["args"]:
            sys.exit(f"{line['name']} has two lists of settings in {RECORDS}: give each trial a name of its own")
        elif trial["points"]:  # it goes on in another process, which counts from 0
            trial["spent"] = trial["points"][-1]["cpu"]
    print(
        "| trial | settings | distance at kimg | share of z / noise at the end | processor s |\n|---|---|---|---|---|"
    )
    for name, trial in trials.items():
        points = [p for p in trial["points"] if p["kimg"] > 1]
        if points:
            z, noise = points[-1]["shares"]
            way = ", ".join(f"{p['fd'][METRIC]:.1f} at {p['kimg']:.0f}" for p in points)
            print(
                f"| {name} | {' '.join(a for a in trial['args'] if not a.startswith(('snap', 'emas')))} | {way} |"
                f" {z:.2f} / {noise:.2f} | {points[-1]['cpu']:.0f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("work", type=Path)
    verb.add_argument("name")
    verb.add_argument("fields", nargs="*", metavar="FIELD=VALUE")
    verbs.add_parser("table")
    options = parser.parse_args()
    table() if options.verb == "table" else run(options.work, options.name, options.fields)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
