"""Chapters 05, 06 and 16: archive, hold-out, subset, mirror, sampler."""

import io
import itertools
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from semgan_nb import archives, dataset
from semgan_nb.archives import write_archive
from semgan_nb.sources import choose_holdout
from semgan_nb.dataset import Dataset, InfiniteSampler, subset_indices
from semgan_nb.foundation import BadInput


def items(n=20, size=16, channels=None, **extra):
    rng = np.random.default_rng(0)
    for k in range(n):
        image = rng.integers(0, 256, (size, size) + ((3,) if channels == 3 else ()), dtype=np.uint8)
        yield {
            "name": f"t{k}",
            "image": image,
            "group": f"g{k % 5}",
            "fraction": 0.1 * (k % 5),
            "pixel_size_nm": (50.0, 51.0),
            "source": f"g{k % 5}.tif",
            "source_sha256": "0" * 64,
            "crop": (0, k, size, size),
            "part": "holdout" if k % 5 == 2 else "train",
        } | extra


def test_archive_is_equal_to_the_byte(tmp_path):
    for name in "ab":
        write_archive(tmp_path / f"{name}.zip", items(), {"median": 3, "numpy": np.float32(0.5)})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        infos = z.infolist()
        assert {i.compress_type for i in infos} == {zipfile.ZIP_STORED} and {i.date_time for i in infos} == {
            (1980, 1, 1, 0, 0, 0)
        }
        assert infos[0].filename == "00000/img00000000.png" and infos[-1].filename == "manifest.json"
        assert json.loads(z.read("dataset.json")) == {"labels": None}
        manifest = json.loads(z.read("manifest.json"))
    assert (
        manifest["resolution"] == 16
        and manifest["channels"] == 1
        and manifest["settings"] == {"median": 3, "numpy": 0.5}
    )
    assert manifest["images"][7] == {
        "file": "00000/img00000007.png",
        "part": "holdout",
        "name": "t7",
        "group": "g2",
        "fraction": 0.2,
        "pixel_size_nm": [50.0, 51.0],
        "source": "g2.tif",
        "source_sha256": "0" * 64,
        "crop": [0, 7, 16, 16],
    }


def test_folder_numbers_are_the_first_five_digits(tmp_path):
    small = np.zeros((4, 4), np.uint8)
    write_archive(tmp_path / "a.zip", ({"image": small} for _ in range(1001)), {})
    assert Dataset(tmp_path / "a.zip").names[-1] == "00001/img00001000.png"


def test_round_trip_grey_and_rgb(tmp_path):
    for channels in (1, 3):
        write_archive(tmp_path / "a.zip", items(channels=channels), {})
        data = Dataset(tmp_path / "a.zip")
        expected = np.stack([i["image"] for i in items(channels=channels)])
        expected = expected[:, None] if channels == 1 else expected.transpose(0, 3, 1, 2)
        assert (data.resolution, data.channels, len(data)) == (16, channels, 20)
        assert (data.images() == expected).all() and (data[3] == expected[3]).all() and data[0].dtype == np.uint8
        assert (
            data.pixel_size_nm == (50.0, 51.0)
            and data.name == "a"
            and data.has_holdout
            and data.fractions[4] == pytest.approx(0.4)
        )


def test_labels(tmp_path):
    write_archive(tmp_path / "a.zip", (i | {"label": k % 3} for k, i in enumerate(items(6))), {})
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        assert json.loads(z.read("dataset.json"))["labels"][4] == ["00000/img00000004.png", 1]
    assert Dataset(tmp_path / "a.zip").labels == [0, 1, 2, 0, 1, 2]


def test_parts(tmp_path):
    write_archive(tmp_path / "a.zip", items(), {})
    whole, train, held = (Dataset(tmp_path / "a.zip", part) for part in ("all", "train", "holdout"))
    assert (len(whole), len(train), len(held)) == (20, 16, 4)
    assert (
        set(held.groups) == {"g2"}
        and not set(held.groups) & set(train.groups)
        and sorted(train.names + held.names) == whole.names
    )
    write_archive(tmp_path / "b.zip", items(part="train"), {})
    assert len(Dataset(tmp_path / "b.zip", "train")) == 20 and not Dataset(tmp_path / "b.zip").has_holdout
    for path, part in (("b.zip", "holdout"), ("a.zip", "test")):
        with pytest.raises(BadInput):
            Dataset(tmp_path / path, part)


def test_folder_equals_zip(tmp_path):
    write_archive(tmp_path / "a.zip", items(), {})
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        z.extractall(tmp_path / "folder")
    a, b = Dataset(tmp_path / "a.zip", "train"), Dataset(tmp_path / "folder", "train")
    assert a.fingerprint == b.fingerprint and a.names == b.names and (a.images() == b.images()).all()
    write_archive(tmp_path / "c.zip", items(19), {})
    assert Dataset(tmp_path / "c.zip").fingerprint != a.fingerprint


def test_plain_folder_of_png(tmp_path):
    for k in (10, 2, 1):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(tmp_path / f"{k}.png")
    data = Dataset(tmp_path, "train")
    assert data.names == ["1.png", "10.png", "2.png"] == data.groups and data.images()[:, 0, 0, 0].tolist() == [
        1,
        10,
        2,
    ]
    assert data.pixel_size_nm is None and np.isnan(data.fractions).all()


def test_large_archives_are_read_from_disk(tmp_path, monkeypatch):
    write_archive(tmp_path / "a.zip", items(), {})
    kept = Dataset(tmp_path / "a.zip", mirror=True)
    monkeypatch.setattr(dataset, "_KEEP_BYTES", 0)
    assert (Dataset(tmp_path / "a.zip", mirror=True).images() == kept.images()).all()
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        z.extractall(tmp_path / "folder")
    assert (Dataset(tmp_path / "folder", mirror=True).images([3, 25]) == kept.images([3, 25])).all()


def test_subset_and_mirror(tmp_path):
    assert subset_indices(3000, 10, 0) == [311, 720, 1025, 1537, 1587, 2078, 2281, 2493, 2941, 2980]
    assert subset_indices(3000, 10, 1) == [28, 99, 351, 393, 1098, 1394, 1520, 1957, 2020, 2087]
    write_archive(tmp_path / "a.zip", items(), {})
    train = Dataset(tmp_path / "a.zip", "train")
    some = Dataset(tmp_path / "a.zip", "train", subset=6, mirror=True, seed=1)
    assert some.names == [train.names[i] for i in subset_indices(16, 6, 1)] and len(some) == 12
    assert (some[7] == some[1][..., ::-1]).all() and (some.images()[6:] == some.images()[:6, ..., ::-1]).all()
    for wrong in (0, 17):
        with pytest.raises(BadInput, match="subset"):
            Dataset(tmp_path / "a.zip", "train", subset=wrong)


def test_subsets_are_nested_and_drawn_by_image_or_by_micrograph(tmp_path):
    """Of twenty tiles of five micrographs; four tiles, one micrograph, are held out."""
    write_archive(tmp_path / "a.zip", items(), {})
    for by, most in (("tile", 16), ("micrograph", 4)):
        drawn = [Dataset(tmp_path / "a.zip", "train", subset=n, seed=3, subset_by=by) for n in range(1, most + 1)]
        assert all(set(a.names) < set(b.names) for a, b in zip(drawn, drawn[1:])) and len(drawn[-1]) == 16
        with pytest.raises(BadInput, match=f"has {most} {'images' if by == 'tile' else 'micrographs'}"):
            Dataset(tmp_path / "a.zip", "train", subset=most + 1, subset_by=by)
    for n, some in enumerate(drawn, 1):
        assert len(set(some.micrographs)) == n and len(some) == 4 * n
        own, unused = Dataset(tmp_path / "a.zip").training_indices(n, 3, "micrograph")
        assert [Dataset(tmp_path / "a.zip").names[i] for i in own] == some.names and len(own) + len(unused) == 16
    assert subset_indices(6, 2, 0, list("aabbcc")) in ([0, 1, 2, 3], [0, 1, 4, 5], [2, 3, 4, 5])
    write_archive(tmp_path / "b.zip", items(source_sha256=""), {})
    of_unknown = Dataset(tmp_path / "b.zip", "train", subset=5, seed=3, subset_by="micrograph")
    assert len(of_unknown) == 5  # an image of unknown origin is one of its own


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
    return path


def manifest(version=1, images=None, **record):
    return json.dumps(
        {
            "format": "semgan_nb archive",
            "version": version,
            "images": [{"file": "a.png"} | record] if images is None else images,
        }
    ).encode()


def test_foreign_and_broken_archives(tmp_path):
    good = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    cases = {
        "mixed sizes": ({"a.png": good, "b.png": png(np.zeros((64, 64), np.uint8))}, "b.png"),
        "mixed channels": ({"a.png": good, "b.png": png(np.zeros((32, 32, 3), np.uint8))}, "b.png"),
        "not square": ({"a.png": png(np.zeros((32, 48), np.uint8))}, "square"),
        "odd size": ({"a.png": png(np.zeros((48, 48), np.uint8))}, "power of two"),
        "no images": ({"readme.txt": b"hello"}, "no images"),
        "corrupt": ({"a.png": good, "00000/b.png": good[:600]}, "00000/b.png"),
        "no png": ({"a.png": good, "b.png": b"text"}, "b.png"),
        "16 bits": ({"a.png": png(np.zeros((32, 32), np.uint16))}, "8-bit"),
        "alpha": ({"a.png": png(np.zeros((32, 32, 4), np.uint8))}, "8-bit"),
        "bad manifest": ({"a.png": good, "manifest.json": b"{"}, "manifest.json"),
        "bad labels": ({"a.png": good, "dataset.json": b"[1]"}, "dataset.json"),
        "labels of another form": ({"a.png": good, "dataset.json": b'{"labels": {"a.png": 1}}'}, "dataset.json"),
        "a label that is text": ({"a.png": good, "dataset.json": b'{"labels": [["a.png", "ferrite"]]}'}, "ferrite"),
        "a later version": ({"a.png": good, "manifest.json": manifest(version=2)}, "update"),
        "no list of images": ({"a.png": good, "manifest.json": manifest(images={"a.png": 1})}, "list of images"),
        "pixel size that is none": ({"a.png": good, "manifest.json": manifest(pixel_size_nm="fine")}, "pixel_size_nm"),
        "pixel size zero": ({"a.png": good, "manifest.json": manifest(pixel_size_nm=[50, 0])}, "pixel_size_nm"),
        "fraction that is none": ({"a.png": good, "manifest.json": manifest(fraction=37)}, "fraction"),
        "a third part": ({"a.png": good, "manifest.json": manifest(part="test")}, "part"),
    }
    for name, (files, word) in cases.items():
        with pytest.raises(BadInput) as caught:
            Dataset(zipped(tmp_path / "x.zip", files))
        assert word in str(caught.value) and "x.zip" in str(caught.value) and "\n" not in str(caught.value), name
    (tmp_path / "t.zip").write_text("no archive")
    for path in (tmp_path / "t.zip", tmp_path / "missing.zip"):
        with pytest.raises(BadInput, match=path.name):
            Dataset(path)


def test_failed_writing_leaves_the_old_archive(tmp_path):
    write_archive(tmp_path / "a.zip", items(), {})
    before = (tmp_path / "a.zip").read_bytes()
    bad = [
        lambda: itertools.chain(items(3), items(1, size=32)),
        lambda: iter([]),
        lambda: items(2, size=24),
        lambda: items(2, size=16, image=np.zeros((16, 16))),
    ]
    for make in bad:
        with pytest.raises(BadInput):
            write_archive(tmp_path / "a.zip", make(), {})
    assert (tmp_path / "a.zip").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_choose_holdout():
    groups = [f"{k:02d}" for k in range(30) for _ in range(100)]
    values = np.repeat(np.linspace(0.37, 0.9, 30), 100)
    held = choose_holdout(groups, values)
    kept = np.array([g in held for g in groups])
    assert (
        kept.mean() == pytest.approx(0.2)
        and np.abs(np.quantile(values[kept], [0.1, 0.5, 0.9]) - np.quantile(values, [0.1, 0.5, 0.9])).max() < 0.04
    )
    shuffled = np.random.default_rng(0).permutation(3000)
    assert choose_holdout(np.array(groups)[shuffled], values[shuffled]) == held
    for n in range(2, 9):
        for share in (0.01, 0.2, 0.5, 0.99):
            assert 1 <= len(choose_holdout(range(n), np.arange(n), share)) <= n - 1
    assert choose_holdout(["a"] * 3, [1, 2, 3]) == set() and choose_holdout([1, 2, 2], [np.nan] * 3)
    with pytest.raises(BadInput):
        choose_holdout([1, 2], [0, 1], 1.0)


def test_sampler_vectors():
    assert InfiniteSampler(10, 0).take(24).tolist() == [
        2,
        8,
        4,
        9,
        1,
        6,
        2,
        3,
        0,
        9,
        7,
        8,
        1,
        5,
        6,
        4,
        3,
        8,
        2,
        1,
        9,
        6,
        7,
        5,
    ]
    assert InfiniteSampler(10, 0, 0, 2).take(8).tolist() == [2, 4, 1, 2, 0, 7, 1, 6]
    assert InfiniteSampler(10, 0, 1, 2).take(8).tolist() == [8, 9, 6, 3, 9, 8, 5, 4]


def test_sampler_ranks_share_one_stream():
    one = InfiniteSampler(37, 5).take(120)
    for r in range(4):
        assert (InfiniteSampler(37, 5, r, 4).take(30) == one[r::4]).all()
    assert InfiniteSampler(1).take(3).tolist() == [0, 0, 0] and set(InfiniteSampler(3).take(30).tolist()) == {0, 1, 2}


def test_sampler_goes_on(tmp_path):
    one = InfiniteSampler(50, 3)
    one.take(123)
    torch.save(one.state_dict(), tmp_path / "s.pt")
    other = InfiniteSampler(50, 99)
    other.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert (one.take(500) == other.take(500)).all()
    with pytest.raises(BadInput):
        InfiniteSampler(51).load_state_dict(one.state_dict())


def test_two_files_of_one_name_and_passwords_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z, pytest.warns(UserWarning):
        z.writestr("a.png", png(np.zeros((8, 8), np.uint8)))
        z.writestr("a.png", png(np.ones((8, 8), np.uint8)))
    with pytest.raises(BadInput, match="two files of the name a.png"):
        Dataset(tmp_path / "a.zip")
    locked = bytearray(zipped(tmp_path / "b.zip", {"a.png": png(np.zeros((8, 8), np.uint8))}).read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the central directory
    (tmp_path / "b.zip").write_bytes(locked)
    with pytest.raises(BadInput, match="password"):
        Dataset(tmp_path / "b.zip")


def contents(path):
    with zipfile.ZipFile(path) as z:
        return {n: z.read(n) for n in z.namelist()}


def test_an_archive_zipped_again_with_its_folder_keeps_its_manifest(tmp_path):
    write_archive(tmp_path / "a.zip", (i | {"label": 3} for i in items()), {})
    zipped(
        tmp_path / "b.zip",
        {f"my data/{n}": data for n, data in contents(tmp_path / "a.zip").items()}
        | {"__MACOSX/my data/._img.png": b"x"},
    )
    a, b = Dataset(tmp_path / "a.zip", "holdout"), Dataset(tmp_path / "b.zip", "holdout")
    assert (
        a.groups == b.groups and b.pixel_size_nm == (50.0, 51.0) and b.labels == a.labels == [3] * 4 and not b.warnings
    )


def test_odd_archives_are_taken_with_a_warning(tmp_path):
    write_archive(tmp_path / "a.zip", items(), {})
    files = contents(tmp_path / "a.zip")
    table = json.loads(files["manifest.json"])
    assert Dataset(tmp_path / "a.zip").warnings == []

    def warned(change, word, **changed):
        data = Dataset(zipped(tmp_path / "b.zip", {n: d for n, d in (files | change).items() if d is not None}))
        assert any(word in w for w in data.warnings), (word, data.warnings)
        return data

    moved = json.loads(json.dumps(table))
    moved["images"][0]["part"] = "holdout"
    warned({"manifest.json": json.dumps(moved)}, "group(s), e.g. g0, stand on both sides")
    warned({"manifest.json": json.dumps(moved)}, "micrograph(s), e.g. g0.tif, stand on both sides")
    warned({"00000/new.png": files["00000/img00000002.png"]}, "1 image(s) stand on both sides")
    warned({"00000/new.png": files["00000/img00000002.png"]}, "a copy of another")
    new = warned({"00000/new.png": png(np.eye(16, dtype=np.uint8))}, "not in the manifest")
    assert new.pixel_size_nm is None and np.isnan(new.fractions[-1])
    warned({"00000/img00000003.png": None}, "1 image of the manifest, e.g. 00000/img00000003.png, is missing")
    foreign = warned({"manifest.json": b'{"name": "an app", "icons": []}'}, "none that semgan wrote")
    assert not foreign.has_holdout and foreign.manifest == {} and "groups unknown" in repr(foreign)
    half = warned(
        {"dataset.json": json.dumps({"labels": [["00000\\img00000000.png", 1]]})}, "19 of 20 images have no label"
    )
    assert half.labels[:2] == [1, None]


def test_pixel_sizes_of_one_number(tmp_path):
    data = Dataset(
        zipped(
            tmp_path / "a.zip",
            {"a.png": png(np.eye(16, dtype=np.uint8)), "manifest.json": manifest(pixel_size_nm=48.6, group=7)},
        )
    )
    assert data.pixel_size_nm == (48.6, 48.6) and data.groups == ["7"]


def test_indices_out_of_range_are_no_mirror_images(tmp_path):
    write_archive(tmp_path / "a.zip", items(), {})
    for mirror, n in ((False, 20), (True, 40)):
        data = Dataset(tmp_path / "a.zip", mirror=mirror)
        assert data.images([n - 1]).shape == (1, 1, 16, 16) and (data[-1] == data[n - 1]).all()
        for wrong in (n, -1):
            with pytest.raises(IndexError):
                data.images([wrong])


def test_an_archive_from_disk_survives_pickling_and_other_processes(tmp_path, monkeypatch):
    import multiprocessing
    import pickle

    write_archive(tmp_path / "a.zip", items(), {})
    monkeypatch.setattr(dataset, "_KEEP_BYTES", 0)
    data = Dataset(tmp_path / "a.zip")
    expected = data.images()
    again = pickle.loads(pickle.dumps(data))
    assert (again.images() == expected).all()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert all((a == b).all() for a, b in zip(pool.map(data.__getitem__, range(20)), expected))


def test_the_part_may_be_decided_after_the_last_image(tmp_path):
    def finish(records):
        for r in records:
            r["part"] = "holdout" if r["fraction"] > 0.35 else "train"
        return {"seen": len(records)}

    written = write_archive(tmp_path / "a.zip", (i for i in items()), {}, finish)
    data = Dataset(tmp_path / "a.zip", "holdout")
    assert data.manifest == json.loads(json.dumps(written)) and written["seen"] == 20 and set(data.groups) == {"g4"}
    ready = [{k: v for k, v in i.items() if k != "image"} | {"png": archives.png(i["image"])} for i in items()]
    write_archive(tmp_path / "b.zip", ready, {}, finish)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    for odd in (np.zeros((16, 16, 4), np.uint8), np.zeros((16, 16), np.uint16), np.zeros((16, 8), np.uint8)):
        with pytest.raises(BadInput):
            write_archive(tmp_path / "c.zip", [{"png": png(odd)}], {})

    def fails(records):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "c.zip", items(), {}, fails)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_many_groups_are_chosen_quickly():
    import time

    start = time.monotonic()
    held = choose_holdout(np.arange(3000), np.random.default_rng(0).random(3000))
    assert len(held) == 600 and time.monotonic() - start < 5
    values = np.random.default_rng(0).random(200_000)
    assert choose_holdout(np.arange(200_000) % 18, values) and time.monotonic() - start < 20


def test_scales_that_agree_to_two_per_cent_are_one():
    assert (
        archives.one_scale([(50, 50), (50.4, 50.2), (50.1, 50)]) == (50.1, 50.0)
        and archives.one_scale([(50, 50), None]) is None
    )
    assert archives.one_scale([(50, 50), (51.5, 51.5)]) is None and archives.one_scale([]) is None


def test_an_archive_is_decoded_once_while_somebody_holds_it(tmp_path, monkeypatch):
    """The parts of an archive are taken from the whole where that is in memory; nothing is kept of one that nobody
    holds, nor of one that has changed."""
    import gc

    from made_up_sets import noise_archive

    noise_archive(tmp_path / "a.zip")
    decoded, decode = [], dataset.decode_image
    monkeypatch.setattr(dataset, "decode_image", lambda store, name: (decoded.append(name), decode(store, name))[1])
    whole = Dataset(tmp_path / "a.zip")
    assert len(decoded) == len(whole)
    train, few = Dataset(tmp_path / "a.zip", part="train"), Dataset(tmp_path / "a.zip", part="train", subset=5, seed=1)
    assert len(decoded) == len(whole)
    for part in (train, few):
        assert np.array_equal(
            part.images(), np.concatenate([whole.images([whole.names.index(name)]) for name in part.names])
        )
    n, before = len(whole), train.images()
    del whole, part, train
    gc.collect()
    assert np.array_equal(Dataset(tmp_path / "a.zip").images(), before) and len(decoded) == 2 * n
    raw = Dataset(tmp_path / "a.zip").images()
    write_archive(tmp_path / "a.zip", [dict(image=255 - x[0]) for x in raw], {})
    assert np.array_equal(Dataset(tmp_path / "a.zip").images(), 255 - raw)
