"""Chapter 04: the paper's pipeline, tiles, groups, prepare."""
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.exposure import match_histograms
from skimage.filters import median

from semgan_nb.dataset import Dataset
from semgan_nb.micrographs import BadInput, embedded, list_images
from semgan_nb.preprocess import (centre_crop, feature_width, group_files, match_histogram, match_levels, median_filter,
                                  pick_reference, prepare, prepare_synthetic, reduce_to, stretch_levels, suggest_window, tiles)
from semgan_nb.synthetic import dual_phase, phase_fraction


@pytest.fixture(scope="module")
def alloy():
    return [np.asarray(Image.open(p)) for p in list_images(embedded())]


def steel(k, size=160, fraction=0.5):
    return dual_phase(np.random.default_rng(k), size, fraction, field_um=size / 10)[0]


@pytest.fixture
def folder(tmp_path):
    """Eight micrographs of four specimens, 16-bit with scale and a bar among them."""
    root = tmp_path / "sem"
    root.mkdir()
    for k in range(8):
        image = steel(k, fraction=0.4 + 0.15 * (k % 4))
        name = root / f"s{k % 4}_{k}"
        if k == 5:
            tifffile.imwrite(name.with_suffix(".tif"), image.astype(np.uint16) * 257, imagej=True, resolution=(10, 10), metadata={"unit": "um"})
        else:
            tifffile.imwrite(name.with_suffix(".tif"), np.repeat(image[..., None], 3, 2), photometric="rgb")
    return root


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(33, 50), (1, 7), (2, 2)])
def test_median(dtype, shape):
    image = (np.random.default_rng(0).random(shape) * 250).astype(dtype)
    assert (median_filter(image) == median(image)).all() and median_filter(image).dtype == dtype
    assert (median_filter(image, 5) == median(image, np.ones((5, 5)))).all()
    assert median_filter(image, 0) is image and median_filter(image, 1) is image


def test_match_histogram(alloy):
    for a, b in ((0, 5), (3, 9)):
        expected = np.clip(np.rint(match_histograms(alloy[a], alloy[b])), 0, 255)
        assert (match_histogram(alloy[a], alloy[b]) == expected).all() and match_histogram(alloy[a], alloy[b]).dtype == np.uint8
    same = match_histogram(alloy[0], alloy[5])
    assert np.abs(np.percentile(same, range(1, 100)) - np.percentile(alloy[5], range(1, 100))).max() <= 1


def test_matching_wipes_out_fractions_and_gain_does_not():
    images, reference = [steel(k, fraction=f) for k, f in enumerate((0.37, 0.5, 0.8, 0.95))], steel(9, fraction=0.6)
    before = [phase_fraction(i) for i in images]
    assert np.ptp([phase_fraction(match_histogram(i, reference)) for i in images]) < 0.02
    assert np.allclose([phase_fraction(match_levels(i, reference)) for i in images], before, atol=0.02)


def test_stretch(alloy):
    assert np.allclose(np.percentile(stretch_levels(alloy[0]), [5, 95]), [60, 200], atol=3)
    assert np.allclose(np.percentile(stretch_levels(alloy[0], 1, 99, to=(10, 240)), [1, 99]), [10, 240], atol=4)
    assert stretch_levels(np.full((5, 5), 9, np.uint8)).dtype == np.uint8


def test_reference_is_sharp_clean_and_even(alloy):
    from scipy.ndimage import gaussian_filter
    rng = np.random.default_rng(0)
    for good in (alloy[0], alloy[6]):
        dull = gaussian_filter(good, 3)
        noisy = np.clip(good + rng.normal(0, 12, good.shape), 0, 255).astype(np.uint8)
        tilted = np.clip(good + np.linspace(-50, 50, 512), 0, 255).astype(np.uint8)
        clipped = np.clip(good.astype(float) * 3 - 300, 0, 255).astype(np.uint8)
        best, table = pick_reference([dull, noisy, good, tilted, clipped])
        assert best == 2 and table[0]["index"] == 2 and len(table) == 5


def test_crop_tiles_reduce(alloy):
    image = alloy[0]
    assert (centre_crop(image, 256) == image[128:384, 128:384]).all()
    with pytest.raises(BadInput, match="513"):
        centre_crop(image, 513)
    cut = tiles(image, 128, 32)
    assert len(cut) == 169 and [c[:2] for c in cut[12:14]] == [(0, 384), (32, 0)] and len(tiles(image, 128)) == 169 and tiles(image, 600) == []
    small = reduce_to(cut[20][2], 32)
    assert np.abs(small.astype(int) - np.asarray(Image.fromarray(cut[20][2]).resize((32, 32), Image.BOX))).max() <= 1
    assert reduce_to(image[:96, :96], 64).shape == (64, 64) and reduce_to(image, 512).flags.c_contiguous
    with pytest.raises(BadInput):
        reduce_to(image[:16, :16], 32)


def test_feature_width_and_window(alloy):
    y, x = np.indices((512, 512))
    for diameter in (12, 24, 40):
        centres = np.random.default_rng(0).uniform(0, 512, (int(9000 / diameter**1.5), 2))
        near = np.min([(y - cy)**2 + (x - cx)**2 for cy, cx in centres], 0)
        assert feature_width(np.where(near < (diameter / 2)**2, 200, 60).astype(np.uint8)) == pytest.approx(diameter, rel=0.2)
    s = suggest_window(alloy, 32)
    assert s["window"] == 128 and s["stride"] == 32 and s["count"] == 3042
    assert suggest_window(alloy, 64)["window"] == 256 and suggest_window(alloy, 512)["window"] == 512
    assert suggest_window([a[::2, ::2] for a in alloy], 32)["window"] == 64
    noise = np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8)
    assert suggest_window([noise], 32)["window"] == 32


def test_groups(tmp_path):
    def groups(*names, how="auto"):
        return group_files([tmp_path / n for n in names], tmp_path, how)
    spots = group_files(list_images(embedded()), embedded())
    assert sorted(set(spots)) == [f"spot{k}" for k in range(1, 8)] and spots.count("spot2") == 4
    assert groups("1_001.tif", "2_001.tif", "2_003.tif", "3_001.tif") == ["1", "2", "2", "3"]
    assert groups("a-1.tif", "a-2.tif", "b-1.tif", "c_1.tif") == ["a", "a", "b", "c"]
    assert groups("micrograph1.tif", "micrograph2.tif", "micrograph3.png") == ["micrograph1", "micrograph2", "micrograph3"]
    assert groups("img_1.tif", "img_2.tif") == ["img_1", "img_2"]                         # one prefix says nothing
    assert groups("a_1.tif", "b_1.tif", "c_1.tif") == ["a_1", "b_1", "c_1"]               # as many prefixes as files
    assert groups("x/1.tif", "x/2.tif", "y/1.tif") == ["x", "x", "y"]
    assert groups("x/1.tif", "y/1.tif", how="file") == ["x/1", "y/1"]
    assert groups("1.tif", "1.png", how="file") == ["1.tif", "1.png"]
    assert groups("a_1.tif", "b_2.tif", how="prefix") == ["a", "b"]
    table = tmp_path / "groups.csv"
    table.write_text("file,group\n1.tif,sheet A\nx/2.tif,sheet B\n", encoding="utf-8")
    assert groups("1.tif", "x/2.tif", how=str(table)) == ["sheet A", "sheet B"]
    for names, how in ((("3.tif",), table), (("1.tif",), "spot"), (("1.tif",), tmp_path / "none.csv")):
        with pytest.raises(BadInput):
            groups(*names, how=how)


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
    assert summary["n_images"] == 3042 and (summary["window"], summary["stride"]) == (128, 32) and summary["stretch"] == [5, 95]
    train, held = Dataset(tmp_path / "t.zip", "train"), Dataset(tmp_path / "t.zip", "holdout")
    assert not set(train.groups) & set(held.groups) and 0.1 < len(held) / 3042 < 0.3 and len(held) >= 500
    sources = {r["source"]: r["part"] for r in train.manifest["images"]}
    assert all(sources[r["source"]] == r["part"] for r in train.manifest["images"])
    whole = Dataset(tmp_path / "t.zip")
    assert whole.images().std() > 30 and np.percentile(whole.images(), 5) < 80 and np.percentile(whole.images(), 95) > 180
    record = whole.manifest["images"][200]
    source = alloy[[p.name for p in list_images(embedded())].index(record["source"])]
    y, x, h, w = record["crop"]
    assert record["fraction"] == pytest.approx(phase_fraction(reduce_to(median_filter(source)[y:y + h, x:x + w], 32)), abs=1e-5)
    assert summary["fraction_spread"]["after"] < summary["fraction_spread"]["before"]
    assert any("spread of the phase fraction" in n for n in summary["notes"])


def test_prepare_is_repeatable(tmp_path, folder):
    for name in "ab":
        prepare(folder, tmp_path / f"{name}.zip", 32, window=64, stride=32, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_prepare_mixed_depth_and_scale(tmp_path, folder):
    summary = prepare(folder, tmp_path / "a.zip", 32, window=64, intensity="none", median=0, progress=False)
    data = Dataset(tmp_path / "a.zip")
    deep = [r for r in data.manifest["images"] if r["source"] == "s1_5.tif"]
    assert deep[0]["pixel_size_nm"] == pytest.approx([200, 200]) and data.manifest["images"][0]["pixel_size_nm"] is None
    index = [r["file"] for r in data.manifest["images"]].index(deep[0]["file"])
    assert (data[index][0] == reduce_to(steel(5, fraction=0.55)[:64, :64], 32)).all()      # 16 bits brought back to 8 exactly
    assert summary["groups"] == {f"s{k}": 2 * 49 for k in range(4)} and summary["reference"] is None
    assert data.fractions == pytest.approx([phase_fraction(i[0]) for i in data.images()], abs=1e-5)


def test_deep_images_of_a_narrow_range(tmp_path):
    for k in range(3):
        tifffile.imwrite(tmp_path / f"{k}.tif", 30000 + steel(k).astype(np.uint16) * 4)
    prepare(tmp_path, tmp_path / "a.zip", 64, intensity="none", median=0, progress=False)
    images = Dataset(tmp_path / "a.zip").images()
    assert np.ptp(images) > 200 and len(np.unique(images)) > 120


def test_prepare_list_of_files_and_gain(tmp_path, folder):
    files = list_images(folder)[:6]
    summary = prepare(files, tmp_path / "a.zip", 64, intensity="gain", progress=False)
    assert summary["n_files"] == 6 and summary["fraction_spread"]["after"] == pytest.approx(summary["fraction_spread"]["before"], abs=0.02)


def test_label_maps_copies_and_flat_tiles_are_left_out(tmp_path, folder):
    (folder / "masks").mkdir()
    Image.fromarray((steel(0) > 120).astype(np.uint8)).save(folder / "masks" / "s0_0.png")
    (folder / "s9_copy.tif").write_bytes((folder / "s0_0.tif").read_bytes())
    half = steel(11)
    half[:, :80] = 0
    Image.fromarray(half).save(folder / "s2_11.png")
    summary = prepare(folder, tmp_path / "a.zip", 32, window=64, stride=16, progress=False)
    assert [r["file"] for r in summary["rejected"]] == ["masks/s0_0.png", "s9_copy.tif"] and summary["n_files"] == 9
    assert summary["n_images"] == 9 * 49 - 14 and any("14 tiles of one grey value" in n for n in summary["notes"])


def test_one_group_means_no_holdout(tmp_path):
    Image.fromarray(steel(0)).save(tmp_path / "only.png")
    summary = prepare(tmp_path, tmp_path / "a.zip", 32, window=64, progress=False)
    assert summary["n_holdout"] == 0 and any("only one group" in n for n in summary["notes"])


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (tifffile.imwrite if path.suffix == ".tif" else lambda p, i: Image.fromarray(i).save(p))(path, image, **options)


def test_refusals_write_nothing(tmp_path, folder):
    scaled = dict(imagej=True, metadata={"unit": "um"})
    write(tmp_path / "mixed" / "a.tif", steel(0), resolution=(10, 10), **scaled)
    write(tmp_path / "mixed" / "b.tif", steel(1), resolution=(25, 25), **scaled)
    write(tmp_path / "small" / "a.png", steel(0))
    write(tmp_path / "small" / "b.png", steel(1)[:50])
    write(tmp_path / "bad" / "a.png", steel(0))
    (tmp_path / "bad" / "b.png").write_text("a note")
    write(tmp_path / "labels" / "a.png", (steel(0) > 120).astype(np.uint8))
    write(tmp_path / "colour.png", np.dstack([steel(0), 255 - steel(0), steel(0)]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.docx").write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    cases = [
        (tmp_path / "empty", {}, ".docx"), (tmp_path / "nowhere", {}, "no such folder"), (tmp_path / "colour.png", {}, "folder"),
        (tmp_path / "mixed", {}, "pixel sizes"), (tmp_path / "small", {"size": 64}, "b.png"), (tmp_path / "small", {"window": 100}, "b.png"),
        (tmp_path / "bad", {}, "b.png"), (tmp_path / "labels", {}, "label map"), (folder, {"size": 48}, "size"), (folder, {"size": 512}, "512"),
        (folder, {"window": 16}, "window"), (folder, {"window": "big"}, "window"), (folder, {"stride": 0, "window": 64}, "stride"),
        (folder, {"intensity": "clahe"}, "intensity"), (folder, {"holdout": 1}, "holdout"), (folder, {"median": 4}, "median"),
        (folder, {"group": "spot"}, "group"), (folder, {"reference": tmp_path / "colour.png"}, "colour"), (folder, {"stretch": (95, 5)}, "stretch"),
        (folder, {"bar": "none"}, "bar"), ([], {}, "empty list"),
    ]
    for src, options, word in cases:
        with pytest.raises(BadInput) as caught:
            prepare(src, out / "a.zip", **{"size": 32, "progress": False} | options)
        text = str(caught.value)
        assert word in text and "\n" not in text and len(text) < 450, text
        assert list(out.iterdir()) == [], word
    for dest in (out, out / "data.tar"):
        with pytest.raises(BadInput):
            prepare(folder, dest, 32, progress=False)
    assert prepare(tmp_path / "mixed", out / "a.zip", 32, mixed_scales=True, progress=False)["n_images"] == 2
    assert prepare(tmp_path / "bad", out / "a.zip", 32, strict=False, progress=False)["rejected"][0]["file"] == "b.png"
    assert prepare(tmp_path / "labels", out / "a.zip", 32, force=True, progress=False)["n_images"] == 1


def test_synthetic_archive(tmp_path):
    summary = prepare_synthetic(tmp_path / "s.zip", 32, n_images=90, n_specimens=10)
    data = Dataset(tmp_path / "s.zip")
    assert summary["n_train"] == 72 and summary["n_holdout"] == 18 and data.pixel_size_nm == (150, 150)
    assert np.abs(np.subtract([phase_fraction(i[0]) for i in data.images()], data.fractions)).mean() < 0.02
    prepare_synthetic(tmp_path / "t.zip", 32, n_images=90, n_specimens=10)
    assert (tmp_path / "s.zip").read_bytes() == (tmp_path / "t.zip").read_bytes()


def test_real_folders_as_they_come(tmp_path):
    folder = os.environ.get("SEMGAN_REAL_SEM")
    if not folder:
        pytest.skip("SEMGAN_REAL_SEM does not name a folder with uhcs/, nbt-ceramic/ and nasa-superalloy/")
    root = Path(folder)
    nbt = [root / "nbt-ceramic" / f"{n}.tif" for n in "1_001 1_003 2_001 3_001 3_002 5_001 5_004 6_001 6_004 6_005 6_007".split()]
    for src, groups, rejected in ((root / "nasa-superalloy", 7, 18), (root / "uhcs", 28, 1), (nbt, 5, 0)):
        summary = prepare(src, tmp_path / "a.zip", 32, window="auto", progress=False)
        assert len(summary["groups"]) == groups and len(summary["rejected"]) == rejected and 1000 < summary["n_images"] < 10_000
        data = Dataset(tmp_path / "a.zip", "holdout")
        assert len(data) > 200 and data.images().std() > 25
    with pytest.raises(BadInput, match="mixes pixel sizes"):
        prepare(root / "nbt-ceramic", tmp_path / "b.zip", 32, progress=False)


def test_few_images_are_said_to_be_few(tmp_path):
    few = prepare(embedded(), tmp_path / "few.zip", 256, progress=False)
    assert few["n_images"] == 18 and any("--window auto" in note for note in few["notes"])
