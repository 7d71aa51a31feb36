"""Chapter 20 against numbers computed with the reference implementation (tests/data/ops.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from semgan_nb.layers import (
    MinibatchStd,
    bias_act,
    conv2d_resample,
    downsample2d,
    fir_filter,
    modulated_conv2d,
    upfirdn2d,
    upsample2d,
)

gold = {k: torch.from_numpy(v) for k, v in np.load(Path(__file__).parents[1] / "data" / "ops.npz").items()}
x, f = gold["x_f32"], fir_filter()
GENERAL = [  # settings of general0, general1, …; pairs are (x, y), padding is left, right, top, bottom
    dict(up=1, down=1, padding=(1, 2, 0, 3), flip_filter=False, gain=1.0),
    dict(up=2, down=1, padding=(3, 1, 2, 2), flip_filter=False, gain=4.0),
    dict(up=1, down=2, padding=(2, 1, 1, 1), flip_filter=True, gain=0.5),
    dict(up=(2, 3), down=(3, 1), padding=(4, -1, 3, 2), flip_filter=False, gain=1.5),
    dict(up=3, down=2, padding=(-1, 2, 1, -2), flip_filter=True, gain=2.0),
]


def close(ours, name):
    want = gold[name + "_f32"]
    assert ours.shape == want.shape
    assert (ours - want).abs().max() <= 1e-5 * want.abs().max(), name


def test_filters():
    assert torch.equal(f, gold["filter_1331"])
    raw = gold["filter_sym6_raw"]
    assert torch.allclose(fir_filter(raw.numpy()), gold["filter_sym6"], atol=1e-7)


def test_resampling():
    close(upsample2d(x, f), "up2_1331")
    close(downsample2d(x, f), "down2_1331")
    close(upfirdn2d(x, f, padding=(2, 1, 2, 1)), "filter_1331")
    sym6 = gold["filter_sym6"]
    close(upsample2d(x, sym6), "up2_sym6")
    close(downsample2d(x, sym6, flip_filter=True), "down2_sym6_flip")


@pytest.mark.parametrize("i", range(len(GENERAL)))
def test_general_resampling(i):
    s = GENERAL[i]
    close(
        upfirdn2d(x, gold["filter_asym_3x4"], s["up"], s["down"], s["padding"], s["flip_filter"], s["gain"]),
        f"general{i}",
    )


def test_gradient_of_upsampling():
    a = x.clone().requires_grad_()
    y = upsample2d(a, f)
    (grad,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum(), a)
    close(grad, "up2_1331_grad")


def test_convolutions():
    xe, w3, w1 = gold["xe_f32"], gold["w3_f32"], gold["w1_f32"]
    close(conv2d_resample(xe, w3), "conv_plain")
    close(conv2d_resample(xe, w3, f, up=2), "conv_up2")
    close(conv2d_resample(xe, w3, f, up=2, flip_weight=True), "conv_up2_corr")
    close(conv2d_resample(xe, w3, f, down=2), "conv_down2")
    close(conv2d_resample(xe, w1, f, up=2), "conv1x1_up2")
    close(conv2d_resample(xe, w1, f, down=2), "conv1x1_down2")


@pytest.mark.parametrize("way", ["fused", "split"])
def test_modulated_convolutions(way):
    xe, w3, w1, s = (gold[k + "_f32"] for k in ("xe", "w3", "w1", "styles"))
    fused = way == "fused"
    close(modulated_conv2d(xe, w3, s, gold["noise_f32"], fused=fused), f"modconv_{way}")
    close(modulated_conv2d(xe, w3, s, gold["noise_up_f32"], up=2, f=f, fused=fused), f"modconv_up2_{way}")
    close(modulated_conv2d(xe, w1, s, demodulate=False, fused=fused), f"modconv_nodemod_1x1_{way}")


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_activations(act):
    close(bias_act(x, gold["bias_f32"], act), f"bias_act_{act}")


def test_gain_and_clamp():
    close(bias_act(x, gold["bias_f32"], "lrelu", gain=3.0, clamp=1.25, slope=0.1), "bias_act_lrelu_gain_clamp")


@pytest.mark.parametrize(
    "group, channels, name", [(4, 1, "g4_f1"), (2, 2, "g2_f2"), (8, 1, "g8_f1"), (None, 3, "gall_f3")]
)
def test_minibatch_deviation(group, channels, name):
    close(MinibatchStd(group, channels)(gold["mbstd_in_f32"]), f"mbstd_{name}")


def definition(x, f, up, down, pad, gain):
    """Zeros put after each sample, padding, true convolution, every down-th sample; filters of one dimension for
    each axis."""
    f = torch.outer(f, f) if f.ndim == 1 else f
    n, c, h, w = x.shape
    x = torch.nn.functional.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = torch.nn.functional.pad(x, pad)
    return torch.nn.functional.conv2d(x, (f * gain).flip([0, 1]).to(x.dtype).expand(c, 1, -1, -1), groups=c)[
        :, :, ::down, ::down
    ]


@pytest.mark.parametrize(
    "taps",
    [
        None,
        [1, 1],
        [1, 2, 1],
        [1, 3, 3, 1],
        [1, 5, 2, 8, 1],
        [3, 1, 2, 5, 4, 1],
        list(range(1, 9)),
        list(range(1, 12)),
        [[1, 2, 3], [4, 5, 6], [7, 8, 10]],
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 64])
def test_filters_of_any_length(taps, channels):
    """Resampling and resampling convolutions are the definition, for even, odd and asymmetric filters; with their
    gradients of first and second order."""
    f = fir_filter(taps)
    n = f.shape[0]
    gen = torch.Generator().manual_seed(n)
    image = torch.randn(2, channels, 8, 8, generator=gen, dtype=torch.float64)
    w3, w1 = (torch.randn(5, channels, k, k, generator=gen, dtype=torch.float64) for k in (3, 1))
    up, down = [(n + 1) // 2, (n - 2) // 2] * 2, [(n - 1) // 2, (n - 2) // 2] * 2
    conv = torch.nn.functional.conv2d

    def up3(a, w):  # zeros, 3×3 as a true convolution, low-pass
        a = definition(a, torch.ones(1, 1), 2, 1, [0, 0, 0, 0], 1)
        pad = [(n + 1) // 2 + 1, (n - 2) // 2 + 1] * 2
        return definition(conv(torch.nn.functional.pad(a, [p for p in pad]), w.flip([2, 3])), f, 1, 1, [0, 0, 0, 0], 4)

    pairs = {
        "up": (lambda a, w: upsample2d(a, f), lambda a, w: definition(a, f, 2, 1, up, 4), w1),
        "down": (lambda a, w: downsample2d(a, f), lambda a, w: definition(a, f, 1, 2, down, 1), w1),
        "conv up": (lambda a, w: conv2d_resample(a, w, f, up=2), up3, w3),
        "conv down": (
            lambda a, w: conv2d_resample(a, w, f, down=2),
            lambda a, w: conv(definition(a, f, 1, 1, [p + 1 for p in down], 1), w, stride=2),
            w3,
        ),
        "1x1 up": (
            lambda a, w: conv2d_resample(a, w, f, up=2),
            lambda a, w: definition(conv(a, w), f, 2, 1, up, 4),
            w1,
        ),
        "1x1 down": (
            lambda a, w: conv2d_resample(a, w, f, down=2),
            lambda a, w: conv(definition(a, f, 1, 2, down, 1), w),
            w1,
        ),
    }
    for name, (ours, theirs, weight) in pairs.items():
        found = []
        for way in (ours, theirs):
            a, w = image.clone().requires_grad_(), weight.clone().requires_grad_()
            y = way(a, w)
            first = torch.autograd.grad((y * y).sum(), a, create_graph=True)[0]
            found.append([y, first, *torch.autograd.grad((first * first).sum(), [a, w], allow_unused=True)])
        for p, q in zip(*found):
            assert (p is None) == (q is None) and (
                p is None or (p.shape == q.shape and (p - q).abs().max() <= 1e-6 * q.abs().max() + 1e-12)
            ), name
