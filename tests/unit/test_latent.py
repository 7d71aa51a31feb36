"""Chapters 25 and 26: check values of slerp, its edges, that sampling is repeatable and leaves everything else
alone, walks and films."""

import copy
import itertools
import weakref

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from semgan_nb.latent import latents, parse_seeds, random_images, sample, slerp, to_uint8_images
from semgan_nb.films import noise_maps, walk_figure, walk_frames, write_film
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Generator

A, B = (np.random.RandomState(seed).randn(512) for seed in (0, 1))


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(0)
    return Generator(z_dim=16, w_dim=16, img_resolution=8, channel_base=64, channel_max=16).eval()


def test_slerp_check_values():
    assert np.allclose(slerp(A, B, 0.25)[:3], [2.266719, 0.135125, 0.704874], atol=1e-6)
    assert np.allclose(slerp(A, B, 0.5)[:3], [2.416808, -0.150925, 0.321371], atol=1e-6)
    assert np.linalg.norm(slerp(A, B, 0.25)) == pytest.approx(22.567373, abs=1e-6)
    assert np.linalg.norm(slerp(A, B, 0.5)) == pytest.approx(22.459278, abs=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("other", [B, A, A + 1e-3 * B, -A, 1e-3 * B - A, 5 * A, -3 * A], ids=str)
def test_slerp_has_exact_ends_and_never_nears_zero(other, normalize):
    path = slerp(A, other, np.linspace(0, 1, 101), normalize=normalize)
    assert np.array_equal(path[0], A) and np.array_equal(path[-1], other)
    assert np.isfinite(path).all()
    assert np.linalg.norm(path, axis=1).min() > 0.9 * min(np.linalg.norm(A), np.linalg.norm(other))
    # No frame jumps: each step is at most a few hundredths of the whole way round.
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.08 * max(np.linalg.norm(A), np.linalg.norm(other))


def test_slerp_refuses_what_has_no_arc():
    with pytest.raises(ValueError, match="zeros"):
        slerp(A, 0 * A, 0.5)
    with pytest.raises(ValueError, match="same"):
        slerp(A, B[:3], 0.5)
    with pytest.raises(ValueError, match="opposite"):
        slerp(np.ones(1), -np.ones(1), 0.5)


def test_slerp_keeps_kind_and_dtype():
    a, b = latents([0, 1])
    assert torch.allclose(slerp(a, b, 0.5), torch.from_numpy(slerp(A, B, 0.5)).float(), atol=1e-6)
    assert slerp(A.astype(np.float32), B, 0.5).dtype == np.float32
    assert slerp(np.array([1, 0]), np.array([0, 1]), 0.5) == pytest.approx([0.5**0.5] * 2)


def test_a_seed_is_the_official_latent_vector():
    assert np.array_equal(latents([3], 7).numpy(), np.random.RandomState(3).randn(1, 7).astype(np.float32))
    assert parse_seeds("2,0-1") == [2, 0, 1]
    with pytest.raises(BadInput, match="3-1"):
        parse_seeds("3-1")


def test_grey_levels_are_floored():
    x = torch.tensor([-1.01, -1, -1 / 255, 0, 1 / 255, 1])
    assert to_uint8_images(x).tolist() == np.floor(np.clip(127.5 * x.numpy() + 128, 0, 255)).tolist()


def test_sampling_is_repeatable_and_leaves_global_state(G):
    state, w_avg = torch.get_rng_state(), G.mapping.w_avg.clone()
    G.train()
    images = sample(G, [4, 1])
    assert np.array_equal(sample(G, "4,1"), images) and images.shape == (2, 1, 8, 8)
    assert abs(sample(G, [1])[0].astype(int) - images[1]).max() <= 1  # the size of a batch may change the rounding
    streams = [np.concatenate(list(random_images(G, 7, seed=2, batch=3))) for _ in range(2)]
    assert np.array_equal(*streams) and streams[0].shape == (7, 1, 8, 8)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(G.mapping.w_avg, w_avg) and G.training


# -- walks and films
# ------------------------------------------------------------------------------------------------------


def close(a, b):
    return abs(np.asarray(a).astype(int) - b).max() <= 1  # the size of a batch may change the rounding


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("seeds", [[0, 1], [3, 1, 2], [5, 4, 3, 2]], ids=len)
@pytest.mark.parametrize("frames", [2, 7, 13])
def test_a_walk_has_the_frames_asked_for_and_meets_its_seeds(G, seeds, frames, space):
    walk = list(walk_frames(G, seeds, frames, space=space, batch=3))
    assert len(walk) == frames and {f.shape for f in walk} == {(8, 8)} and walk[0].dtype == np.uint8
    for i, seed in enumerate(seeds):
        k, rest = divmod(i * (frames - 1), len(seeds) - 1)
        if rest == 0:
            assert close(walk[k], sample(G, [seed])[0, 0])


def test_a_walk_follows_the_arc_at_k_over_n_minus_one(G):
    a, b = latents([0, 1], G.z_dim)
    with torch.no_grad():
        wanted = to_uint8_images(G(slerp(a, b, [k / 6 for k in range(7)]), noise_mode="none"))[:, 0].numpy()
    assert close(list(walk_frames(G, torch.stack([a, b]), 7, noise_mode="none")), wanted)


def test_a_walk_is_the_same_again_and_leaves_everything_alone(G):
    state, w_avg = torch.get_rng_state(), G.mapping.w_avg.clone()
    G.train()
    walks = [np.stack(list(walk_frames(G, "0,1", 9, noise_mode="random"))) for _ in range(2)]
    assert np.array_equal(*walks)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(G.mapping.w_avg, w_avg) and G.training


@pytest.fixture(scope="module")
def noisy():
    "A network in which the noise is seen, without noise inputs below 8 px."
    torch.manual_seed(1)
    G = Generator(z_dim=16, w_dim=16, img_resolution=32, channel_base=256, channel_max=16, noise_from=8).eval()
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
            elif name.endswith("torgb.weight"):
                parameter.mul_(0.25)
    return G


def used_maps(G, monkeypatch):
    """What the last layer's stored noise is when it is called, for each image: a list of float32 [n, 1, 32, 32] that
    fills as frames are made."""
    layer, seen = G.synthesis.b32.conv1, []
    forward = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda *args, **kwargs: (seen.append(layer.noise_const.clone()), forward(*args, **kwargs))[1]
    )
    return seen


def image_with(G, seed, **how):
    "A seed's own image with its own noise, from a copy of the network that stores it."
    own = copy.deepcopy(G)
    own.synthesis.load_state_dict(noise_maps(G, seed), strict=False)
    return sample(own, [seed], **how)[0, 0]


def test_noise_of_a_seed_is_gaussian_its_own_and_the_same_again(noisy):
    state = torch.get_rng_state()
    maps = {seed: noise_maps(noisy, seed) for seed in (0, 1, 2**32 - 1)}
    assert torch.equal(torch.get_rng_state(), state)
    assert list(maps[0]) == [f"b{r}.conv{k}.noise_const" for r in (8, 16, 32) for k in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(maps[0].values(), noise_maps(noisy, np.int64(0)).values()))
    large = torch.stack([maps[seed][f"b32.conv{k}.noise_const"].flatten() for seed in maps for k in (0, 1)])
    assert abs(large.mean(1)).max() < 0.15 and abs(large.var(1) - 1).max() < 0.2
    assert abs(torch.corrcoef(large) - torch.eye(6)).max() < 0.15
    # The values themselves: films of another version or machine show the same.
    assert maps[1]["b8.conv0.noise_const"][0, :4].tolist() == pytest.approx(
        [0.055785, -0.340398, -1.602905, -0.365256], abs=1e-5
    )


@pytest.mark.parametrize("space", ["z", "w"])
def test_noise_that_walks_meets_the_seeds_own_images(noisy, space):
    how = dict(space=space, truncation_psi=0.5, noise_mode="walk")
    walk = list(walk_frames(noisy, iter([3, 1, 3]), 9, batch=4, **how))
    for frame, seed in zip(walk[::4], (3, 1, 3)):
        assert close(frame, image_with(noisy, seed, truncation_psi=0.5))
    assert close(walk[0], walk[-1]) and not close(walk[0], walk[4])
    assert close(
        walk, list(walk_frames(noisy, "3,1,3", 9, batch=1, **how))
    )  # each image of a batch has the noise of its own frame


def test_noise_that_walks_follows_the_arc_and_keeps_its_variance(noisy, monkeypatch):
    seen = used_maps(noisy, monkeypatch)
    list(walk_frames(noisy, [0, 1, 2], 17, noise_mode="walk", batch=3))
    used = torch.cat(seen)[:, 0]
    ends = [noise_maps(noisy, seed)["b32.conv1.noise_const"] for seed in (0, 1, 2)]
    assert used.shape == (17, 32, 32) and all(torch.equal(used[8 * i], end) for i, end in enumerate(ends))
    for k in range(17):
        i, t = min(k // 8, 1), k / 8 - min(k // 8, 1)
        wanted = slerp(ends[i].flatten(), ends[i + 1].flatten(), t)
        torch.testing.assert_close(used[k].flatten(), wanted, rtol=0, atol=1e-6)
        assert used[k].var().item() == pytest.approx(1, abs=0.15)
    steps = (used[1:] - used[:-1]).square().mean((1, 2)).sqrt()
    assert (
        steps.max() < 1.2 * np.pi / 2 / 8 and steps.max() < 1.1 * steps.min()
    )  # a quarter circle for each two seeds, at an even speed


def test_frames_of_noise_that_walks_change_a_little_at_a_time(noisy):
    walk = np.stack(list(walk_frames(noisy, [0, 1, 0], 81, truncation_psi=0, noise_mode="walk"))).astype(float)
    steps, whole = abs(np.diff(walk, axis=0)).mean((1, 2)), abs(walk[40] - walk[0]).mean()
    assert whole > 5 and 0 < steps.min() and steps.max() < whole / 10
    still = list(walk_frames(noisy, [0, 1, 0], 9, truncation_psi=0))
    assert all(close(frame, still[0]) for frame in still)


def test_noise_that_walks_leaves_the_network_as_it_was(noisy, monkeypatch):
    before, kept = {name: value.clone() for name, value in noisy.state_dict().items()}, dict(noisy.named_buffers())

    def untouched():
        return all(value is kept[name] for name, value in noisy.named_buffers()) and all(
            torch.equal(value, before[name]) for name, value in noisy.state_dict().items()
        )

    frames = walk_frames(noisy, [0, 1], 9, noise_mode="walk", batch=2)
    next(frames)
    assert untouched()  # also between two frames, when another part of the program may use the network
    frames.close()
    assert untouched()
    seen = used_maps(noisy, monkeypatch)
    monkeypatch.setattr(noisy.synthesis.b32.torgb, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(walk_frames(noisy, [0, 1], 9, noise_mode="walk", batch=2))
    assert seen and seen[0].shape == (2, 1, 32, 32) and untouched()


def test_without_noise_inputs_only_the_latent_vector_walks():
    torch.manual_seed(0)
    G = Generator(z_dim=16, w_dim=16, img_resolution=8, channel_base=64, channel_max=16, use_noise=False).eval()
    assert noise_maps(G, 0) == {}
    assert np.array_equal(list(walk_frames(G, "0-2", 7, noise_mode="walk")), list(walk_frames(G, "0-2", 7)))


def test_noise_is_drawn_from_seeds(noisy):
    with pytest.raises(BadInput, match="give seeds"):
        walk_frames(noisy, latents([0, 1], 16), noise_mode="walk")
    with pytest.raises(BadInput, match="const, none, random or walk"):
        walk_frames(noisy, [0, 1], noise_mode="loud")


def test_colour_frames_have_their_channels_last():
    G = Generator(z_dim=8, w_dim=8, img_resolution=8, img_channels=3, channel_base=32, channel_max=8).eval()
    assert next(walk_frames(G, [0, 1], 3)).shape == (8, 8, 3)


def test_frames_are_made_as_they_are_asked_for(G):
    assert len(list(itertools.islice(walk_frames(G, [0, 1], 10**9), 20))) == 20


@pytest.mark.parametrize("name", ["walk.mp4", "walk.gif", "frames"])
def test_writing_holds_few_frames_in_memory(tmp_path, name):
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    def frames():
        nonlocal most
        for k in range(60):
            frame = np.full((16, 16), k, np.uint8).view(Frame)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame
            del frame

    assert write_film(frames(), tmp_path / name, progress=False) == 60
    assert most < 8


def read_back(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    return about, [np.frombuffer(f, np.uint8).reshape(*about["size"][::-1], 3) for f in reader]


@pytest.mark.parametrize(
    "shape, size",
    [
        ((8, 8), (256, 256)),
        ((32, 32), (256, 256)),
        ((300, 260), (260, 300)),
        ((301, 257), (258, 302)),
        ((20, 30, 3), (390, 260)),
    ],
    ids=str,
)
def test_the_frames_of_an_mp4_counted(tmp_path, shape, size):
    ramp = [np.full(shape, 5 * k, np.uint8) for k in range(50)]
    assert write_film(iter(ramp), tmp_path / "walk.mp4", fps=24, progress=False) == 50
    about, film = read_back(tmp_path / "walk.mp4")
    assert len(film) == 50 and about["size"] == size and about["fps"] == 24
    assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p")
    assert all(abs(float(f.mean()) - 5 * k) < 3 for k, f in enumerate(film))


def test_the_frames_of_a_gif_counted(tmp_path):
    still = [np.full((16, 16), k // 2 * 10, np.uint8) for k in range(40)]  # every frame twice
    assert write_film(still, tmp_path / "walk.gif", fps=25, progress=False) == 40
    with Image.open(tmp_path / "walk.gif") as gif:
        assert gif.n_frames == 40 and gif.size == (256, 256)
        for k in range(40):
            gif.seek(k)
            assert gif.info["duration"] == 40 and np.asarray(gif.convert("L")).mean() == k // 2 * 10
    colour = [np.random.RandomState(k).randint(0, 256, (16, 16, 3), np.uint8) for k in range(5)]
    assert write_film(colour, tmp_path / "colour.gif", progress=False) == 5
    with Image.open(tmp_path / "colour.gif") as gif:
        assert gif.n_frames == 5


def test_png_frames_are_exact(tmp_path, G):
    (tmp_path / "frames").mkdir()
    walk = list(walk_frames(G, [0, 1], 12))
    assert write_film(walk, tmp_path / "frames", progress=False) == 12
    files = sorted((tmp_path / "frames").iterdir())
    assert files[0].name == "frame000000.png" and len(files) == 12
    assert all(np.array_equal(np.asarray(Image.open(f)), w) and Image.open(f).mode == "L" for f, w in zip(files, walk))


@pytest.mark.parametrize("name", ["walk.mp4", "walk.gif", "frames"])
def test_a_film_appears_whole_or_not_at_all(tmp_path, name):
    def broken():
        yield np.zeros((8, 8), np.uint8)
        raise RuntimeError("out of steel")

    with pytest.raises(RuntimeError, match="steel"):
        write_film(broken(), tmp_path / name, progress=False)
    with pytest.raises(ValueError, match="differ"):
        write_film([np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)], tmp_path / name, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused(tmp_path):
    frame = [np.zeros((8, 8), np.uint8)] * 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name, words in (("walk.avi", "mp4"), ("full", "not empty"), ("folder.mp4", "folder")):
        with pytest.raises(BadInput, match=words):
            write_film(frame, tmp_path / name, progress=False)
    with pytest.raises(BadInput, match="no frames"):
        write_film([], tmp_path / "walk.mp4", progress=False)
    with pytest.raises(BadInput, match="0 frames per second"):
        write_film(frame, tmp_path / "walk.mp4", fps=0, progress=False)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_a_figure_of_a_walk_has_a_panel_for_each_image(n):
    figure = walk_figure([np.full((8, 8), k, np.uint8) for k in range(n)])
    panels = [a for a in figure.axes if a.images]
    assert [a.images[0].get_array()[0, 0] for a in panels] == list(range(n))
    places = [a.get_position() for a in panels]
    assert all(p.x0 <= q.x0 or p.y0 > q.y0 for p, q in zip(places, places[1:]))  # to the right, or a row down
    arrows = [t for t in figure.axes[0].texts if getattr(t, "arrow_patch", None)]
    assert len(arrows) == n - 1


def test_a_figure_of_a_walk_takes_a_scale_bar_and_another_figure():
    from matplotlib.figure import Figure

    given = Figure()
    figure = walk_figure(
        [np.zeros((8, 8, 3), np.uint8)] * 6, titles=list("abcdef"), pixel_size_nm=(50.0, 50.0), figure=given
    )
    panels = [a for a in figure.axes if a.images]
    assert figure is given and [len(a.patches) for a in panels] == [0, 0, 0, 0, 0, 1]
