"""Chapter 66: paths against geometry, what a jump, a straight way and a deaf network give, and the words."""

import copy

import numpy as np
import pytest
import torch
from command import said, say
from made_up_runs import random_snapshot

from semgan_nb.extractors import get_extractor
from semgan_nb.latent import latents, sample
from semgan_nb.networks import Generator
from semgan_nb.smoothness import (
    PATHS,
    RealSide,
    film_words,
    measure_smoothness,
    path_images,
    smoothness_figure,
    smoothness_text,
    steps_of,
    watched,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    G = Generator(z_dim=16, w_dim=16, img_resolution=16, channel_base=128, channel_max=16)
    return G.eval().requires_grad_(False)


class Pixels:
    "The grey levels themselves as features."

    def __call__(self, images, progress=None):
        return np.asarray(images, np.float32).reshape(len(images), -1)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_begins_and_ends_at_its_seeds(network, path):
    frames, ends = path_images(network, (3, 4), path, 5), sample(network, [3, 4])
    assert frames.dtype == np.uint8 and frames.shape == (5, 1, 16, 16)
    assert np.abs(frames[[0, -1]].astype(int) - ends).max() <= 1
    (middle,) = path_images(network, (3, 4), path, [0.5])
    assert np.abs(middle.astype(int) - frames[2]).max() <= 1


def test_the_line_in_z_is_the_arc_at_another_pace(network):
    "The mapping divides z by its length: position t of the line is at the angle of its direction on the arc."
    a, b = latents((3, 4), 16).double()
    t = 0.3
    unit = lambda x: x / x.norm()
    angle = lambda x, y: float(torch.acos((unit(x) @ unit(y)).clamp(-1, 1)))
    share = angle(a, a + t * (b - a)) / angle(a, b)
    z = np.sin((1 - share) * angle(a, b)) * unit(a) + np.sin(share * angle(a, b)) * unit(b)  # at constant pace
    here = network(z[None].float(), noise_mode="const")[0].mul(127.5).add(128).clamp(0, 255)
    there = path_images(network, (3, 4), "lerp", [t])[0]
    assert share != pytest.approx(t, abs=0.01) and (here - torch.from_numpy(there).float()).abs().max() < 1.5


def test_steps_of_paths_that_can_be_counted():
    turn = np.linspace(0, np.pi / 2, 200)
    quarter = steps_of(np.stack([np.cos(turn), np.sin(turn)], 1))
    assert quarter.length == pytest.approx(np.pi / 2 / 2**0.5, rel=1e-4) and quarter.way[0] == 0
    jump = steps_of([[0.0, 0], [0, 0], [3, 4], [3, 4]])
    assert (jump.ends, jump.length, jump.largest) == (5, 1, 1) and jump.way.tolist() == [0, 0, 1, 1]
    nowhere = steps_of(np.ones((4, 3)))
    assert nowhere.ends == 0 and np.isnan(nowhere.length) and np.isnan(nowhere.largest)


def test_where_real_images_are():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(400, 3))
    side = RealSide(cloud)
    assert side.share(rng.normal(size=(200, 3))) > 0.85 and side.share(cloud) == 1
    assert side.share(rng.normal(size=(200, 3)) + 20) == 0
    assert side.apart == pytest.approx(
        2.17, rel=0.1
    )  # the median distance of two points of a Gaussian in three dimensions
    assert "too few" in said(RealSide, cloud[:9])


def test_a_jump_is_short_and_a_crossfade_even(network):
    real = sample(network, range(50, 110))
    found = measure_smoothness(network, Pixels(), RealSide(Pixels()(real)), pairs=2, frames=9, single=12)
    by = {one.path: one for one in found.paths}
    assert [one.path for one in found.paths] == list(PATHS) and (found.pairs, found.frames, found.single) == (2, 9, 12)
    assert by["jump"].length == by["jump"].largest == 1
    assert by["crossfade"].length == pytest.approx(1, abs=0.05)  # straight, in pixels
    assert by["crossfade"].largest == pytest.approx(1 / 8, rel=0.2)
    assert 1 < by["slerp"].length < 3 and 1 / 8 < by["slerp"].largest < 0.6
    assert all(0 <= one.precision <= 1 for one in found.paths) and 0 <= found.at_random <= 1
    text = smoothness_text(found)
    assert "In 2 walks of 9 frames" in text and "a jump 100 %" in text and "of 12 frames from other walks" in text
    assert len(smoothness_figure(found).axes) == 2


def test_few_real_images_say_less_and_a_network_that_does_not_listen_is_told(network):
    look = get_extractor("random")
    side = RealSide(look(sample(network, range(60, 90))))
    found = measure_smoothness(network, look, side, ("slerp",), pairs=1, frames=4)
    assert found.at_random is None and found.paths[0].precision is None
    assert "real images are" not in smoothness_text(found)
    assert len(smoothness_figure(found).axes) == 1
    deaf = copy.deepcopy(network)
    for parameter in deaf.mapping.parameters():
        parameter.data.zero_()
    assert "does not listen" in smoothness_text(measure_smoothness(deaf, look, side, ("slerp",), pairs=1, frames=4))


def test_a_film_is_measured_as_it_passes():
    frames = [np.full((4, 4), k, np.uint8) for k in range(200)]
    kept = []
    assert [frame[0, 0] for frame in watched(iter(frames), 96, kept)] == list(range(200))
    assert [frame[0, 0, 0] for frame in kept] == list(range(0, 97, 4))
    assert "the largest step is 4 % of their distance" in film_words(kept, Pixels())
    assert "leads nowhere" in film_words(kept[:1] * 3, Pixels())
    few = []
    assert len(list(watched(iter(frames), 20, few))) == 200 and few == [] and film_words(few, Pixels()) == ""


def test_the_walk_says_how_even_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_snapshot("net.safetensors", img_resolution=16)
    status, out, _ = say("walk", "net.safetensors", "--frames", 25, "--out", "film")
    assert status == 0 and "in 25 frames, the largest step is" in out
    status, out, _ = say("walk", "net.safetensors", "--frames", 24, "--out", "short")
    assert status == 0 and "largest step" not in out
