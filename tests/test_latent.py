"""Chapter 09: check values of slerp, its edges, and that sampling is repeatable and leaves everything else alone."""
import numpy as np
import pytest
import torch

from semgan_nb.latent import latents, parse_seeds, random_images, sample, slerp, to_uint8_images
from semgan_nb.micrographs import BadInput
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
