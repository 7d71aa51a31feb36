"""The verb phases: maps of micrographs, archives, masks and networks, as other programs read them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command import say
from made_up_runs import random_snapshot
from PIL import Image

from semgan_nb.checkpoints import load
from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.latent import sample
from semgan_nb.foundation import file_hash
from semgan_nb.micrographs import embedded, list_images, read_micrograph
from semgan_nb.descriptors import Segmentation, phase_of, segment
from semgan_nb.synthetic import dual_phase


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def steel(name="steel.tif", size=128, nm=None, seed=0):
    image, phase = dual_phase(np.random.default_rng(seed), size, 0.5, field_um=size / 10)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        name,
        image,
        imagej=True,
        **({} if nm is None else dict(resolution=(1000 / nm, 1000 / nm), metadata=dict(unit="um"))),
    )
    return image, phase


def test_a_micrograph(tmp_path):
    image, truth = steel(nm=100)
    status, out, err = say("phases", "steel.tif")
    assert (
        status == 0
        and not err
        and sorted(p.name for p in Path("phases").iterdir()) == ["steel.json", "steel.npy", "steel.tif", "steel.vti"]
    )
    labels = np.load("phases/steel.npy")
    assert (labels == segment(image)).all() and (labels == truth).mean() > 0.95
    assert f"light phase {labels.mean():.3f} of the area" in out and "100 nm a pixel" in out and "µm/µm²" in out
    back = read_micrograph("phases/steel.tif", force=True)
    assert (back.pixels == labels).all() and back.pixel_size_nm == pytest.approx((100, 100))
    said = json.loads(Path("phases/steel.json").read_text())
    assert (
        said["source"] == "steel.tif"
        and said["sha256"] == file_hash("steel.tif")
        and said["phase_fraction"] == pytest.approx(labels.mean())
    )
    assert said["segmentation"] == dict(
        method="otsu", classes=2, phase="light", median=3, sigma=1.0, flatten=0, clip=1.0, min_px=0
    )
    assert 'Spacing="0.1 0.1 0.1"' in Path("phases/steel.vti").read_text()


def test_the_options_are_those_of_the_segmentation():
    image, _ = steel()
    status, out, _ = say(
        "phases",
        "steel.tif",
        "maps",
        "--method",
        "kmeans",
        "--classes",
        3,
        "--phase",
        1,
        "--median",
        5,
        "--sigma",
        0,
        "--clip",
        2,
        "--min-px",
        9,
        "--formats",
        "png,npy",
        "--pixel-size",
        "0.05um",
    )
    how = Segmentation("kmeans", 3, 1, median=5, sigma=0.0, clip=2.0, min_px=9)
    assert (
        status == 0
        and (np.load("maps/steel.npy") == segment(image, how)).all()
        and f"phase 1 {phase_of(segment(image, how), how).mean():.3f}" in out
        and "50 nm" in out
    )
    assert sorted(p.suffix for p in Path("maps").iterdir()) == [".json", ".npy", ".png"]


def test_a_folder_and_its_masks():
    made = {name: steel(f"many/{name}.tif", seed=k) for k, name in enumerate(("a", "sub/b"))}
    Path("drawn/sub").mkdir(parents=True)
    for name, (_, phase) in made.items():
        Image.fromarray(phase.astype(np.uint8) * 2).save(f"drawn/{name}.png")
    assert say("phases", "many")[0] == 0 and sorted(p.as_posix() for p in Path("phases").rglob("*.npy")) == [
        "phases/a.npy",
        "phases/sub/b.npy",
    ]
    status, out, _ = say("phases", "many", "masked", "--masks", "drawn", "--formats", "npy")
    assert status == 0 and all((np.load(f"masked/{name}.npy") == 2 * phase).all() for name, (_, phase) in made.items())
    said = json.loads(Path("masked/sub/b.json").read_text())
    assert (
        said["segmentation"]["method"] == "mask"
        and said["mask"] == "b.png"
        and said["phase_fraction"] == pytest.approx(made["sub/b"][1].mean())
    )
    status, out, _ = say("phases", "many/a.tif", "one", "--masks", "drawn/a.png", "--phase", "2")
    assert status == 0 and json.loads(Path("one/a.json").read_text())["phase_fraction"] == pytest.approx(
        made["a"][1].mean()
    )
    assert say("phases", "many", "some", "--images", 1)[0] == 0 and len(list(Path("some").rglob("*.json"))) == 1


def test_an_archive():
    images = [dual_phase(np.random.default_rng(k), 32, 0.5, field_um=4.8)[0] for k in range(3)]
    for intensity in ("none", "match"):
        write_archive(
            "data.zip", [dict(image=image, pixel_size_nm=(150, 150)) for image in images], dict(intensity=intensity)
        )
        status, out, err = say("phases", "data.zip", intensity)
        assert status == 0 and ("say little" in err) == (intensity == "match") and out.count("150 nm a pixel") == 3
        names = [Path(name).stem for name in Dataset("data.zip").names]
        assert all((np.load(f"{intensity}/{name}.npy") == segment(image)).all() for name, image in zip(names, images))
    assert json.loads(Path(f"none/{names[1]}.json").read_text())["image"] == Dataset("data.zip").names[1]


def test_a_network():
    random_snapshot(Path("snapshot-000000.safetensors"), pixel_size_nm=[40, 40])
    status, out, _ = say("phases", "snapshot-000000.safetensors", "--seeds", "3,7-8", "--psi", 0.7)
    assert (
        status == 0
        and [p.stem for p in sorted(Path("phases").glob("*.vti"))] == ["seed0003", "seed0007", "seed0008"]
        and "40 nm" in out
    )
    made = sample(load("snapshot-000000.safetensors").G, [7], 0.7)[0, 0]
    assert (np.load("phases/seed0007.npy") == segment(made)).all()
    said = json.loads(Path("phases/seed0007.json").read_text())
    assert (said["seed"], said["truncation_psi"], said["source"]) == (7, 0.7, "snapshot-000000.safetensors")


def test_the_shipped_micrographs():
    status, out, _ = say("phases", embedded(), "--phase", "dark", "--formats", "png")
    assert (
        status == 0
        and out.count("px, pixel size unknown; dark phase") == len(list_images(embedded()))
        and "18 phase maps, each as png, json" in out
    )


@pytest.mark.parametrize(
    "argv, words",
    [
        (["gone.tif"], "no such file"),
        (["steel.tif", "--seeds", "1"], "no snapshot"),
        (["steel.tif", "--formats", "stl"], "stl"),
        (["steel.tif", "--method", "guess"], "guess"),
        (["steel.tif", "--classes", "3"], "multiotsu"),
        (["steel.tif", "--masks", "gone"], "no such file"),
        (["steel.tif", "--masks", "small.png"], "same size"),
        (["steel.tif", "--masks", "empty"], "no mask for steel"),
        (["empty"], "no images"),
        (["steel.tif", "--pixel-size", "wide"], "length"),
        (["twice"], "rename"),
        (["steel.tif", "--images", "0"], "at least 1"),
        (["steel.tif", "--clip", "70"], "clip"),
    ],
)
def test_faults_are_one_sentence(argv, words):
    steel()
    steel("twice/a.tif")
    Image.fromarray(steel("twice/b.tif")[0]).save("twice/a.png")
    Path("empty").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("small.png")
    status, _, err = say("phases", *argv)
    assert status == 2 and words in err and len(err.splitlines()) == 1, err
