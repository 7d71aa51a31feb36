"""Chapter 60: a seed is the same image whatever else is asked for; files that say what they are; folders that go on;
what is refused, and with which words."""

import errno
import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from command import said, say
from made_up_runs import random_snapshot
from PIL import Image

from semgan_nb import generate as chapter
from semgan_nb.dataset import Dataset
from semgan_nb.generate import generate, open_generator, phases
from semgan_nb.latent import latents, noise_levels, noise_maps, sample
from semgan_nb.micrographs import read_micrograph
from semgan_nb.origin import read_origin

SMALL = dict(img_resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    random_snapshot("net.safetensors", pixel_size_nm=(30.0, 40.0), **SMALL)


def made(seeds, out="images", **how):
    return generate("net.safetensors", out, seeds, **{"progress": False, "device": "cpu"} | how)


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
@pytest.mark.parametrize("name", ["superalloy", "net.safetensors"])
def test_a_seed_is_one_image_whatever_else_is_made(name, noise_mode):
    G, how = open_generator(name).G_ema, dict(noise_mode=noise_mode, progress=False, device="cpu")
    generate(name, "many", "0-10", **how)
    generate(name, "few", "10,3", **how)
    generate(name, "deep", "3-4", format="tif", **how)
    generate(name, "a.zip", "2-3", **how)
    wanted = pixels("many/seed0003.png")
    assert np.array_equal(wanted, sample(G, [3], noise_mode=noise_mode)[0, 0])
    assert np.array_equal(wanted, sample(G, "0-9", noise_mode=noise_mode)[3, 0])
    assert np.array_equal(wanted, pixels("few/seed0003.png"))
    assert np.array_equal(wanted, Dataset("a.zip").images([1])[0, 0])
    deep = tifffile.imread("deep/seed0003.tif")
    assert deep.dtype == np.uint16 and np.array_equal(deep >> 8, wanted)
    assert len(np.unique(deep & 255)) > 100  # of the network, not stretched 8 bit


def test_files_say_what_they_are_and_how_large_a_pixel_is():
    found = made("0-1", truncation_psi=0.7)
    made("0", "deep", format="tif")
    made("0-4", "sheet.png")
    assert found["pixel_size_nm"] == (30, 40) and found["images"] == 2 and found["kept"] == 0
    origin = read_origin("images/seed0001.png")
    assert (origin.verb, origin.seeds, origin.settings["truncation_psi"]) == ("generate", "1", 0.7)
    assert pixels("images/seed0001.png").dtype == np.uint8 and Image.open("images/seed0001.png").mode == "L"
    x, y = Image.open("images/seed0001.png").info["dpi"]
    assert (25.4e6 / x, 25.4e6 / y) == pytest.approx((40, 30), rel=1e-6)
    assert read_micrograph("deep/seed0000.tif").pixel_size_nm == pytest.approx((30, 40), rel=1e-6)
    assert read_origin("deep/seed0000.tif").seeds == "0" and read_origin("sheet.png").seeds == "0-4"
    side = 16 * 8
    sheet = pixels("sheet.png")
    assert sheet.shape == (2 * side + 2, 3 * side + 4)
    made("3", "one")
    assert np.array_equal(sheet[side + 2 :: 8, :side:8][:16], pixels("one/seed0003.png"))
    for name, size in (("sheet.png", (30 / 8, 5)), ("images/seed0001.png", (30, 40))):  # no print density: a scale
        assert read_micrograph(name).pixel_size_nm == pytest.approx(size, rel=1e-5)
    assert "40 nm/px" in say("info", "images/seed0001.png")[1]


def test_a_folder_goes_on_and_mends_what_is_damaged(monkeypatch):
    made("0-3")
    before = {path.name: path.stat().st_mtime_ns for path in Path("images").iterdir()}
    whole = Path("images/seed0001.png").read_bytes()
    Path("images/seed0001.png").write_bytes(whole[:-40])
    assert made("0-5")["kept"] == 3 and Path("images/seed0001.png").read_bytes() == whole
    after = {path.name: path.stat().st_mtime_ns for path in Path("images").iterdir()}
    assert len(after) == 6 and all(after[name] == time for name, time in before.items() if name != "seed0001.png")
    Path("network.safetensors").write_bytes(Path("net.safetensors").read_bytes())
    assert generate("network.safetensors", "images", "0-5", progress=False, device="cpu")["kept"] == 6  # only renamed


def test_nothing_is_replaced_unasked():
    made("0-1")
    before = Path("images/seed0001.png").read_bytes()
    text = said(made, "1-2", truncation_psi=0.5)
    assert "seed0001.png is there already, of truncation_psi 1.0 instead of 0.5" in text and "--overwrite" in text
    text = said(made, "5-6", truncation_psi=0.5)
    assert "images has images of other settings (seed0000.png: truncation_psi 1.0 instead of 0.5)" in text
    random_snapshot("other.safetensors", **SMALL)
    assert "of network" in said(generate, "other.safetensors", "images", "0", progress=False)
    Image.new("L", (16, 16)).save("images/seed0007.png")
    assert "no image that semgan generate wrote" in said(made, "0-9")
    assert len(list(Path("images").iterdir())) == 3 and Path("images/seed0001.png").read_bytes() == before
    assert made("1,7", truncation_psi=0.5, overwrite=True)["kept"] == 0
    assert read_origin("images/seed0007.png").settings["truncation_psi"] == 0.5
    for name in ("a.zip", "sheet.png"):
        made("0-1", name)
        content = Path(name).read_bytes()
        assert "is there already" in said(made, "0-1", name) and Path(name).read_bytes() == content
        assert made("0-2", name, overwrite=True)["images"] == 3 and Path(name).read_bytes() != content
    Path("file").write_text("x")
    assert "is a file, and a folder is wanted" in said(made, "0", "file")
    Path("folder.zip").mkdir()
    assert "is there already" in said(made, "0", "folder.zip", overwrite=True)


def official_names_and_labels(path):
    """How the official loader reads an archive: PNG files in the order of their names, labels by name."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if os.path.splitext(name)[1].lower() == ".png")
        labels = json.loads(archive.read("dataset.json"))["labels"]
        images = [np.asarray(Image.open(archive.open(name))) for name in names]
        origins = [b"trainedAlgorithmicMedia" in archive.read(name) for name in names]
    return np.stack(images), labels and [dict(labels)[name] for name in names], origins


def test_an_archive_is_read_by_us_and_by_others():
    made("5-9", "a.zip")
    images, labels, origins = official_names_and_labels("a.zip")
    data = Dataset("a.zip")
    assert images.shape == (5, 16, 16) and labels is None and all(origins)
    assert np.array_equal(images, sample(open_generator("net.safetensors").G_ema, "5-9")[:, 0])
    assert len(data) == 5 and data.pixel_size_nm == pytest.approx((30, 40)) and len(data.warnings) == 1
    assert [record["seed"] for record in data.manifest["images"]] == [5, 6, 7, 8, 9]
    assert read_origin("a.zip").seeds == "5-9" and say("info", "a.zip")[0] == 0


def test_an_archive_appears_whole_or_not_at_all(monkeypatch):
    monkeypatch.setattr(chapter, "png_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made("0-3", "a.zip")
    assert [path.name for path in Path().iterdir()] == ["net.safetensors"]


def test_masks_are_those_of_the_verb_phases():
    made("0-2", masks=True)
    list(phases("net.safetensors", "maps", seeds="0-2"))
    names = sorted(path.name for path in Path("maps").iterdir())
    assert names == sorted(path.name for path in Path("images-phases").iterdir()) and len(names) == 12
    for name in names:
        assert Path("images-phases", name).read_bytes() == Path("maps", name).read_bytes(), name
    Path("images-phases/seed0001.npy").unlink()  # only what is missing is made
    before = Path("images/seed0001.png").stat().st_mtime_ns
    assert made("0-2", masks=True)["kept"] == 3 and Path("images-phases/seed0001.npy").exists()
    assert Path("images/seed0001.png").stat().st_mtime_ns == before
    assert "no phase maps" in said(made, "0", "sheet.png", masks=True)
    made("0-1", "more.zip", masks=True)
    assert len(list(Path("more-phases").iterdir())) == 8
    text = said(made, "1", "more.zip", masks=True, truncation_psi=0.5)
    assert "more.zip is there already" in text
    Path("more.zip").unlink()
    assert "of another network or other settings" in said(made, "1", "more.zip", masks=True, truncation_psi=0.5)
    made("1", "more.zip", masks=True, truncation_psi=0.5, overwrite=True)
    assert json.loads(Path("more-phases/seed0001.json").read_text())["truncation_psi"] == 0.5


def test_a_noise_seed_is_apart_from_the_seed_of_the_latent_vector():
    G = open_generator("net.safetensors").G_ema
    stored, one, two = (sample(G, [3], noise_seed=seed)[0, 0] for seed in (None, 1, 2))
    assert not np.array_equal(stored, one) and not np.array_equal(one, two)
    made("3", "one", noise_seed=1)
    assert np.array_equal(pixels("one/seed0003.png"), one)
    own = G.synthesis.state_dict()
    G.synthesis.load_state_dict(noise_maps(G, 1), strict=False)
    assert np.array_equal(sample(G, [3])[0, 0], one)
    G.synthesis.load_state_dict(own)
    fresh = [sample(G, [3, 4], noise_mode="random", noise_seed=seed)[:, 0] for seed in (1, 1, 2)]
    assert np.array_equal(fresh[0], fresh[1]) and not np.array_equal(fresh[0][0], fresh[2][0])
    (a, b), (c, _) = noise_levels(G, "0-3"), noise_levels(G, "0-3", truncation_psi=0.0)
    assert min(a, b, c) > 0
    rows = sample(G, "0-3"), sample(G, "0-3", noise_seed=0)
    assert a == pytest.approx(np.sqrt(np.mean((rows[0].astype(float) - rows[1]) ** 2)))


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_noise_and_latent_vector_of_one_seed_are_independent(seed):
    G = open_generator("superalloy").G_ema
    z = latents([seed], 900)[0]
    for other in (noise_maps(G, seed), noise_maps(G, seed, seed), noise_maps(G, 0, seed)):
        for noise in other.values():
            assert abs(np.corrcoef(z, noise.flatten()[:900])[0, 1]) < 0.13
    assert np.array_equal(noise_maps(G, 3, None)["b32.conv1.noise_const"], noise_maps(G, 3)["b32.conv1.noise_const"])


def test_without_noise_inputs_its_options_are_refused():
    random_snapshot("plain.safetensors", use_noise=False, **SMALL)
    for how in (dict(noise_seed=1), dict(noise_mode="none"), dict(noise_mode="random")):
        text = said(generate, "plain.safetensors", "out", "0", progress=False, **how)
        assert "this network has no noise inputs" in text and "leave it out" in text
    assert generate("plain.safetensors", "out", "0-1", progress=False)["noise_levels"] is None
    for verb in (("walk", "plain.safetensors"), ("phases", "plain.safetensors")):
        status, _, err = say(*verb, "--noise-seed", 1)
        assert status == 2 and "has no noise inputs" in err
    for verb in (("walk", "plain.safetensors"), ("phases", "plain.safetensors"), ("mix", "plain.safetensors")):
        status, _, err = say(*verb, "--noise", "none")
        assert status == 2 and "has no noise inputs" in err
    assert "no noise is added" in said(made, "0", noise_mode="none", noise_seed=1)
    assert say("phases", "images", "--noise-seed", 1)[0] == 2


def test_networks_from_any_file():
    data = Path(__file__).resolve().parents[1] / "data"
    Path("net.pkl").write_bytes(gzip.decompress((data / "official_p4.pkl.gz").read_bytes()))
    for name in ("net.pkl", "superalloy", "steel"):
        assert generate(name, f"of {name}", "0-1", progress=False)["images"] == 2
    G = open_generator("net.pkl").G_ema
    assert np.array_equal(
        np.asarray(Image.open("of net.pkl/seed0001.png")).reshape(G.img_resolution, G.img_resolution, -1),
        sample(G, [1])[0].transpose(1, 2, 0),
    )
    assert say("phases", "superalloy", "maps")[0] == 0 and say("walk", "net.pkl", "--frames", 2)[0] == 0


def test_a_class_is_chosen_where_there_are_some():
    random_snapshot("classes.safetensors", c_dim=3, **SMALL)
    assert "none was chosen" in said(generate, "classes.safetensors", "out", "0", progress=False)
    assert "knows no classes" in said(made, "0", label=0)
    assert "has classes 0 to 2" in said(generate, "classes.safetensors", "out", "0", label=3, progress=False)
    generate("classes.safetensors", "a.zip", "0-1", label=2, progress=False)
    assert official_names_and_labels("a.zip")[1] == [2, 2]
    G = open_generator("classes.safetensors", label=2).G_ema
    assert np.array_equal(Dataset("a.zip").images([1])[0], sample(G, [1], c=torch.eye(3)[[2]])[0])
    for verb in ("walk", "phases"):
        assert "none was chosen" in say(verb, "classes.safetensors")[2]


@pytest.mark.parametrize(
    "words, how",
    [
        ("names 3 twice", dict(seeds="0-3,3")),
        ("write whole numbers", dict(seeds="a")),
        ("a folder, an archive", dict(out="image.tif")),
        ("8-bit PNG", dict(out="a.zip", format="tif")),
        ("does not exist", dict(network="absent")),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_input_is_one_sentence(words, how):
    assert words in said(generate, **{"network": "net.safetensors", "out": "out", "progress": False} | how)
    assert not Path("out").exists()


def test_networks_that_do_not_fit_are_one_sentence():
    random_snapshot("labels.safetensors", **SMALL | dict(z_dim=0, c_dim=3))
    assert "z_dim" in said(generate, "labels.safetensors", "out", "0", progress=False)
    from safetensors.torch import load_file, save_file

    tensors = load_file("net.safetensors")
    save_file(tensors, "newer.safetensors", metadata=dict(format="semgan_nb-snapshot-3", about="{}"))
    assert "by a newer version" in said(generate, "newer.safetensors", "out", "0", progress=False)


def test_a_network_whose_images_are_no_pictures_is_one_sentence():
    random_snapshot("two.safetensors", img_channels=2, **SMALL)
    for verb in ("generate", "walk", "mix", "phases", "factors"):
        status, _, err = say(verb, "two.safetensors")
        assert status == 2 and "images of 2 channels" in err and len(err.splitlines()) == 1, verb


def test_a_network_that_diverged_writes_nothing():
    from semgan_nb.checkpoints import save_snapshot

    G = open_generator("net.safetensors").G_ema
    G.synthesis.b16.torgb.bias.data.fill_(float("nan"))
    save_snapshot("lost.safetensors", G, None)
    for out in ("out", "a.zip", "sheet.png"):
        assert "its training has diverged" in said(generate, "lost.safetensors", out, "0-1", progress=False)
        assert not Path(out).exists()


def test_a_full_disk_is_one_sentence_and_the_folder_goes_on(monkeypatch):
    real, count = os.fsync, [0]

    def full(descriptor):
        count[0] += 1
        if count[0] > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, _, err = say("generate", "net.safetensors", "--seeds", "0-9", "--device", "cpu")
    assert status == 2 and "cannot be written (No space left on device)" in err and "Traceback" not in err
    names = sorted(path.name for path in Path("generated").iterdir())
    assert names == ["seed0000.png", "seed0001.png", "seed0002.png"]
    assert made("0-9", "generated")["kept"] == 3


def test_an_interruption_says_what_the_same_command_will_do(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(chapter, "png_bytes", interrupt)
    monkeypatch.setattr(chapter, "_write_image", interrupt)
    for out, words in (("images", "goes on from there"), ("a.zip", "begins again"), ("a.png", "begins again")):
        status, _, err = say("generate", "net.safetensors", "--out", out)
        assert status == 130 and f"interrupted; the same command {words}" in err


def test_colour_goes_into_every_kind_of_file():
    random_snapshot("rgb.safetensors", img_channels=3, **SMALL)
    how = dict(seeds="0-1", progress=False, masks=True)
    generate("rgb.safetensors", "out", **how)
    generate("rgb.safetensors", "deep", format="tif", **how)
    generate("rgb.safetensors", "a.zip", **how)
    generate("rgb.safetensors", "sheet.png", "0-1", progress=False)
    wanted = sample(open_generator("rgb.safetensors").G_ema, "0-1")[1].transpose(1, 2, 0)
    assert np.array_equal(pixels("out/seed0001.png"), wanted) and pixels("sheet.png").shape == (128, 258, 3)
    assert np.array_equal(tifffile.imread("deep/seed0001.tif") >> 8, wanted)
    assert generate("rgb.safetensors", "deep", format="tif", **how)["kept"] == 2


def test_the_command_says_what_it_did():
    status, out, _ = say("generate", "net.safetensors", "--seeds", "0-3", "--masks", "--pixel-size", "50nm")
    assert status == 0 and "generated: 4 images of 16 x 16 px, 50 nm a pixel" in out
    assert "another draw of noise changes an image by" in out and "generated-phases" in out
