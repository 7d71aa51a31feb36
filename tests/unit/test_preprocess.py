"""Chapters 16 to 19: the paper's pipeline, tiles, groups, prepare."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_up_sets import sem_folder, steel
from PIL import Image
from skimage.exposure import match_histograms
from skimage.filters import median

from semgan_nb.dataset import Dataset
from semgan_nb.foundation import BadInput
from semgan_nb.micrographs import embedded, list_images, read_micrograph
from semgan_nb.preprocess import (
    Recipe,
    centre_crop,
    histogram,
    match_histogram,
    median_filter,
    nanometres,
    normalise,
    reduce_to,
    resample,
    steps,
    stretch_levels,
    tiles,
)
from semgan_nb.sources import group_files, read_table, source_file
from semgan_nb.quality import _eight_for_marks, find_marks, find_overlaps, pick_reference
from semgan_nb.quality import rejection_reasons, sharpness
from semgan_nb.preparation import details, prepare
from semgan_nb.synthetic import phase_fraction


@pytest.fixture(scope="module")
def alloy():
    return [np.asarray(Image.open(p)) for p in list_images(embedded())]


@pytest.fixture
def folder(tmp_path):
    return sem_folder(tmp_path / "sem")


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
        assert (match_histogram(alloy[a], alloy[b]) == expected).all() and match_histogram(
            alloy[a], alloy[b]
        ).dtype == np.uint8
    same = match_histogram(alloy[0], alloy[5])
    assert np.abs(np.percentile(same, range(1, 100)) - np.percentile(alloy[5], range(1, 100))).max() <= 1


def test_matching_wipes_out_fractions():
    images, reference = [steel(k, fraction=f) for k, f in enumerate((0.37, 0.5, 0.8, 0.95))], steel(9, fraction=0.6)
    assert np.ptp([phase_fraction(match_histogram(i, reference)) for i in images]) < 0.05


@pytest.mark.parametrize(
    "reference",
    [steel(9, fraction=0.6), steel(8, fraction=0.95), stretch_levels(steel(7, fraction=0.4) // 8 + 60)],
    ids=["wide", "light", "stretched"],
)
def test_normalise_keeps_the_fraction_under_any_gain_and_offset(reference):
    """True fractions 0.2 to 0.95, recorded at gains 0.15 to 1.1 and offsets -20 to 60."""
    rng = np.random.default_rng(0)
    for k, true in enumerate(np.linspace(0.2, 0.95, 16)):
        original = steel(k, 128, true)
        recorded = np.clip(np.rint(original * rng.uniform(0.15, 1.1) + rng.uniform(-20, 60)), 0, 255).astype(np.uint8)
        read = phase_fraction(normalise(recorded, reference))
        if (
            true < 0.92 or abs(phase_fraction(original) - true) < 0.03
        ):  # above, Otsu's threshold may split the light phase instead, and rounding decides
            assert (
                abs(read - phase_fraction(recorded)) < 0.03
                and abs(read - phase_fraction(original)) < 0.03
                and abs(read - true) < 0.03
            ), true
    assert (normalise(recorded, histogram(reference)) == normalise(recorded, reference)).all()


def test_what_clipping_does_to_the_fraction():
    """One phase clipped: the fraction stays. Both: it is lost, whatever the step."""
    original, reference = steel(3, 128, 0.6).astype(float), steel(9, fraction=0.6)

    def read(gain, offset):
        return phase_fraction(normalise(np.clip(np.rint(gain * original + offset), 0, 255).astype(np.uint8), reference))

    assert abs(read(2, 0) - 0.6) < 0.03 and abs(read(3, -200) - 0.6) < 0.03
    assert abs(read(3, 60) - 0.6) > 0.1


def test_median_of_a_large_image_goes_in_strips():
    image = np.random.default_rng(0).integers(0, 256, (41, 400_000)).astype(np.uint8)
    assert (median_filter(image)[:, :500] == median(image[:, :501])[:, :500]).all()


def test_resample():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 90)).astype(np.uint8)
    for factor in (2, 3, 5):
        assert (
            resample(image, factor) == np.rint(image.reshape(60 // factor, factor, 90 // factor, factor).mean((1, 3)))
        ).all()
    fine = np.kron(image, np.ones((4, 4), np.uint8))  # 3/2 of the pixels of one image = 6 of the finer
    assert (resample(image, 1.5) == resample(fine, 6)).all()
    assert (
        resample(image, (2, 3)).shape == (30, 30)
        and resample(image, 1) is image
        and resample(image, 0.5).shape == (120, 180)
    )
    assert (
        np.abs(resample(resample(image, 0.25), 4).astype(int) - image).mean() < 35
        and resample(np.full((9, 9), 200, np.uint8), 0.7).min() == 200
    )


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
    assert (
        len(cut) == 169
        and [c[:2] for c in cut[12:14]] == [(0, 384), (32, 0)]
        and len(tiles(image, 128)) == 169
        and tiles(image, 600) == []
    )
    small = reduce_to(cut[20][2], 32)
    assert np.abs(small.astype(int) - np.asarray(Image.fromarray(cut[20][2]).resize((32, 32), Image.BOX))).max() <= 1
    assert reduce_to(image[:96, :96], 64).shape == (64, 64) and reduce_to(image, 512).flags.c_contiguous
    with pytest.raises(BadInput):
        reduce_to(image[:16, :16], 32)


def test_groups(tmp_path):
    def groups(*names, how="auto"):
        return group_files([tmp_path / n for n in names], tmp_path, how)

    spots = group_files(list_images(embedded()), embedded())
    assert sorted(set(spots)) == [f"spot{k}" for k in range(1, 8)] and spots.count("spot2") == 4
    assert groups("1_001.tif", "2_001.tif", "2_003.tif", "3_001.tif") == ["1", "2", "2", "3"]
    assert groups("a-1.tif", "a-2.tif", "b-1.tif", "c_1.tif") == ["a", "a", "b", "c"]
    assert groups("micrograph1.tif", "micrograph2.tif", "micrograph3.png") == [
        "micrograph1",
        "micrograph2",
        "micrograph3",
    ]
    assert groups("img_1.tif", "img_2.tif") == ["img_1", "img_2"]  # one prefix says nothing
    assert groups("a_1.tif", "b_1.tif", "c_1.tif") == ["a_1", "b_1", "c_1"]  # as many prefixes as files
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_save_them(tmp_path, encoding, end):
    """Semicolons and tabs, quotes, byte-order marks, decimal commas, folders with backslashes, umlauts, a line
    `sep=;`."""
    table = tmp_path / "groups.csv"
    names = ["1.tif", "Stück, 2.tif", "x/3.tif", 'the "4".png']
    wanted = ["0,25", "0,5", "Blech Ä", "B;C"]
    forms = {
        ";": '1.tif;0,25|Stück, 2.tif;0,5|x\\3.tif;Blech Ä|"the ""4"".png";"B;C"',
        "\t": '1.tif\t0,25|Stück, 2.tif\t0,5|x/3.tif\tBlech Ä|"the ""4"".png"\tB;C',
        ",": '"1.tif","0,25"|"Stück, 2.tif","0,5"|x/3.tif,Blech Ä|"the ""4"".png",B;C',
    }
    for separator, text in forms.items():
        for head in ("", f"file{separator}group|", f"sep={separator}|", f"file{separator}group{separator}note|"):
            table.write_bytes((head + text + "|").replace("|", end).encode(encoding))
            assert group_files([tmp_path / n for n in names], tmp_path, table) == wanted, (separator, head)
    table.write_bytes(
        f"file,group{end}1.tif,0,25{end}2.tif,0,5{end}".encode(encoding)
    )  # a decimal comma that nothing quotes
    assert read_table(table) == {"file": "group", "1.tif": "0,25", "2.tif": "0,5"}
    table.write_bytes(f"file,group,n{end}1.tif,7,25{end}2.tif,8,5{end}".encode(encoding))  # a third column
    assert read_table(table)["1.tif"] == "7"


def test_columns_of_tables_in_any_order(tmp_path):
    """Named by the first line; a third column of counts is not taken for decimals, nor are decimals for a column."""
    table, files = tmp_path / "groups.csv", [tmp_path / "a.tif", tmp_path / "b.tif"]
    for content, wanted in (
        ("group;file\nA;a.tif\nB;b.tif\n", ["A", "B"]),
        ("nr\tFile\tGroup\n1\ta.tif\tA\n2\tb.tif\tB\n", ["A", "B"]),
        ("n,group,file\n1,7,a.tif\n2,8,b.tif\n", ["7", "8"]),
        ("a.tif;1;10\nb.tif;2;20\n", ["1", "2"]),
        ("a.tif,0\nb.tif,0,25\n", ["0", "0,25"]),
        ("file,group,n\na.tif,1,10\nb.tif,2,20\n", ["1", "2"]),
    ):
        table.write_text(content, encoding="utf-8")
        assert group_files(files, tmp_path, table) == wanted, content
    for content, words in (
        (b"a.tif,1,10\nb.tif,2,20\n", "may be the group '1,10' or a third column"),
        (b"A;a.tif\nB;b.tif\n", "names a.tif in column 2.*begin the table"),
        (b"a.tif;A\nc.tif;C\nb.tif,GROUP\n", "add the line `b.tif;GROUP`"),
        (b"a.tif\tA\n", "add the line `b.tif TAB GROUP`"),
        (b"PK\3\4\x14\0\6\0...xl/workbook.xml", "is a workbook of a spreadsheet: save its sheet as CSV"),
    ):
        table.write_bytes(content)
        with pytest.raises(BadInput, match=words):
            group_files(files, tmp_path, table)


def test_what_is_no_table_is_said(tmp_path):
    table = tmp_path / "groups.csv"
    for content, word in (
        (b"", "begins with"),
        (b"\0\1\2" * 50, "table"),
        (b"1.tif\n2.tif\n", "1.tif"),
        (b"1.tif,A\n1.tif,B\n", "two groups"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR,\0", "table"),
        (b"1.tif,\n", "names no group for 1.tif"),
    ):
        table.write_bytes(content)
        with pytest.raises(BadInput, match=word) as caught:
            group_files([tmp_path / "1.tif"], tmp_path, table)
        assert "\n" not in str(caught.value) and "groups.csv" in str(caught.value)


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
    assert (
        data[index][0] == reduce_to(steel(5, fraction=0.55)[:64, :64], 32)
    ).all()  # 16 bits brought back to 8 exactly
    assert summary["groups"] == {f"s{k}": 2 * 49 for k in range(4)} and summary["reference"] is None
    assert data.fractions == pytest.approx([phase_fraction(i[0]) for i in data.images()], abs=1e-5)


def test_deep_images_of_a_narrow_range(tmp_path):
    for k in range(3):
        tifffile.imwrite(tmp_path / f"{k}.tif", 30000 + steel(k).astype(np.uint16) * 4)
    prepare(tmp_path, tmp_path / "a.zip", 64, intensity="none", median=0, progress=False)
    images = Dataset(tmp_path / "a.zip").images()
    assert np.ptp(images) > 200 and len(np.unique(images)) > 120


def test_deep_files_have_a_range_each_and_older_archives_keep_theirs(tmp_path):
    """One hot pixel in one of three files, at gains that differ tenfold: full levels in all, the rule in the
    manifest, the images as `steps` shows them."""
    import json
    import zipfile

    sem = tmp_path / "sem"
    sem.mkdir()
    for k in range(3):
        deep = 200 + steel(k).astype(np.uint16) * (1, 3, 10)[k]
        if k == 1:
            deep[3, 3] = 65535
        tifffile.imwrite(sem / f"{k}.tif", deep)
    summary = prepare(sem, tmp_path / "a.zip", 64, intensity="none", median=0, progress=False)
    data = Dataset(tmp_path / "a.zip")
    assert all(len(np.unique(image)) > 100 for image in data.images()) and any(
        "3 files of 3 have more than 8 bits" in note for note in summary["notes"]
    )
    assert (
        data.manifest["settings"]["grey_range"] == [0.1, 99.9]
        and data.manifest["sources"][1]["grey_range"][1] < 1000
        and data.manifest["sources"][0]["levels"] > 100
    )
    shown = steps(read_micrograph(sem / "1.tif"), Recipe.of(data.manifest), data.manifest["images"][1]["crop"])
    assert (shown["crop"] == data[1][0]).all()
    manifest = data.manifest  # as version 0.1.0 wrote it: one range for all
    manifest["settings"] = {k: v for k, v in manifest["settings"].items() if k != "grey_range"} | {
        "depth": {"black": 0, "white": 65535}
    }
    with zipfile.ZipFile(tmp_path / "a.zip") as old, zipfile.ZipFile(tmp_path / "b.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, json.dumps(manifest) if name == "manifest.json" else old.read(name))
    assert Recipe.of(Dataset(tmp_path / "b.zip").manifest).eight(read_micrograph(sem / "0.tif")).max() < 3
    again = prepare(sem, tmp_path / "b.zip", 64, intensity="none", median=0, progress=False)
    assert any("one range for all (0 to 65535)" in note for note in again["notes"]) and not any(
        "one range for all" in note for note in summary["notes"]
    )


def test_prepare_list_of_files_and_what_the_step_removed(tmp_path, folder):
    files = list_images(folder)[:6]
    summary = prepare(files, tmp_path / "a.zip", 32, window=64, stride=32, intensity="normalise", progress=False)
    assert summary["n_files"] == 6 and abs(summary["fraction_spread"]["removed"]) < 0.05
    matched = prepare(files, tmp_path / "b.zip", 32, window=64, stride=32, progress=False)
    assert matched["fraction_spread"]["removed"] > 0.3 and any(
        "of the variance of the phase fraction" in n for n in matched["notes"]
    )
    spread = Dataset(tmp_path / "b.zip").manifest["fraction_spread"]
    assert spread == pytest.approx(matched["fraction_spread"]) and spread["removed"] == pytest.approx(
        1 - (spread["after"] / spread["before"]) ** 2
    )


def test_label_maps_copies_and_flat_tiles_are_left_out(tmp_path, folder):
    (folder / "masks").mkdir()
    Image.fromarray((steel(0) > 120).astype(np.uint8)).save(folder / "masks" / "s0_0.png")
    (folder / "s9_copy.tif").write_bytes((folder / "s0_0.tif").read_bytes())
    half = steel(11)
    half[:, :80] = 0
    Image.fromarray(half).save(folder / "s2_11.png")
    summary = prepare(folder, tmp_path / "a.zip", 32, window=64, stride=16, progress=False)
    assert [r["file"] for r in summary["rejected"]] == ["masks/s0_0.png", "s9_copy.tif"] and summary["n_files"] == 9
    left_out = Dataset(tmp_path / "a.zip").manifest["rejected_images"]
    assert (
        summary["n_images"] == 9 * 49 - 21
        and summary["rejected_images"] == {"nearly constant": 14, "saturated": 7}
        and any("21 images left out" in n for n in summary["notes"])
    )
    assert {r["source"] for r in left_out} == {"s2_11.png"} and {(r["crop"][1], r["why"]) for r in left_out} == {
        (0, "nearly constant"),
        (16, "nearly constant"),
        (32, "saturated"),
    }


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
        (tmp_path / "empty", {}, ".docx"),
        (tmp_path / "nowhere", {}, "no such folder"),
        (tmp_path / "colour.png", {}, "folder"),
        (tmp_path / "mixed", {}, "pixel sizes"),
        (tmp_path / "small", {"size": 64}, "b.png"),
        (tmp_path / "small", {"window": 100}, "b.png"),
        (tmp_path / "bad", {}, "b.png"),
        (tmp_path / "labels", {}, "label map"),
        (folder, {"size": 48}, "size"),
        (folder, {"size": 512}, "512"),
        (folder, {"window": 16}, "window"),
        (folder, {"window": "big"}, "window"),
        (folder, {"stride": 0, "window": 64}, "stride"),
        (folder, {"intensity": "clahe"}, "intensity"),
        (folder, {"holdout": 1}, "holdout"),
        (folder, {"median": 4}, "median"),
        (folder, {"group": "spot"}, "group"),
        (folder, {"reference": tmp_path / "colour.png"}, "colour"),
        (folder, {"stretch": (95, 5)}, "stretch"),
        (folder, {"bar": "none"}, "bar"),
        ([], {}, "empty list"),
        (folder, {"intensity": "gain"}, "normalise"),
        (folder, {"workers": 0}, "workers"),
        (folder, {"resize": True, "window": 64}, "resize"),
        (folder, {"stride": 8}, "window"),
        (folder, {"pixel_size": "wide"}, "pixel_size"),
        (folder, {"blurred": 2}, "blurred"),
        (folder, {"pixel_size": 200}, "does not say"),
    ]
    for src, options, word in cases:
        with pytest.raises(BadInput) as caught:
            prepare(src, out / "a.zip", **{"size": 32, "progress": False, "strict": True} | options)
        text = str(caught.value)
        assert word in text and "\n" not in text and len(text) < 450, text
        assert list(out.iterdir()) == [], word
    for dest in (out, out / "data.tar"):
        with pytest.raises(BadInput):
            prepare(folder, dest, 32, progress=False)
    assert prepare(tmp_path / "mixed", out / "a.zip", 32, mixed_scales=True, progress=False)["n_images"] == 2
    bad = prepare(tmp_path / "bad", out / "b.zip", 32, progress=False)["rejected"]
    assert bad[0]["file"] == "b.png" and bad[0]["why"].startswith("is a text file")
    assert prepare(tmp_path / "labels", out / "c.zip", 32, force=True, progress=False)["n_images"] == 1


def test_real_folders_as_they_come(tmp_path):
    folder = os.environ.get("SEMGAN_REAL_SEM")
    if not folder:
        pytest.skip("SEMGAN_REAL_SEM does not name a folder with uhcs/, nbt-ceramic/ and nasa-superalloy/")
    root = Path(folder)
    nbt = [
        root / "nbt-ceramic" / f"{n}.tif"
        for n in "1_001 1_003 2_001 3_001 3_002 5_001 5_004 6_001 6_004 6_005 6_007".split()
    ]
    for src, groups, rejected in ((root / "nasa-superalloy", 7, 18), (root / "uhcs", 28, 1), (nbt, 5, 0)):
        summary = prepare(
            src, tmp_path / "a.zip", 32, window="auto", mixed_scales=groups == 28, overwrite=True, progress=False
        )
        assert (
            len(summary["groups"]) == groups
            and len(summary["rejected"]) == rejected
            and 1000 < summary["n_images"] < 10_000
        )
        data = Dataset(tmp_path / "a.zip", "holdout")
        assert len(data) > 200 and data.images().std() > 25
    for name in ("nbt-ceramic", "uhcs"):
        with pytest.raises(BadInput, match="mixes pixel sizes"):
            prepare(root / name, tmp_path / "b.zip", 32, progress=False)


def test_a_crop_that_does_not_fit_names_the_sizes_that_would(tmp_path):
    write(tmp_path / "a.png", steel(0, 300))
    write(tmp_path / "b.png", steel(1, 300)[:200])
    with pytest.raises(BadInput, match="256 or less would"):
        prepare(tmp_path, tmp_path / "a.zip", 512, progress=False)
    summary = prepare(tmp_path, tmp_path / "a.zip", 256, progress=False)
    assert (
        summary["n_images"] == 1
        and "128 or less" in summary["rejected"][0]["why"]
        and "b.png: is 300 x 200 pixels" in details(summary)
    )


def spoilt():
    """Files of every kind that is left out, beside good ones."""
    blurred, white, flat = steel(20).astype(float), steel(21).astype(float), steel(22)
    from scipy.ndimage import gaussian_filter

    blurred[:, 80:] = gaussian_filter(blurred, 9)[:, 80:]
    white[:, :100] += 400
    flat[:, :80] = flat[0, 0]
    return {
        "blurred": blurred.clip(0, 255).astype(np.uint8),
        "saturated": white.clip(0, 255).astype(np.uint8),
        "nearly constant": flat,
    }


def test_blurred_saturated_and_constant_images_are_left_out_and_listed(tmp_path, folder):
    for reason, image in spoilt().items():
        write(folder / f"x_{reason}.png", image)
    prepare(folder, tmp_path / "a.zip", 32, window=64, stride=16, progress=False)
    left_out = Dataset(tmp_path / "a.zip").manifest["rejected_images"]
    assert {(r["source"], r["why"]) for r in left_out} >= {
        ("x_blurred.png", "blurred"),
        ("x_nearly constant.png", "nearly constant"),
    }
    assert {r["source"] for r in left_out} == {
        "x_blurred.png",
        "x_saturated.png",
        "x_nearly constant.png",
    }  # nothing good
    wide = prepare(
        folder, tmp_path / "b.zip", 32, window=64, stride=16, saturated=0, blurred=0, constant=0, progress=False
    )
    assert wide["n_images"] == 11 * 49 and wide["rejected_images"] == {}
    with pytest.raises(BadInput, match="left out"):
        write(tmp_path / "noise" / "a.png", np.random.default_rng(0).integers(0, 256, (160, 160)).astype(np.uint8))
        prepare(tmp_path / "noise", tmp_path / "c.zip", 16, window=64, constant=1, progress=False)


def test_thresholds():
    assert rejection_reasons([0.05, 1, 1, 1], [0, 0.8, 0, 0], [1, 1, 0.3, 1])[0] == [
        "nearly constant",
        "saturated",
        "blurred",
        None,
    ]
    assert rejection_reasons([0.05, 1, 1, 1], [0, 0.8, 0, 0], [1, 1, 0.3, 1], 0, 0, 0)[0] == [None] * 4
    assert (
        rejection_reasons([0.0], [0.0], [0.0])[0] == ["nearly constant"]
        and sharpness(np.zeros((32, 32), np.uint8)) == 0
    )


def scaled(path, image, nm):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, image, imagej=True, resolution=(1000 / nm, 1000 / nm), metadata={"unit": "um"})


def test_one_scale(tmp_path):
    root = tmp_path / "sem"
    for k in range(3):
        scaled(root / f"a{k}.tif", steel(k), 100)
    scaled(root / "b.tif", steel(5, 320), 50)
    with pytest.raises(BadInput, match=r"50 nm \(1 file\), 100 nm \(3 files\).*pixel_size=100") as caught:
        prepare(root, tmp_path / "x.zip", 64, progress=False)
    assert caught.value.__notes__[0].splitlines()[1:] == ["          50      1   b.tif", "         100      3   a0.tif"]
    prepare(root, tmp_path / "a.zip", 64, pixel_size="100nm", intensity="none", median=0, progress=False)
    data = Dataset(tmp_path / "a.zip")
    assert data.pixel_size_nm == (100, 100) and data.manifest["images"][3]["crop"] == [96, 96, 128, 128]
    assert (data[3][0] == np.rint(steel(5, 320).reshape(160, 2, 160, 2).mean((1, 3)))[48:112, 48:112]).all() and (
        data[0][0] == centre_crop(steel(0), 64)
    ).all()
    half = prepare(root, tmp_path / "b.zip", 32, window=64, pixel_size=100, progress=False)
    assert half["pixel_size_nm"] == [200, 200]
    up = prepare(root, tmp_path / "c.zip", 64, pixel_size="0.05um", progress=False)
    assert (
        any("enlarged up to 2 times" in n for n in up["notes"])
        and Dataset(tmp_path / "c.zip").manifest["sources"][0]["enlarged"] == 2
    )
    write(root / "z.png", steel(8))
    known = prepare(root, tmp_path / "d.zip", 64, pixel_size=100, progress=False)
    assert known["rejected"][0]["file"] == "z.png" and "does not say its pixel size" in known["rejected"][0]["why"]
    (root / "b.tif").unlink()
    unknown = prepare(root, tmp_path / "d.zip", 64, progress=False)
    assert any("1 of 4 files do not say" in n for n in unknown["notes"]) and unknown["pixel_size_nm"] is None
    assert [nanometres(x) for x in (50, "50", "50 nm", "0.05um", "0.05 µm")] == pytest.approx([50] * 5)


def test_a_refused_mixture_shows_the_sizes_in_the_files(tmp_path):
    """29.14 and 72.85 nm, as the microscope wrote them, not what 64-px tiles reduced to 32 would have; a demo takes
    the same two answers."""
    from semgan_nb.cli import main

    for name, nm in (("a", 29.14), ("b", 72.85)):
        scaled(tmp_path / "sem" / f"{name}.tif", steel(ord(name)), nm)
    with pytest.raises(BadInput, match=r"29.14 nm \(1 file\), 72.85 nm \(1 file\)") as caught:
        prepare(tmp_path / "sem", tmp_path / "x.zip", 32, window=64, progress=False)
    assert [row.split()[0] for row in caught.value.__notes__[0].splitlines()[1:]] == ["29.14", "72.85"]
    assert (
        main(["demo", "--data", str(tmp_path / "sem"), "--out", str(tmp_path / "demo"), "--window", "64"]) == 2
        and not (tmp_path / "demo" / "data.zip").exists()
    )
    assert main(["demo", "--data", "synthetic", "--out", str(tmp_path / "demo"), "--pixel-size", "50nm"]) == 2


def test_a_demo_prepares_with_what_it_was_asked_for(tmp_path, monkeypatch, capsys):
    from semgan_nb import preparation
    from semgan_nb.cli import main

    scaled(tmp_path / "sem" / "a.tif", steel(1), 50)

    def told(*args, **options):
        raise BadInput(f"pixel_size={options['pixel_size']} mixed_scales={options['mixed_scales']}")

    monkeypatch.setattr(preparation, "prepare", told)
    for words, said in (
        (["--pixel-size", "0.1um"], "pixel_size=0.1um mixed_scales=False"),
        (["--mixed-scales"], "pixel_size=None mixed_scales=True"),
    ):
        assert main(["demo", "--data", str(tmp_path / "sem"), "--out", str(tmp_path / "demo"), *words]) == 2
        assert said in capsys.readouterr().err
    assert (
        main(["demo", "--data", str(tmp_path / "sem"), "--pixel-size", "wide"]) == 2
        and "a length such as 50nm" in capsys.readouterr().err
    )


def test_resize_takes_the_whole_and_never_squeezes(tmp_path):
    root = tmp_path / "sem"
    for k in range(2):
        scaled(root / f"{k}.tif", steel(k, 320)[:256], 50)
    summary = prepare(root, tmp_path / "a.zip", 64, resize=True, intensity="none", median=0, progress=False)
    data = Dataset(tmp_path / "a.zip")
    assert (
        data.manifest["images"][0]["crop"] == [0, 32, 256, 256]
        and data.pixel_size_nm == (200, 200)
        and summary["window"] is None
    )
    assert (data[0][0] == reduce_to(steel(0, 320)[:256, 32:288], 64)).all()
    scaled(root / "2.tif", steel(2, 160), 50)
    with pytest.raises(
        BadInput, match=r"after resizing, 125 nm \(1 file\), 200 nm \(2 files\).*crops or tiles"
    ) as caught:
        prepare(root, tmp_path / "b.zip", 64, resize=True, progress=False)
    assert "pixel_size" not in str(caught.value)  # resizing undoes it
    prepare(root, tmp_path / "b.zip", 64, progress=False)  # the way it names


def test_oblong_pixels_are_refused_or_made_square(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", steel(0), imagej=True, resolution=(10, 20), metadata={"unit": "um"})
    with pytest.raises(BadInput, match="not square"):
        prepare(tmp_path, tmp_path / "a.zip", 64, progress=False)
    prepare(tmp_path, tmp_path / "a.zip", 64, pixel_size=100, progress=False)
    assert Dataset(tmp_path / "a.zip").manifest["images"][0]["crop"][2:] == [128, 64] and Dataset(
        tmp_path / "a.zip"
    ).pixel_size_nm == (100, 100)


def test_the_manifest_tells_where_everything_comes_from(tmp_path, folder):
    import hashlib

    prepare(folder, tmp_path / "a.zip", 64, progress=False)
    manifest = Dataset(tmp_path / "a.zip").manifest
    for record in manifest["images"]:
        assert record["source_sha256"] == hashlib.sha256((folder / record["source"]).read_bytes()).hexdigest()
        assert set(record) >= {"file", "part", "source", "crop", "group", "pixel_size_nm", "fraction", "fraction_after"}
    assert (
        manifest["settings"]["intensity"] == "match"
        and len(manifest["ranking"]) == 8
        and manifest["ranking"][0]["file"] == manifest["reference"]["file"]
    )
    assert (
        len(manifest["sources"]) == 8
        and sum(manifest["reference"]["histogram"]) == 160 * 160
        and manifest["sources"][0]["bar_rows"] == 0
    )
    assert sorted(r["penalty"] for r in manifest["ranking"]) == [r["penalty"] for r in manifest["ranking"]]


def test_steps_show_what_prepare_did(tmp_path, folder):
    scaled(folder / "s9.tif", np.vstack([steel(9, 320), np.zeros((40, 320), np.uint8)]), 100)
    for path in folder.glob("s*_*.tif"):
        scaled(path, steel(int(path.stem[-1]), 160, 0.4 + 0.1 * int(path.stem[1])), 200)
    for options in (
        dict(window=64, stride=48, pixel_size=200),
        dict(resize=True, mixed_scales=True),
        dict(intensity="normalise", stretch=(2, 98), mixed_scales=True),
    ):
        prepare(folder, tmp_path / "a.zip", 32, bar="auto", progress=False, **options)
        data = Dataset(tmp_path / "a.zip")
        recipe = Recipe.of(data.manifest)
        for k in (0, 3, len(data) - 1):
            record = data.manifest["images"][k]
            shown = steps(
                read_micrograph(
                    folder / record["source"], data.manifest["settings"]["bar_rows"].get(record["source"], 0)
                ),
                recipe,
                record["crop"],
            )
            assert (shown["crop"] == data[k][0]).all(), (options, k)
        assert (
            list(shown)[:3] == ["8-bit grey", "bar off", "median"]
            and list(shown)[-2:] == ["intensity", "crop"]
            and all(s.dtype == np.uint8 for s in shown.values())
        )
    with pytest.raises(BadInput, match="prepare it again"):
        Recipe.of({})


def test_a_page_of_many_and_the_print_density_on_request(tmp_path):
    pages = np.stack([steel(k) for k in range(3)])
    for name in ("a", "b"):
        write(
            tmp_path / "sem" / f"{name}.tif",
            np.roll(pages, 9 * ord(name), 2),
            photometric="minisblack",
            resolution=(254000, 254000),
            resolutionunit="CENTIMETER",
        )
    summary = prepare(tmp_path / "sem", tmp_path / "first.zip", 64, progress=False, intensity="none", holdout=0)
    assert summary["pixel_size_nm"] is None and any("3 pages" in note for note in summary["notes"])
    summary = prepare(
        tmp_path / "sem",
        tmp_path / "third.zip",
        64,
        progress=False,
        intensity="none",
        holdout=0,
        median=0,
        page=2,
        print_density=True,
    )
    assert np.allclose(summary["pixel_size_nm"], 1e7 / 254000)
    whole = np.roll(pages[2], 9 * ord("a"), 1)
    np.testing.assert_array_equal(Dataset(tmp_path / "third.zip").images([0])[0, 0], centre_crop(whole, 64))
    settings = Dataset(tmp_path / "third.zip").manifest["settings"]
    assert (settings["page"], settings["print_density"]) == (2, True)
    with pytest.raises(BadInput, match="page"):
        prepare(tmp_path / "sem", tmp_path / "x.zip", 64, progress=False, page=5)


def test_a_stack_is_one_specimen(tmp_path):
    """`page="all"`: every slice is used, named by its number, in one group on one side; a preview in the same file
    is not."""
    sem = tmp_path / "sem"
    sem.mkdir()
    for k in range(3):
        slices = np.stack([steel(10 * k + j) for j in range(4)])
        if k == 0:
            tifffile.imwrite(sem / "a0.tif", steel(99)[:80, :80])
            for one in slices:
                tifffile.imwrite(sem / "a0.tif", one, append=True)
        else:
            tifffile.imwrite(
                sem / f"a{k}.tif", slices, photometric="minisblack", **(dict(imagej=True) if k == 1 else {})
            )
    write(sem / "b.png", steel(50))
    summary = prepare(
        sem, tmp_path / "a.zip", 32, window=64, stride=48, page="all", intensity="none", median=0, progress=False
    )
    data = Dataset(tmp_path / "a.zip")
    images, sources = data.manifest["images"], data.manifest["sources"]
    assert [s["file"] for s in sources] == [
        *(f"a0.tif#{j}" for j in range(1, 5)),
        *(f"a{k}.tif#{j}" for k in (1, 2) for j in range(4)),
        "b.png",
    ]
    assert (
        len({r["group"] for r in images if r["source"].startswith("a1.tif")}) == 1
        and len(summary["groups"]) == 4
        and any("5 pages, of which 4 alike were taken" in note for note in summary["notes"])
    )
    sides = {}
    for r in images:
        assert sides.setdefault(r["source"].partition("#")[0], r["part"]) == r["part"]
    first = next(k for k, r in enumerate(images) if r["source"] == "a2.tif#3")
    assert (data[first][0] == reduce_to(steel(23)[:64, :64], 32)).all()
    assert source_file(sources[-2]) == ("a2.tif", 3) and source_file(sources[-1]) == ("b.png", None)
    prepare(
        sem, tmp_path / "a.zip", 32, window=64, stride=48, page="all", progress=False
    )  # its own archive is known again


def test_a_bad_page_leaves_the_others_and_files_are_counted(tmp_path):
    """A blank page of a stack, and one that is there twice: named, the rest is used; 5 pages are no 5 files."""
    sem = tmp_path / "sem"
    slices = [steel(k) for k in range(5)]
    slices[3] = np.full_like(slices[0], 9)
    write(sem / "a.tif", np.stack([*slices, slices[1]]).astype(np.uint16) * 16, photometric="minisblack")
    write(sem / "b.png", steel(7))
    write(sem / "c.png", np.zeros((64, 64), np.uint8))
    options = dict(page="all", intensity="none", progress=False)
    summary = prepare(sem, tmp_path / "a.zip", 64, **options)
    assert [s["file"] for s in Dataset(tmp_path / "a.zip").manifest["sources"]] == [
        *(f"a.tif#{k}" for k in (0, 1, 2, 4)),
        "b.png",
    ]
    assert [(r["file"], r.get("page")) for r in summary["rejected"]] == [
        ("a.tif#3", 3),
        ("a.tif#5", 5),
        ("c.png", None),
    ]
    notes = " ".join(summary["notes"])
    for words in (
        "1 file of 3 and 2 pages left out, e.g. a.tif#3: every pixel has the value",
        "a.tif#0: has 6 pages, of which 5 alike were taken as one specimen",
        "1 file of 2 has more than 8 bits:",
        "2 of 2 files do not say their pixel size",
    ):
        assert words in notes, words
    assert summary["n_files"] == 2
    with pytest.raises(BadInput, match=r"a.tif#3: every pixel"):
        prepare(sem, tmp_path / "b.zip", 64, strict=True, **options)
    assert not (tmp_path / "b.zip").exists()


def test_a_refusal_names_the_other_pages(tmp_path):
    """A map of labels or a colour picture of more bits or pixels beside a micrograph; asked for by its number, it is
    refused alone."""
    colour = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    for page, words in (((steel(1) > 120).astype(np.uint16) * 7, "label map"), (colour, "colour image")):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as tif:
            tif.write(steel(0), photometric="minisblack")
            tif.write(page, photometric="rgb" if page.ndim == 3 else "minisblack")
        with pytest.raises(
            BadInput, match=rf"{words}.*has 2 pages.*page 0 \(160 x 160 pixels, 8 bits\).*page names"
        ) as it:
            read_micrograph(path)
        with pytest.raises(type(it.value)) as alone:
            read_micrograph(path, page=1)
        assert "pages" not in str(alone.value) and read_micrograph(path, page=0).image.shape == (160, 160)


def test_jpeg_is_said_and_held_apart(tmp_path):
    """All of them, or some: with the quality; of a specimen with both a group of its own, on the same side, a JPEG
    copy of a TIFF too."""
    from semgan_nb.cli import info

    every, mixed, out = tmp_path / "every", tmp_path / "mixed", tmp_path / "a.zip"
    every.mkdir(), mixed.mkdir()
    options = dict(size=32, window=64, stride=48, intensity="none", holdout=0.4, progress=False)
    for k in range(4):
        Image.fromarray(steel(k)).save(every / f"{k}.jpg", quality=(80, 95)[k % 2])
        Image.fromarray(steel(k)).save(mixed / f"s{k}_1.png")
        Image.fromarray(steel(k + 9)).save(
            mixed / f"s{k}_2.{'jpg' if k < 2 else 'png'}", **({"quality": 85} if k < 2 else {})
        )
    said = prepare(every, out, **options)
    assert any("all 4 files are JPEG (quality 80 to 95)" in note for note in said["notes"]) and set(said["groups"]) == {
        "0",
        "1",
        "2",
        "3",
    }
    assert "2 of its 4 files are JPEG, quality 80" in info(out) and "JPEG, quality 95" in info(every)
    said = prepare(mixed, out, overwrite=True, **options)
    assert set(said["groups"]) == {"s0", "s0 (lossy)", "s1", "s1 (lossy)", "s2", "s3"} and any(
        "2 of 8 files are JPEG (quality 85), e.g. s0_2.jpg" in note for note in said["notes"]
    )
    parts = {r["group"]: r["part"] for r in Dataset(out).manifest["images"]}
    assert parts["s0"] == parts["s0 (lossy)"] and parts["s1"] == parts["s1 (lossy)"] and len(set(parts.values())) == 2
    for k in range(4):
        Image.fromarray(steel(k)).save(every / f"{k}.png")
    prepare(every, out, overwrite=True, group="file", **options)
    sides = {}
    for r in Dataset(out).manifest["images"]:
        assert sides.setdefault(r["source"][0], r["part"]) == r["part"]
    shutil.rmtree(every)
    assert not any("JPEG" in note for note in prepare(embedded(), out, 64, overwrite=True, progress=False)["notes"])


def test_one_place_on_both_sides_is_found(tmp_path):
    """Fields that overlap, at other gains and with noise, under names of their own; none among fields of their own."""
    rng, sem = np.random.default_rng(0), tmp_path / "sem"
    options = dict(size=32, window=64, stride=48, intensity="none", holdout=0.3, progress=False, overwrite=True)
    for k in range(4):
        write(sem / f"s{k}.png", steel(k, 160))
    clean = prepare(sem, tmp_path / "a.zip", **options)
    assert (
        not any("same place" in note for note in clean["notes"])
        and "overlaps" not in Dataset(tmp_path / "a.zip").manifest
    )
    big = steel(77, 300)
    for k in range(4):
        write(
            sem / f"s{k}.png",
            np.clip(
                big[20 * k : 20 * k + 160, 15 * k : 15 * k + 160] * (1 - 0.1 * k) + rng.normal(0, 6, (160, 160)), 0, 255
            ).astype(np.uint8),
        )
    notes = prepare(sem, tmp_path / "a.zip", **options)["notes"]
    assert any("(held out) show the same place" in note and "into one group" in note for note in notes)
    for pair in Dataset(tmp_path / "a.zip").manifest["overlaps"]:
        apart = abs(int(pair["train"][1]) - int(pair["holdout"][1]))
        assert (
            pair["share"] == pytest.approx((160 - 20 * apart) * (160 - 15 * apart) / 160**2, abs=0.05)
            and pair["correlation"] > 0.75
        )
    assert any("show the same place on both sides" in w for w in Dataset(tmp_path / "a.zip").warnings)


def test_one_place_at_two_magnifications_is_found_where_both_sizes_are_known(tmp_path, alloy):
    """A part of each micrograph at twice the magnification, with noise; none of it is in another micrograph."""
    rng, sem = np.random.default_rng(1), tmp_path / "sem"
    noisy = lambda a: (a * 0.8 + 20 + rng.normal(0, 6, a.shape)).clip(0, 255).astype(np.uint8)
    scaled = dict(imagej=True, metadata={"unit": "um"})
    for k, place in enumerate(alloy[:2]):
        write(sem / f"wide{k}.tif", noisy(place[:384, :384]), resolution=(10, 10), **scaled)
        write(sem / f"near{k}.tif", noisy(resample(place[90:282, 40:232], 0.5)), resolution=(20, 20), **scaled)
    options = dict(window=96, stride=96, intensity="none", holdout=0.5, progress=False, overwrite=True)
    (tmp_path / "groups.csv").write_text("".join(f"{p.name},{p.name[:4]}\n" for p in sem.iterdir()))
    for more in (dict(mixed_scales=True), dict(pixel_size=100)):
        notes = prepare(sem, tmp_path / "a.zip", 32, group=str(tmp_path / "groups.csv"), **options, **more)["notes"]
        assert any("show the same place, 100% of the image" in note for note in notes), notes
        pairs = Dataset(tmp_path / "a.zip").manifest["overlaps"]
        assert sorted(p["train"][4:] for p in pairs) == sorted(p["holdout"][4:] for p in pairs) and len(pairs) == 2
    small = [reduce_to(np.ascontiguousarray(a[:384, :384]), 128) for a in alloy[:6]]
    pairs = [(i, j) for i in range(6) for j in range(i)]
    for ratio in (1.5, 2, 3, 4):
        assert not find_overlaps(small, pairs, [(ratio**k, ratio**k) if k < 2 else (1, 1) for k in range(6)])


def test_what_looks_alike_at_many_shifts_is_not_one_place(alloy):
    """Gratings, one interface, a gradient, a vignette; parts of one place are found, turned by a degree too."""
    from scipy import ndimage

    y, x = np.indices((128, 128))
    rng = np.random.default_rng(0)
    noisy = lambda a: (a + rng.normal(0, 6, a.shape)).clip(0, 255).astype(np.uint8)
    for kind in (
        lambda k: 128 + 60 * np.sign(np.sin(2 * np.pi * (x + k) / 11)),
        lambda k: np.where(y < 40 + 9 * k, 70, 180),
        lambda k: 60 + x * (0.6 + 0.1 * k),
        lambda k: 200 - ((x - 64.0) ** 2 + (y - 64.0) ** 2) / (50 + 9 * k),
    ):
        assert not find_overlaps([noisy(kind(0)), noisy(kind(1)), noisy(kind(4))], [(0, 1), (0, 2), (1, 2)])
    for scale in (1, 3, 6):
        place = ndimage.gaussian_filter(rng.normal(size=(256, 256)), scale)
        place = 128 + 40 * (place - place.mean()) / place.std()
        turned = ndimage.rotate(place, 1, reshape=False)
        parts = [place[20:148, 20:148], place[60:188, 70:198], place[100:228, 20:148], turned[20:148, 20:148]]
        assert len(find_overlaps([noisy(p) for p in parts], [(0, 1), (0, 2), (0, 3)])) == 3, scale


def test_one_sided_splits_are_said(tmp_path):
    for k in range(2):
        write(tmp_path / "sem" / f"{k}.png", steel(k))
    notes = prepare(tmp_path / "sem", tmp_path / "a.zip", 32, window=64, stride=16, progress=False)["notes"]
    assert any("training images come from one micrograph" in note for note in notes) and any(
        "held-out images come from one micrograph" in note for note in notes
    )
    write(tmp_path / "sem" / "2.png", steel(3))
    notes = prepare(tmp_path / "sem", tmp_path / "a.zip", 64, progress=False)["notes"]
    assert any("a single image is held out" in note for note in notes) and not any(
        "training images come from" in note for note in notes
    )


def drawn(image, draw):
    from PIL import ImageDraw

    picture = Image.fromarray(image)
    draw(ImageDraw.Draw(picture))
    return np.asarray(picture)


def test_marks_are_found_and_micrographs_have_none(alloy):
    from PIL import ImageFont

    for image in (alloy[7], steel(3, 320)):
        h, w = image.shape
        for ink in (0, 255, 128):
            for draw, least in (
                (lambda d: d.rectangle((w - 150, h - 40, w - 50, h - 36), fill=ink), 500),
                (lambda d: d.rectangle((0, 0, 40, 30), fill=ink), 1200),
                (lambda d: d.rectangle((60, 60, 160, 140), outline=ink, width=3), 8000),
                (
                    lambda d: (
                        d.rectangle((w - 170, h - 70, w - 40, h - 20), fill=ink),
                        d.rectangle((w - 150, h - 35, w - 60, h - 30), fill=ink ^ 192),
                    ),
                    6000,
                ),
                (lambda d: d.line((80, 90, 80, 200), fill=ink, width=3), 300),
            ):
                assert least <= find_marks(drawn(image, draw)).sum() < 3 * least + 700, (ink, least)
            assert find_marks(np.pad(image, ((9, 0), (0, 9)), constant_values=ink)).sum() == 9 * (h + w + 9)
        for ink in (0, 255):
            assert find_marks(
                drawn(image, lambda d: d.text((30, 30), "martensite", fill=ink, font=ImageFont.load_default(36)))
            ).any()
    for image in [*alloy[::4], *(steel(k, 256, 0.2 + 0.2 * k) for k in range(4))]:
        for clipped in (
            image,
            np.clip(image.astype(int) * 3 - 200, 0, 255).astype(np.uint8),
            image // 4 * 4,
            np.kron(image[:200, :200], np.ones((2, 2), np.uint8)),
        ):
            assert not find_marks(clipped).any()


def as_jpeg(image, quality=85):
    store = io.BytesIO()
    Image.fromarray(image).save(store, "JPEG", quality=quality)
    return np.asarray(Image.open(store))


def test_strokes_of_a_white_or_black_that_the_micrograph_has_not(alloy):
    """Arrows, thin lines, circles, frames and single letters, in JPEG too; none where the image itself is clipped."""
    from PIL import ImageFont

    image = alloy[7][:300, :400]
    kinds = (
        lambda d, ink: (d.line((150, 150, 220, 200), ink, 4), d.polygon([(214, 208), (240, 214), (226, 190)], ink)),
        lambda d, ink: d.line((50, 50, 250, 140), ink, 2),
        lambda d, ink: d.rectangle((280, 270, 380, 271), ink),
        lambda d, ink: d.ellipse((150, 100, 260, 210), outline=ink, width=3),
        lambda d, ink: d.rectangle((0, 0, 399, 299), outline=ink, width=1),
        lambda d, ink: d.text((10, 5), "A", ink, font=ImageFont.load_default(40)),
    )
    for ink in (0, 255):
        for k, draw in enumerate(kinds):
            marked = drawn(image, lambda d: draw(d, ink))
            found, there = find_marks(marked), marked == ink
            assert (found & there).sum() > 0.9 * there.sum() and not (found & ~there).any(), (ink, k)
            if k != 1:  # a slanted line of 2 px is blurred too much
                assert (find_marks(as_jpeg(marked), True) & there).any(), (ink, k)
    margin = np.pad(drawn(image, lambda d: kinds[0](d, 255)), ((0, 0), (40, 0)), constant_values=255)
    for lossy in (False, True):
        found = find_marks(as_jpeg(margin) if lossy else margin, lossy)  # the margin hides no arrow
        assert found[:, :40].all() and found[150:200, 190:260].sum() > 200 and not found[:, 300:].any()
    low, high = np.percentile(image, [2, 98])
    clipped = np.clip((image - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    assert not find_marks(clipped).any() and not find_marks(as_jpeg(clipped), True).any()


def test_margins_and_boxes_in_jpeg(alloy):
    image = alloy[7][:256, :320]
    for wide in (8, 10, 13, 16, 20):
        for ink in (0, 128, 255):
            margin = find_marks(as_jpeg(np.pad(image, ((0, 0), (wide, 0)), constant_values=ink)), True)
            assert margin[:, :wide].all() and margin.sum() <= 256 * (wide + 8), (wide, ink)
    for ink in (0, 128, 255):
        box = find_marks(as_jpeg(drawn(image, lambda d: d.rectangle((100, 100, 200, 160), ink))), True)
        assert box[104:160, 104:200].all() and box.sum() < 101 * 61 + 1, ink
    for quality in (95, 60, 40):
        assert not find_marks(as_jpeg(image, quality), True).any()


def test_what_clipping_made_of_a_deep_file_is_no_mark(tmp_path):
    """A thousandth of a file of more than 8 bits becomes white; a mark has one value, and so many pixels."""
    deep = steel(3).astype(np.uint16) * 16
    deep[40:50, 40:44] = np.arange(5000, 5040).reshape(10, 4)  # a bright place, above all the others
    for mark in (False, True):
        if mark:
            deep[100:102, 20:80] = 6000
        tifffile.imwrite(tmp_path / "a.tif", deep)
        m = read_micrograph(tmp_path / "a.tif", bar=0)
        marks = find_marks(_eight_for_marks(m, Recipe(32)))
        assert marks[100:102, 20:80].all() == mark and not marks[:90].any()


def test_images_with_marks_are_left_out_and_said(tmp_path):
    """A box, coloured digits, a margin: the tiles that touch them are listed; kept on request; the data bar's logo
    is none."""
    sem = tmp_path / "sem"
    for k in range(4):
        write(sem / f"{k}.png", steel(k))
    write(sem / "box.png", drawn(steel(5), lambda d: d.rectangle((100, 130, 150, 150), fill=255)))
    coloured = np.repeat(steel(6)[..., None], 3, 2)
    coloured[5:15, 5:15] = (255, 0, 0)
    Image.fromarray(coloured).save(sem / "digit.png")
    options = dict(size=32, window=64, stride=48, intensity="none", progress=False, overwrite=True)
    summary = prepare(sem, tmp_path / "a.zip", **options)
    manifest = Dataset(tmp_path / "a.zip").manifest
    assert summary["rejected_images"] == {"with marks burnt in": 3} and sorted(
        {r["source"] for r in manifest["rejected_images"]}
    ) == ["box.png", "digit.png"]
    assert (
        any("2 files with marks burnt in" in note and "box.png (4.2%)" in note for note in summary["notes"])
        and manifest["settings"]["marks"] == "reject"
    )
    assert {s["file"]: s["marks"] for s in manifest["sources"] if "marks" in s} == {
        "box.png": pytest.approx(51 * 21 / 160**2, abs=1e-4),
        "digit.png": pytest.approx(100 / 160**2, abs=1e-4),
    }
    kept = prepare(sem, tmp_path / "a.zip", marks="keep", **options)
    assert (
        kept["rejected_images"] == {}
        and kept["n_images"] == summary["n_images"] + 3
        and any("learns to draw them" in note for note in kept["notes"])
    )


def test_the_command_prints_tables_and_stops_where_it_should(tmp_path, capsys):
    from semgan_nb.cli import main

    root, out = tmp_path / "sem", str(tmp_path / "a.zip")
    for k in range(3):
        scaled(root / f"a{k}.tif", steel(k), 100)
    scaled(root / "b.tif", steel(5, 320), 50)
    (root / "c.png").write_text("no image")
    prepared = ["prepare", str(root), out, "--size", "64"]
    assert main(prepared) == 2
    words = capsys.readouterr().err.splitlines()
    assert (
        "mixes pixel sizes" in words[-4]
        and words[-3].split() == ["nm", "per", "pixel", "files", "for", "example"]
        and words[-1].split() == ["100", "3", "a0.tif"]
    )
    assert main(prepared + ["--pixel-size", "100nm", "--strict"]) == 2
    assert "c.png: is a text file" in capsys.readouterr().err and not Path(out).exists()
    assert main(prepared + ["--pixel-size", "100nm", "--stretch", "5,95"]) == 0
    words = capsys.readouterr().out
    for part in (
        "the best of 4 judged, stretched (5-95 %",
        "penalty",
        "pixel size: 100 nm",
        "of the variance of the phase fraction",
        "  c.png: is a text file",
    ):
        assert part in words, part
    assert (
        main(
            prepared
            + [
                "--pixel-size",
                "100nm",
                "--intensity",
                "normalise",
                "--stretch",
                "none",
                "--reference",
                str(root / "a1.tif"),
            ]
        )
        == 0
    )
    assert "reference: a1.tif, as given\n" in capsys.readouterr().out
    assert main(prepared + ["--stretch", "5"]) == 2
