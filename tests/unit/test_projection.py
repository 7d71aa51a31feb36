"""Chapters 61 and 67: the search against its formulas, what it finds again, how it is stopped, its files, and what it
refuses; walks through what was found (chapters 26 and 60)."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import said, say
from PIL import Image

from semgan_nb import projection, reach
from semgan_nb.checkpoints import save_snapshot
from semgan_nb.features import RandomNetwork, perceptual_embedding
from semgan_nb.films import read_styles, walk_frames, write_styles
from semgan_nb.foundation import BadInput, file_hash
from semgan_nb.generate import generate
from semgan_nb.latent import sample, to_network, to_uint8_images
from semgan_nb.networks import Generator
from semgan_nb.origin import Origin, png_bytes, read_origin, write_tiff
from semgan_nb.projection import (
    nearness,
    noise_regulariser,
    normalise_noise,
    pixel_embedding,
    project,
    psnr,
    read_target,
    schedule,
    ssim,
    w_statistics,
)
from semgan_nb.walks import walk

QUICK = dict(features="pixels", steps=12, candidates=100)


def small_network(**more):
    "A network of 16 px in which latent vector and noise are both seen."
    torch.manual_seed(3)
    G = Generator(z_dim=8, w_dim=8, img_resolution=16, channel_base=128, channel_max=16, **more).eval()
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
            elif name.endswith("torgb.weight"):
                parameter.mul_(0.5)
    return G.requires_grad_(False)


@pytest.fixture(scope="module")
def G():
    return small_network()


@pytest.fixture(scope="module")
def network(tmp_path_factory, G):
    path = tmp_path_factory.mktemp("network") / "grey-000000.safetensors"
    save_snapshot(path, G, None, pixel_size_nm=[20.0, 20.0])
    return path


@pytest.fixture(scope="module")
def micrograph(tmp_path_factory, G):
    "A file of 64 px whose central square of 16 px is a generated image, in random surroundings."
    path = tmp_path_factory.mktemp("micrographs") / "field.png"
    pixels = np.random.RandomState(0).randint(0, 256, (64, 72)).astype(np.uint8)
    pixels[24:40, 28:44] = sample(G, [5])[0, 0]
    Image.fromarray(pixels).save(path)
    return path


def last(steps):
    *_, step = steps
    return step


# -- the formulas


def test_the_regulariser_is_the_published_sum():
    def plain(n):
        value = np.mean(n * np.roll(n, 1, 1)) ** 2 + np.mean(n * np.roll(n, 1, 0)) ** 2
        half = n.reshape(len(n) // 2, 2, len(n) // 2, 2).mean((1, 3))
        return value + (plain(half) if len(n) > 8 else 0)

    maps = [torch.randn(2, r, r, dtype=torch.float64) for r in (4, 8, 32)]
    found = noise_regulariser(maps)
    assert np.allclose(found, [sum(plain(m[k].numpy()) for m in maps) for k in range(2)], rtol=1e-9)


def test_noise_is_brought_to_mean_0_and_mean_square_1():
    maps = [5 + 3 * torch.randn(3, r, r, dtype=torch.float64) for r in (4, 16)]
    normalise_noise(maps)
    for m in maps:
        assert np.allclose(m.mean((1, 2)), 0) and np.allclose(m.square().mean((1, 2)), 1)


def test_the_schedule_has_the_published_values():
    assert schedule(0) == (0.05, 0.0) and schedule(0.025)[1] == pytest.approx(0.05)
    assert schedule(0.375)[0] == pytest.approx(0.0125) and schedule(0.75)[0] == 0 and schedule(0.75)[1] == 0.1
    assert schedule(0.875)[1] == pytest.approx(0.05) and schedule(1)[1] == pytest.approx(0)


def test_the_start_is_the_official_mean_and_sigma_one_number(G):
    mean, sigma, w = w_statistics(G)
    z = torch.from_numpy(np.random.RandomState(123).randn(10000, 8).astype(np.float32))
    wanted = G.mapping(z)[:, 0].double()
    assert torch.equal(w, wanted.float()) and np.allclose(mean, wanted.mean(0), atol=1e-6)
    assert sigma == pytest.approx(((wanted - wanted.mean(0)) ** 2).sum(1).mean().sqrt().item(), rel=1e-5)


def test_the_first_step_shows_the_published_start(G):
    step = next(project(G, sample(G, [1]), **QUICK | dict(candidates=0)))
    assert np.allclose(step.ws, w_statistics(G)[0].expand(1, G.num_ws, -1), atol=1e-6) and step.step == 1


def test_pixels_are_compared_at_every_scale_down_to_4_px():
    a, b = (torch.rand(1, 1, 16, 16) for _ in range(2))
    plain, x, y = 0.0, a, b
    while x.shape[-1] >= 4:
        plain += (x - y).square().mean()
        x, y = (torch.nn.functional.avg_pool2d(z, 2) for z in (x, y))
    assert (pixel_embedding(a) - pixel_embedding(b)).square().sum() == pytest.approx(float(plain), rel=1e-5)


def test_measures_of_equal_images_are_their_best(G):
    images = sample(G, [0, 1])
    assert (psnr(images, images) == 99).all() and np.allclose(ssim(images, images), 1)
    assert psnr(images, images[::-1]).max() < 40 and psnr(np.zeros_like(images), images * 0 + 255) == pytest.approx(0)


# -- the search


@pytest.mark.parametrize("channels, space", [(1, "w"), (3, "w"), (1, "w+")], ids=str)
def test_a_generated_image_projects_back(channels, space):
    G = small_network(img_channels=channels, use_noise=False)
    target = sample(G, [7])
    step = last(project(G, target, space, features="pixels", steps=100, candidates=300))
    assert psnr(target, step.images())[0] > 30 and not step.noise
    assert step.ws.shape == (1, G.num_ws, 8) and (step.ws == step.ws[:, :1]).all().item() == (space == "w")


def test_what_is_found_is_rendered_with_its_own_noise(G):
    before = {name: b.clone() for name, b in G.synthesis.named_buffers()}
    target = sample(G, [7])
    step = last(project(G, target, **QUICK))
    assert step.noise.keys() == {name for name in before if name.endswith("noise_const")}
    for m in step.noise.values():
        assert abs(float(m.mean())) < 1e-5 and float(m.square().mean()) == pytest.approx(1, abs=1e-4)
    other = to_uint8_images(G.synthesis(step.ws, noise_mode="const")).numpy()
    assert abs(step.images().astype(int) - other).max() > 3  # the stored maps give another image
    assert all(torch.equal(b, before[name]) for name, b in G.synthesis.named_buffers())
    assert not last(project(G, target, fit_noise=False, **QUICK)).noise


def test_fitted_noise_has_no_structure(G):
    target = np.random.RandomState(0).randint(0, 256, (1, 1, 16, 16)).astype(np.uint8)
    free, kept = (last(project(G, target, noise_weight=n, **QUICK | dict(steps=60))) for n in (0, 1e5))
    assert kept.regulariser[0] < free.regulariser[0] / 100


def test_images_of_a_batch_do_not_depend_on_each_other(G):
    targets = sample(G, [3, 4])
    both = last(project(G, targets, **QUICK)).ws
    alone = torch.cat([last(project(G, targets[k : k + 1], **QUICK)).ws for k in (0, 1)])
    assert torch.allclose(both, alone, atol=1e-3) and (both[0] - both[1]).abs().max() > 0.1


def test_a_search_is_the_same_again_and_leaves_everything_else_alone(G):
    G2 = small_network().train().requires_grad_(True)
    state = torch.get_rng_state()
    first, again = (last(project(net, sample(G, [3]), **QUICK)).ws for net in (G, G2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    assert G2.training and all(p.grad is None for p in G2.parameters())


def test_leaving_the_loop_keeps_what_was_found(G):
    for step in project(G, sample(G, [3]), **QUICK):  # noqa: B007
        if step.step == 5:
            break
    kept = step.ws.clone()
    assert step.step == 5 and step.images().shape == (1, 1, 16, 16) and torch.equal(step.ws, kept)


def test_a_class_is_chosen_of_a_network_with_labels():
    G = small_network(c_dim=3)
    target = sample(G, [7], c=torch.eye(3)[1:2])
    assert "classes, from 0 to 2 (--class)" in said(project, G, target, **QUICK)
    means = [next(project(G, target, c=torch.eye(3)[k], **QUICK | dict(candidates=0))).ws for k in (0, 1)]
    assert (means[0] - means[1]).abs().max() > 1e-3


def test_targets_of_another_kind_are_refused(G):
    grey = sample(G, [0])
    for wrong in (grey.astype(float), grey[0], np.repeat(grey, 3, 1), grey[..., :8], grey[:0]):
        assert "grey images of 16 px" in said(project, G, wrong)
    with pytest.raises(BadInput, match="steps"):
        project(G, grey, steps=0)


# -- what is compared


def test_the_perceptual_distance_takes_the_place_of_pixels_where_its_file_is(G, monkeypatch):
    "A stand-in for VGG-16 that has no file: what is handed to it, and what is made of its answer."
    seen, network = [], RandomNetwork()

    class StandIn:
        def embedding(self, x):
            seen.append((tuple(x.shape), float(x.detach().min()), float(x.detach().max())))
            return network.embedding(x)

    monkeypatch.setattr(projection, "get_extractor", lambda name, *_: {"vgg16": StandIn()}[name])
    near = nearness("auto")
    assert near.name == "vgg16" and near.beside is None
    near.always(torch.linspace(-1, 1, 512 * 512).view(1, 1, 512, 512))
    shape, low, high = seen[-1]
    assert shape == (1, 1, 256, 256) and 0 <= low < 1 and 254 < high <= 255
    step = last(project(G, sample(G, [7]), steps=4, candidates=10))
    assert np.isfinite(step.distance).all() and step.ws.isfinite().all()


def test_without_vgg16_lite0_stands_beside_the_pixels(G, monkeypatch, tmp_path):
    assert "vgg16" in said(nearness, "vgg16").lower() and "vgg16" in said(nearness, "auto", "cpu", tmp_path)
    near, x = nearness("auto"), to_network(torch.from_numpy(sample(G, [1])).float())
    assert near.name == "lite0"
    projection.get_extractor("lite0")(np.zeros((1, 1, 16, 16), np.uint8))  # sizes met without gradients first
    slope = torch.autograd.grad(near.rows(x.requires_grad_(True))[1].square().sum(), x)[0]
    assert slope.abs().max() > 0


def test_the_perceptual_embedding_has_a_slope_where_a_map_is_empty():
    maps = torch.zeros(1, 4, 3, 3, requires_grad=True)
    row = perceptual_embedding([maps], [torch.ones(4)])
    assert (row == 0).all() and torch.autograd.grad(row.sum(), maps)[0].isfinite().all()


# -- targets


def test_a_target_is_the_central_square_at_the_size_of_the_network(G, micrograph):
    whole, small = read_target(micrograph, G, bar=0), read_target(micrograph, G, window=16, bar=0)
    pixels = np.asarray(Image.open(micrograph))
    assert whole.crop == (0, 4, 64) and small.crop == (24, 28, 16) and whole.image.shape == (1, 16, 16)
    assert np.array_equal(small.image[0], pixels[24:40, 28:44])
    wanted = pixels[:, 4:68].reshape(16, 4, 16, 4).mean((1, 3))
    assert np.array_equal(whole.image[0], np.rint(wanted))


def test_scales_are_compared_and_can_be_brought_to_one(G, micrograph, tmp_path):
    from semgan_nb.micrographs import write_scale

    path = tmp_path / "scaled.png"
    path.write_bytes(Path(micrograph).read_bytes())
    assert not read_target(path, G, 20, bar=0).notes  # not known
    assert "not known" in said(read_target, path, G, 20, same_scale=True, bar=0)
    assert "does not say it" in said(read_target, path, G, None, same_scale=True, bar=0)
    write_scale(path, 10)
    (note,) = read_target(path, G, 20, bar=0).notes  # 64 px of 10 nm on 16 px: 40 nm
    assert "40 nm a pixel" in note and "trained at 20" in note and "--same-scale" in note
    assert not read_target(path, G, 41, bar=0).notes
    same = read_target(path, G, 20, same_scale=True, bar=0)
    assert same.crop == (8, 10, 16) and same.pixel_size_nm == (20, 20) and not same.notes


def test_an_archive_lends_its_steps(quarters, tmp_path):
    from semgan_nb.dataset import Dataset
    from semgan_nb.preparation import prepare

    G16 = small_network()
    prepare(quarters, tmp_path / "q.zip", 16, window=64, stride=64, progress=False, holdout=0)
    data = Dataset(tmp_path / "q.zip")
    first = next(k for k, one in enumerate(data.manifest["images"]) if one["crop"][:2] == [64, 64])
    name = data.manifest["images"][first]["source"]
    target = read_target(quarters / name, G16, archive=tmp_path / "q.zip", window=128)
    assert target.crop[2] == 128 and target.image.std() > 30  # matched grey levels
    assert "16 px" in said(read_target, quarters / name, small_network_of(32), archive=tmp_path / "q.zip")


def small_network_of(resolution):
    return Generator(z_dim=8, w_dim=8, img_resolution=resolution, channel_base=64, channel_max=8)


def test_colours_go_to_networks_in_colour_only(G, tmp_path):
    rgb = np.random.RandomState(1).randint(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    Image.fromarray(np.repeat(rgb[..., :1], 3, 2)).save(tmp_path / "grey.png")
    colour = small_network(img_channels=3)
    assert np.array_equal(
        read_target(tmp_path / "colour.png", colour, window=16).image, rgb[2:18, 4:20].transpose(2, 0, 1)
    )
    assert (read_target(tmp_path / "grey.png", colour, window=16, bar=0).image == rgb[2:18, 4:20, 0]).all()
    assert "colour image" in said(read_target, tmp_path / "colour.png", G)
    (tmp_path / "made.png").write_bytes(png_bytes(rgb, Origin("generate", seeds="5")))
    assert read_target(tmp_path / "colour.png", colour).notes == ()
    assert "was generated" in read_target(tmp_path / "made.png", colour).notes[0]


def test_what_is_no_target_is_refused_in_a_sentence(G, tmp_path, micrograph):
    Image.fromarray(np.arange(144).reshape(12, 12).astype(np.uint8)).save(tmp_path / "small.png")
    assert "12 x 12 pixels" in said(read_target, tmp_path / "small.png", G, bar=0)
    assert "nothing is enlarged" in said(read_target, micrograph, G, window=8, bar=0)
    assert "window of 100" in said(read_target, micrograph, G, window=100, bar=0)
    assert "is a folder" in said(read_target, tmp_path, G)
    assert "no such file" in said(read_target, tmp_path / "absent.png", G)


# -- files


def test_the_command_writes_styles_pictures_film_and_numbers(network, micrograph, G, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["project", micrograph, "--network", network, "--window", "16", "--bar", "0", "--features", "pixels"]
    status, out, err = say(*words, "--steps", "60")
    assert status == 0 and "field.png: PSNR" in out and "projection.json" in out, err
    place = tmp_path / "projected"
    assert {p.name for p in place.iterdir()} == {
        *("field.npz", "field.png", "field.mp4"),
        *("projection.json", "projection.png"),
    }
    (one,) = json.loads((place / "projection.json").read_text())["images"]
    ws, noise = read_styles(place / "field.npz", G)
    found = to_uint8_images(projection._painted(G, ws, {k: v[None] for k, v in noise.items()})).numpy()
    assert np.load(place / "field.npz")["w"].shape == (1, G.num_ws, 8)
    assert psnr(sample(G, [5]), found)[0] == pytest.approx(one["psnr"], abs=0.2) and one["psnr"] > one["psnr_start"]
    assert one["crop"] == [24, 28, 16] and one["descriptors"]["fraction"][0] is not None
    assert one["psnr_grey"] == pytest.approx(20 * np.log10(255 / sample(G, [5]).std())) and "even grey" in out
    picture = np.asarray(Image.open(place / "field.png"))
    assert picture.shape == (256, 256 + 32 + 256) and np.array_equal(picture[::16, :256:16], sample(G, [5])[0, 0])
    for file in ("field.png", "projection.png", "field.mp4"):
        assert read_origin(place / file).verb == "project" and read_origin(place / file).composite
    assert say(*words, "--steps", "1", "--no-film")[0] == 0  # an earlier projection is replaced
    (place / "field.npz").write_bytes(b"years of work")
    status, _, err = say(*words)
    assert status == 2 and "field.npz is there already" in err


def test_pixels_that_are_not_square_do_not_cost_the_search(network, G, tmp_path):
    write_tiff(tmp_path / "a.tif", sample(G, [5])[0, 0], Origin("generate", seeds="5"), (20.0, 30.0))
    how = dict(film=False, progress=False, how_to_read=dict(bar=0), **QUICK | dict(steps=2))
    (one,) = reach.project_files([tmp_path / "a.tif"], network, tmp_path / "out", **how)["images"]
    for file in ("a.png", "projection.png"):  # no real micrograph is beside this one
        assert not read_origin(tmp_path / "out" / file).composite
    assert one["pixel_size_nm"] == pytest.approx([20, 30]) and one["descriptors"]["fraction"][0] is not None


def test_ctrl_c_keeps_what_was_found_by_then(network, micrograph, tmp_path, monkeypatch):
    steps = reach.project

    def interrupted(*args, **how):
        for step in steps(*args, **how):
            yield step
            if step.step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(reach, "project", interrupted)
    words = ["project", micrograph, "--network", network, "--window", "16", "--bar", "0", "--features", "pixels"]
    status, out, _ = say(*words, "--out", tmp_path / "p", "--steps", "50", "--no-film")
    assert status == 130 and "stopped by Ctrl-C after 3 steps" in out
    about = json.loads((tmp_path / "p" / "projection.json").read_text())
    assert about["stopped"] and about["images"][0]["steps"] == 3 and (tmp_path / "p" / "field.npz").exists()


def test_files_that_do_not_fit_are_refused_before_the_search(network, micrograph, tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "project", None)  # never reached
    call = lambda *images, **how: said(reach.project_files, images, network, tmp_path / "p", **how)
    assert "two of the images have this name" in call(micrograph, micrograph)
    assert "it has no labels" in call(micrograph, label=1)
    assert "none was given" in call()
    (tmp_path / "p").write_text("a file")
    assert "is a file, and a folder is wanted" in call(micrograph)


@pytest.mark.parametrize("name", ["official_2021.pkl.gz", "official_p4.pkl.gz"])
def test_an_official_pickle_is_projected_into(name, micrograph, tmp_path):
    from semgan_nb.official import load_networks

    path = tmp_path / "official.pkl"
    path.write_bytes(gzip.decompress((Path(__file__).parents[1] / "data" / name).read_bytes()))
    G, how = load_networks(path).G_ema, dict(window=32, how_to_read=dict(bar=0), film=False, progress=False)
    label = 0 if G.c_dim else None
    result = reach.project_files([micrograph], path, tmp_path / "p", label, **how, **QUICK | dict(steps=2))
    ws = np.load(tmp_path / "p" / "field.npz")["w"]
    assert (
        ws.shape == (1, G.num_ws, G.w_dim)
        and result["network"] == "official.pkl"
        and len(result["network_sha256"]) == 16
    )


# -- walks through what was found


def test_a_walk_goes_through_projections(network, G, tmp_path):
    steps = [last(project(G, sample(G, [k]), **QUICK)) for k in (1, 2)]
    files = [tmp_path / f"{k}.npz" for k in (1, 2)]
    for path, step in zip(files, steps):
        write_styles(path, step.ws, {name: m[0] for name, m in step.noise.items()})
    kept = [read_styles(path, G) for path in files]
    ws, noise = torch.cat([w for w, _ in kept]), [n for _, n in kept]
    frames = list(walk_frames(G, ws, 5, noise_mode="walk", noise=noise))
    for frame, step in ((frames[0], steps[0]), (frames[-1], steps[1])):
        assert abs(frame.astype(int) - step.images()[0, 0]).max() <= 1
    found = walk(network, tmp_path / "frames", frames=5, through=files, progress=False)
    written = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "frames").glob("*.png"))]
    assert found["frames"] == 5 and all(np.array_equal(a, b) for a, b in zip(written, frames))
    assert read_origin(found["figure"]).settings["through"] == ["1.npz", "2.npz"]


def test_what_walks_through_files_says_what_it_leaves_out(network, G, tmp_path, capsys):
    for name, checksum in (("own", file_hash(network)[:16]), ("strange", "0" * 16)):
        write_styles(tmp_path / f"{name}.npz", torch.zeros(1, G.num_ws, 8), None, Origin("project", checksum, name))
    own, strange = (tmp_path / f"{name}.npz" for name in ("own", "strange"))
    how = dict(frames=2, progress=False)
    walk(network, tmp_path / "a", through=[own, own], **how)
    assert "another network" not in capsys.readouterr().err
    walk(network, tmp_path / "b", through=[own, strange], **how)
    err = capsys.readouterr().err
    assert "strange.npz holds styles of another network (strange)" in err and "own.npz holds" not in err
    assert "leave out one of them" in said(walk, network, tmp_path / "c", seeds="3,4", through=[own, own], **how)
    assert "one style was given" in said(walk, network, tmp_path / "c", through=[own], **how)


def test_an_option_that_would_do_nothing_is_refused(network, micrograph, tmp_path):
    archive = generate(network, tmp_path / "a.zip", "0-1", progress=False)["out"]
    words = ["--network", network, "--features", "pixels", "--steps", "1"]
    for vain in (["--count", "5"], ["--beside", archive]):
        status, _, err = say("project", micrograph, *words, *vain)
        assert status == 2 and f"{vain[0]}: is an option for an archive" in err
    for vain in (["--class", "0"], ["--window", "9"], ["--no-film"], ["--same-scale"], ["--bar", "0"], ["--page", "1"]):
        status, _, err = say("project", archive, *words, *vain)
        assert status == 2 and f"{vain[0]}: is an option for micrographs" in err


def test_styles_of_another_network_or_damaged_are_refused(G, network, tmp_path, capsys):
    path = tmp_path / "w.npz"
    assert "no such file" in said(read_styles, path, G)
    for content in (b"", b"PK\3\4 no", b"\x93NUMPY"):
        path.write_bytes(content)
        assert "cannot be read as styles" in said(read_styles, path, G)
    np.savez(path, v=np.zeros(3))
    assert "no array w" in said(read_styles, path, G)
    for w in (np.zeros((1, 4, 8)), np.full((1, G.num_ws, 8), np.nan), np.zeros(8)):
        np.savez(path, w=w)
        assert f"[n, {G.num_ws}, 8]" in said(read_styles, path, G)
    np.savez(path, w=np.array(["x"]))
    assert "cannot be read" in said(read_styles, path, G)
    np.savez(path, w=np.array([print], dtype=object))
    assert "cannot be read" in said(read_styles, path, G)
    write_styles(path, torch.zeros(1, G.num_ws, 8), {"b4.conv1.noise_const": torch.zeros(4, 4)})
    assert "noise maps are not those" in said(read_styles, path, G)
    write_styles(path, torch.zeros(2, G.num_ws, 8))
    assert "not every file has noise maps" in said(walk, network, tmp_path / "x.gif", noise_mode="walk", through=[path])


# -- where they land


def test_where_training_held_out_and_generated_images_land(network, G, quarters, tmp_path):
    from semgan_nb.preparation import prepare

    prepare(quarters, tmp_path / "q.zip", 16, window=64, stride=64, progress=False, holdout=0.3)
    status, out, err = say(
        *("project", tmp_path / "q.zip", "--network", network, "--out", tmp_path / "r", "--count", "4"),
        *("--steps", "3", "--features", "pixels", "--candidates", "20", "--beside", tmp_path / "q.zip"),
    )
    assert status == 0 and "held out (4): PSNR" in out, err
    about = json.loads((tmp_path / "r" / "reach.json").read_text())
    assert list(about["sets"]) == ["training", "held out", "generated", "q"] and (tmp_path / "r" / "reach.png").exists()
    assert {len(v) for one in about["sets"].values() for v in one.values()} == {4}
    assert "channels" not in said(reach.reach_archive, tmp_path / "absent.zip", network)


def test_the_verdict_says_what_the_numbers_say():
    def column(db, look):
        fixed = dict(psnr_start=[10.0] * 24, ssim=[0.5] * 24, lite0_start=[0.2] * 24, boundary=[1.0] * 24)
        spread = np.linspace(-1, 1, 24)
        return dict(psnr=list(db + spread), lite0=list(look + 0.01 * spread), **fixed)

    real, made, steel = (lambda: column(19, 0.1)), (lambda: column(30, 0.02)), (lambda: column(20, 0.2))
    lines = reach.reach_lines({"training": real(), "held out": real(), "generated": made(), "steel": steel()})
    assert len(lines) == 7 and lines[0].startswith("training (24): PSNR 1")
    assert "not shown to land farther than training ones" in lines[4] and "this network does not make" in lines[5]
    assert "land nearer in looks than steel" in lines[6]
    assert (
        "some are known by heart" in reach.reach_lines({"training": made(), "held out": real(), "generated": made()})[3]
    )
    assert "cannot tell" in reach.reach_lines({"training": real(), "held out": real(), "generated": real()})[4]
    assert len(reach.reach_lines({"training": real(), "steel": steel()})) == 2
    few = lambda n: {k: {key: v[:n] for key, v in made().items()} for k in ("training", "held out", "generated")}
    assert (
        "too few" in reach.reach_lines(few(4))[3] and len(reach.reach_lines(few(4))) == 4
    )  # p >= 0.03, whatever they are
    assert len(reach.reach_lines(few(5))) == 5


def test_a_network_without_latent_vector_is_refused():
    assert "no latent vector" in said(w_statistics, type("G", (), dict(z_dim=0, c_dim=2))())
