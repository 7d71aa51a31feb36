"""Chapter 19: whole folders made into archives. The parts: tests/unit/test_preprocess.py; in several processes,
interrupted: tests/processes/test_prepare.py."""

import random

import numpy as np
import pytest
import tifffile
from made_up_sets import sem_folder, steel
from PIL import Image
from skimage.exposure import match_histograms
from skimage.filters import median

from semgan_nb.dataset import Dataset
from semgan_nb.foundation import BadInput
from semgan_nb.micrographs import embedded, list_images
from semgan_nb.preprocess import feature_width, median_filter, reduce_to, suggest_window
from semgan_nb.synthetic_sets import prepare_synthetic
from semgan_nb.preparation import details, prepare
from semgan_nb.synthetic import phase_fraction


@pytest.fixture(scope="module")
def alloy():
    return [np.asarray(Image.open(p)) for p in list_images(embedded())]


@pytest.fixture
def folder(tmp_path):
    return sem_folder(tmp_path / "sem")


def test_feature_width_and_window(alloy):
    y, x = np.indices((512, 512))
    for diameter in (12, 24, 40):
        centres = np.random.default_rng(0).uniform(0, 512, (int(9000 / diameter**1.5), 2))
        near = np.min([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres], 0)
        assert feature_width(np.where(near < (diameter / 2) ** 2, 200, 60).astype(np.uint8)) == pytest.approx(
            diameter, rel=0.2
        )
    s = suggest_window(alloy, 32)
    assert s["window"] == 128 and s["stride"] == 32 and s["count"] == 3042
    assert suggest_window(alloy, 64)["window"] == 256 and suggest_window(alloy, 512)["window"] == 512
    assert suggest_window([a[::2, ::2] for a in alloy], 32)["window"] == 64
    noise = np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8)
    assert suggest_window([noise], 32)["window"] == 32


def test_prepare_follows_the_papers_order(tmp_path, alloy):
    """Centre crops of median-filtered, matched full frames; the reference unfiltered and unstretched."""
    files = list_images(embedded())
    summary = prepare(embedded(), tmp_path / "p.zip", 256, reference=files[3], stretch=None, progress=False)
    images = Dataset(tmp_path / "p.zip").images()[:, 0]
    for k, image in enumerate(alloy):
        expected = np.clip(np.rint(match_histograms(median(image), alloy[3])), 0, 255)[128:384, 128:384]
        assert (images[k] == expected).all(), files[k].name
    assert summary["reference"] == files[3].name and summary["stretch"] is None and summary["n_images"] == 18


def test_prepare_tiles(tmp_path, alloy):
    summary = prepare(embedded(), tmp_path / "t.zip", 32, window="auto", progress=False)
    assert (
        summary["n_images"] == 3042
        and (summary["window"], summary["stride"]) == (128, 32)
        and summary["stretch"] == [5, 95]
    )
    train, held = Dataset(tmp_path / "t.zip", "train"), Dataset(tmp_path / "t.zip", "holdout")
    assert not set(train.groups) & set(held.groups) and 0.1 < len(held) / 3042 < 0.3 and len(held) >= 500
    sources = {r["source"]: r["part"] for r in train.manifest["images"]}
    assert all(sources[r["source"]] == r["part"] for r in train.manifest["images"])
    whole = Dataset(tmp_path / "t.zip")
    assert (
        whole.images().std() > 30 and np.percentile(whole.images(), 5) < 80 and np.percentile(whole.images(), 95) > 180
    )
    record = whole.manifest["images"][200]
    source = alloy[[p.name for p in list_images(embedded())].index(record["source"])]
    y, x, h, w = record["crop"]
    assert record["fraction"] == pytest.approx(
        phase_fraction(reduce_to(median_filter(source)[y : y + h, x : x + w], 32)), abs=1e-5
    )
    assert summary["fraction_spread"]["after"] < summary["fraction_spread"]["before"]
    assert any("variance of the phase fraction" in n for n in summary["notes"]) and summary["rejected_images"] == {}


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (tifffile.imwrite if path.suffix == ".tif" else lambda p, i: Image.fromarray(i).save(p))(path, image, **options)


def test_synthetic_archive(tmp_path):
    summary = prepare_synthetic(tmp_path / "s.zip", 32, n_images=90, n_specimens=10)
    data = Dataset(tmp_path / "s.zip")
    assert summary["n_train"] == 72 and summary["n_holdout"] == 18 and data.pixel_size_nm == (150, 150)
    assert np.abs(np.subtract([phase_fraction(i[0]) for i in data.images()], data.fractions)).mean() < 0.02
    prepare_synthetic(
        tmp_path / "t.zip", 32, n_images=90, n_specimens=10, workers=2, progress=False, maps=tmp_path / "maps.zip"
    )
    assert (tmp_path / "s.zip").read_bytes() == (tmp_path / "t.zip").read_bytes()
    maps = Dataset(tmp_path / "maps.zip")
    assert (
        maps.names == data.names
        and maps.groups == data.groups
        and np.allclose((maps.images() == 255).mean((1, 2, 3)), data.fractions, atol=1e-5)
    )
    with pytest.raises(BadInput, match="another name"):
        prepare_synthetic(tmp_path / "u.zip", 32, maps=tmp_path / "u.zip")
    assert not (tmp_path / "u.zip").exists()


def test_few_images_are_said_to_be_few(tmp_path):
    few = prepare(embedded(), tmp_path / "few.zip", 256, progress=False)
    assert few["n_images"] == 18 and any("--window auto" in note for note in few["notes"])


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, folder):
    (folder / "notes.png").write_text("no image")
    for workers in (1, 2, 3):
        prepare(folder, tmp_path / f"{workers}.zip", 32, window=64, stride=32, workers=workers, progress=False)
    one = (tmp_path / "1.zip").read_bytes()
    assert (
        one == (tmp_path / "2.zip").read_bytes() == (tmp_path / "3.zip").read_bytes()
        and str(tmp_path).encode() not in one
    )


def test_splits_never_leak(tmp_path):
    """Property: whatever the folder, tiles of one micrograph, of copies of it and of one group are on one side."""
    for trial in range(6):
        rng = random.Random(trial)
        root = tmp_path / f"sem{trial}"
        for k in range(rng.randint(3, 7)):
            path = root / f"d{rng.randrange(3)}" / f"s{rng.randrange(3)}_{k}.png"
            write(path, steel(100 * trial + k, 96, rng.uniform(0.3, 0.9)))
            if rng.random() < 0.5:  # a second name, or another format, of the same image
                twin = root / f"d{rng.randrange(3)}" / f"t{rng.randrange(3)}_{k}{rng.choice(['.png', '.tif'])}"
                twin.parent.mkdir(exist_ok=True)
                (
                    twin.write_bytes(path.read_bytes())
                    if twin.suffix == ".png"
                    else write(twin, np.asarray(Image.open(path)))
                )
        how = rng.choice(["auto", "file", "folder", "prefix"])
        summary = prepare(
            root,
            tmp_path / f"{trial}.zip",
            16,
            window=32,
            stride=rng.choice([8, 16]),
            group=how,
            holdout=rng.choice([0.1, 0.3, 0.6]),
            progress=False,
        )
        everything = Dataset(tmp_path / f"{trial}.zip")
        records = everything.manifest["images"]
        for key in ("group", "source", "source_sha256"):
            part = {}
            for r in records:
                assert part.setdefault(r[key], r["part"]) == r["part"], (trial, key)
        pixels = {}
        for image, r in zip(everything.images(), records):
            assert pixels.setdefault(image.tobytes(), r["part"]) == r["part"], trial
        files = list_images(root)
        assert len(files) == summary["n_files"] + len(summary["rejected"]) and all(
            "the same" in r["why"] for r in summary["rejected"]
        )
        assert not any("both sides" in w for w in everything.warnings)


def test_a_failing_file_does_not_stop_the_others(tmp_path, folder):
    names = {
        "a.png": b"",
        "b.tif": b"version https://git-lfs.github.com/spec/v1\n",
        "c.png": (folder / "s0_0.tif").read_bytes()[:900],
    }
    for name, data in names.items():
        (folder / name).write_bytes(data)
    for workers in (1, 2):
        summary = prepare(folder, tmp_path / "a.zip", 64, workers=workers, progress=False)
        assert [r["file"] for r in summary["rejected"]] == list(names) and summary["n_images"] == 8
        assert (
            all(f"  {name}: " in details(summary) for name in names)
            and Dataset(tmp_path / "a.zip").manifest["rejected"] == summary["rejected"]
        )
        with pytest.raises(BadInput, match="a.png: is empty"):
            prepare(folder, tmp_path / "b.zip", 64, workers=workers, strict=True, progress=False)
    assert not (tmp_path / "b.zip").exists()


def test_the_demo_archive_is_what_it_was(tmp_path):
    """Figures were published for it: 3042 tiles, none left out by the defaults, and the same pixels."""
    import hashlib

    summary = prepare(embedded(), tmp_path / "a.zip", 32, window="auto", progress=False)
    assert (
        hashlib.sha256(Dataset(tmp_path / "a.zip").images().tobytes()).hexdigest()
        == "7f219ee5c1c9c1cf56d11eb425d1d5eb066a4ac8e977f4e88f9fda2e4e53f2ed"
    )
    assert (
        summary["holdout_groups"] == ["spot3", "spot4"]
        and summary["reference"] == "spot2_0d_4.png"
        and summary["rejected_images"] == {}
    )
