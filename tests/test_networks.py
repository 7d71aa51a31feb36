"""Chapter 06 against the check values of the reference implementation: weights filled by a rule, images and logits compared."""
import numpy as np
import pytest
import torch

from semgan_nb.losses import path_lengths, r1_penalty
from semgan_nb.networks import Discriminator, Generator, count_parameters


def fill(net):
    "Every weight from RandomState(1000 + i), i the place of its name in the sorted list."
    state = net.state_dict()
    for i, name in enumerate(sorted(n for n in state if not n.endswith("resample_filter"))):
        v = torch.tensor(np.random.RandomState(1000 + i).randn(*state[name].shape), dtype=torch.float32)
        if name.endswith("noise_strength"):
            v = torch.full(state[name].shape, 0.1)
        elif name.endswith("affine.bias"):
            v = 1 + 0.1 * v
        elif name.endswith("bias") or name.endswith("w_avg"):
            v = 0.1 * v
        state[name].copy_(v * 100 if "mapping.fc" in name else v)
    return net


def generator(**more):
    return fill(Generator(**{**dict(z_dim=16, w_dim=24, img_resolution=32, channel_base=512, channel_max=32, mapping_layers=3), **more})).eval()


def discriminator(architecture="resnet", c_dim=0):
    return fill(Discriminator(c_dim, 32, 1, 512, 32, architecture, mapping_layers=3, mbstd_group_size=2))


z = torch.tensor(np.random.RandomState(0).randn(4, 16), dtype=torch.float32)
x = torch.tensor(np.random.RandomState(1).randn(4, 1, 32, 32), dtype=torch.float32)
c = torch.eye(3)[[0, 1, 2, 0]]


def equal(ours, want, tolerance=1e-4):
    assert torch.allclose(ours.detach().flatten(), torch.tensor(want), rtol=0, atol=tolerance), ours


def test_mapping_and_truncation():
    m = generator().mapping
    equal(m(z)[0, 0, :4], [1.454074, 0.720463, 0.301654, -0.013708])
    cut = m(z, truncation_psi=0.5, truncation_cutoff=3)
    equal(cut[0, 0, :2], [0.685286, 0.397335])
    assert torch.equal(cut[:, 5], m(z)[:, 5])


@pytest.mark.parametrize("noise, mean, std, first", [
    ("const", 1.042854, 1.310521, [0.495222, 0.018246, 0.772936]),
    ("none", 1.020107, 1.224377, [0.154934, 0.315334, 0.339102]),
])
def test_skip_generator(noise, mean, std, first):
    y = generator()(z, noise_mode=noise)
    equal(torch.stack([y.mean(), y.std()]), [mean, std])
    equal(y[0, 0, 0, :3], first)


@pytest.mark.parametrize("architecture, mean, std", [("resnet", 0.521065, 0.614948), ("orig", 0.867810, 0.773040)])
def test_other_generators(architecture, mean, std):
    y = generator(architecture=architecture)(z, noise_mode="const")
    equal(torch.stack([y.mean(), y.std()]), [mean, std])


def test_conditional_rgb_generator():
    y = generator(c_dim=3, img_channels=3)(z, c, noise_mode="const")
    equal(torch.stack([y.mean(), y.std()]), [0.438112, 0.972128])
    equal(y[0, :, 0, 0], [0.095430, -0.156735, 0.425609])


@pytest.mark.parametrize("architecture, logits", [
    ("resnet", [0.227507, 0.243565, 0.135356, 0.203960]),
    ("skip", [-0.549555, -0.730512, -0.506461, -0.478973]),
    ("orig", [0.826808, 0.857172, 0.799274, 0.886110]),
])
def test_discriminators(architecture, logits):
    equal(discriminator(architecture)(x), logits)


def test_conditional_discriminator():
    equal(discriminator(c_dim=3)(x, c), [0.424781, 0.510799, 0.227302, 0.381478])


def test_r1():
    a = x.clone().requires_grad_()
    equal(r1_penalty(discriminator()(a), a), [0.004232, 0.003444, 0.003763, 0.003096], 1e-5)


def test_path_length():
    g = generator()
    ws = g.mapping(z).detach().requires_grad_()
    y = torch.tensor(np.random.RandomState(2).randn(4, 1, 32, 32), dtype=torch.float32)
    equal(path_lengths(g.synthesis(ws, noise_mode="const"), ws, y), [0.544863, 0.592806, 1.060531, 0.661575])


@pytest.mark.parametrize("r, ch, layers, fmaps, G, buffers, D", [
    (512, 1, 2, 1, 28_694_615, 699_904, 28_982_721),
    (512, 3, 2, 1, 28_700_647, 699_904, 28_982_849),
    (512, 1, 8, 1, 30_270_551, 699_904, 28_982_721),
    (256, 1, 2, 0.5, 23_186_516, 175_568, 24_000_961),
    (64, 1, 2, 0.5, 22_238_990, 11_632, 23_406_849),
    (1024, 3, 8, 1, 30_370_060, 2_797_104, 29_012_513),
])
def test_parameter_counts(r, ch, layers, fmaps, G, buffers, D):
    with torch.device("meta"):
        g = Generator(img_resolution=r, img_channels=ch, mapping_layers=layers, channel_base=int(32768 * fmaps))
        d = Discriminator(img_resolution=r, img_channels=ch, channel_base=int(32768 * fmaps))
    assert count_parameters(g) == G and count_parameters(d) == D
    assert sum(b.numel() for b in g.buffers()) == buffers


def test_clamp_limits_every_convolution():
    g = generator(conv_clamp=0.01)
    assert g(z, noise_mode="const").abs().max() <= 0.01 * len(g.synthesis.block_resolutions) * 4
    assert not torch.allclose(g(z, noise_mode="const"), generator()(z, noise_mode="const"))


def test_w_avg_moves_in_training_only():
    g = generator()
    before = g.mapping.w_avg.clone()
    g.mapping(z)
    assert torch.equal(g.mapping.w_avg, before)
    w = g.train().mapping(z)[:, 0]
    assert torch.allclose(g.mapping.w_avg, 0.995 * before + 0.005 * w.mean(0), atol=1e-6)
