"""Made with version 0.1.0, commit bce97b005e; not run again, for the modules had other names then.

Wrote the files beside this one, in one thread, and then with the functions of tests/test_old_files.py the file expected.json: what version 0.1.0 read in them, how it judged them, and how it went on with them."""
import json
import os
import shutil
import sys
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

os.environ["SEMGAN_CACHE"] = tempfile.mkdtemp()
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np
import tifffile
import torch
from PIL import Image

import semgan_nb.runs as runs
from semgan_nb.checkpoints import convert, save_snapshot
from semgan_nb.cli import demo
from semgan_nb.dataset import write_archive
from semgan_nb.micrographs import embedded, list_images
from semgan_nb.networks import Discriminator, Generator
from semgan_nb.preprocess import prepare_synthetic
from semgan_nb.runs import Config
from semgan_nb.studies import Study, run_study
from semgan_nb.training import train

TINY = dict(z_dim=8, w_dim=8, channel_base=32, channel_max=4, batch_size=8, batch_gpu=4, G_reg_interval=4, kimg_per_tick=0.032, snap=2, keep_snapshots=2, ada_kimg=0.5)
STOPPED = Config(**{**TINY, "snap": 4}, total_kimg=0.32, ada_target=0.3, metrics=("random_fd10_full",), subset=28, mirror=True)


def archives():
    "Synthetic steel with its phase maps in another archive; a folder of labelled images in colour."
    prepare_synthetic("steel.zip", 16, n_images=40, n_specimens=8, maps="maps.zip", progress=False)
    y, x = np.mgrid[:16, :16]
    images = [np.stack([(10 * k + 3 * x) % 256, (40 * k + 5 * y) % 256, (x + y) * 4], 2).astype(np.uint8) for k in range(6)]
    write_archive("labelled.zip", [dict(image=image, name=f"c{k}", group=f"g{k // 2}", pixel_size_nm=(20.0, 25.0), label=None if k == 5 else k // 2, note="kept") for k, image in enumerate(images)], dict(made_by="hand"))
    with zipfile.ZipFile("labelled.zip") as z:
        z.extractall("labelled")
    Path("labelled.zip").unlink()


def finished():
    "A demo on tiles of four micrographs; what it can make again (figures, film, report) is thrown away, and the state, for it is done."
    folder = Path(tempfile.mkdtemp()) / "micrographs"
    folder.mkdir()
    for k, path in enumerate(list_images(embedded())[:4]):
        tifffile.imwrite(folder / f"m{k}.tif", np.asarray(Image.open(path).convert("L"))[:96, :96], imagej=True, resolution=(100, 100), metadata={"unit": "um"})
    metrics = ("random_fd20_holdout", "random_pr203_full", "aligned_memory20_subset", "micro20_full")
    demo(str(folder), size=16, out="demo", window=32, stride=16, progress=False, total_kimg=0.128, metrics=metrics, **TINY)
    for path in Path("demo").iterdir():
        if path.suffix in (".png", ".mp4", ".html"):
            path.unlink()
    shutil.rmtree("demo/run/state")


def stopped():
    "A run interrupted twice: between two ticks (the older state), and in the middle of a tick, after its snapshot, its record and its line (the newer state). Then the power failed within a line."
    with closing(train(STOPPED, "steel.zip", "stopped", state_every=1e9)) as loop:
        while next(loop).number < 5:
            pass
    append = runs.append_line

    def then_interrupted(path, record):
        append(path, record)
        if "Progress/tick" in record and record["Progress/tick"]["mean"] == 8:
            raise KeyboardInterrupt

    runs.append_line = then_interrupted
    try:
        list(train(STOPPED, "steel.zip", "stopped", state_every=1e9))
    except KeyboardInterrupt:
        pass
    runs.append_line = append
    with open("stopped/stats.jsonl", "a", encoding="utf-8") as f:
        f.write('{"Progress/tick": {"num": 1, "me')


def study():
    "Three points of one seed; the last was asked to stop. Of those that are done the states are thrown away."
    made = Study.create("study", Config(**{**TINY, "keep_snapshots": 1}, total_kimg=0.064, metrics=("random_fd10_full",)), dict(r1_gamma=(0.5, 10.0)), seeds=(0,), extra=[dict(aug="noaug")])
    run_study(made, "steel.zip", progress=lambda point, tick: made.request_stop() if point["fields"].get("aug") == "noaug" and tick.number == 1 else None, state_every=1e9)
    for state in Path("study").glob("r1_gamma=*/state"):
        shutil.rmtree(state)


def snapshots():
    "A conditional network in colour, as a snapshot and as plain state dicts."
    torch.manual_seed(0)
    G = Generator(z_dim=8, c_dim=3, w_dim=8, img_resolution=16, img_channels=3, mapping_layers=2, channel_base=32, channel_max=4)
    D = Discriminator(c_dim=3, img_resolution=16, img_channels=3, channel_base=32, channel_max=4)
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
    save_snapshot("conditional.safetensors", G.eval().requires_grad_(False), D, cur_nimg=1234, data_fingerprint="made up", pixel_size_nm=(20.0, 25.0))
    convert("conditional.safetensors", "conditional.pt")


def main():
    torch.set_num_threads(1)
    os.chdir(HERE)
    for path in HERE.iterdir():
        if path.name != "make.py":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for make in (archives, finished, stopped, study, snapshots):
        make()
    for path in HERE.rglob("status.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 1, "host": "machine"}, indent=1) + "\n", encoding="utf-8")
    for path in [*HERE.rglob("lock"), *HERE.rglob(".study.lock")]:
        path.unlink()

    import test_old_files

    test_old_files.write_expected(HERE)


if __name__ == "__main__":
    main()
