"""Chapters 22 and 23 against the reference: check values at fixed percentiles, arrays (tests/data/ada.npz), the
controller (ada_controller.npz)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from semgan_nb import resampling
from semgan_nb.augment import AdaController, AugmentPipe, PIPES, augment_pipe

data = Path(__file__).parents[1] / "data"
noise = torch.tensor(np.random.RandomState(7).rand(2, 1, 32, 32) * 2 - 1, dtype=torch.float32)


def pipe(name, p=1.0):
    a = augment_pipe(name) if name in PIPES else AugmentPipe(**{name: 1})
    a.p.fill_(p)
    return a


@pytest.mark.parametrize(
    "name, q, mean, std, first, other",
    [
        ("xflip", 0.7, -0.011493, 0.564908, [-0.04657, -0.50089, -0.10696], -0.87128),
        ("rotate90", 0.7, -0.011504, 0.550284, [-0.24433, 0.56301, 0.89188], -0.34917),
        ("xint", 0.3, -0.003680, 0.587732, [0.92994, 0.89010, 0.69680], 0.67188),
        ("scale", 0.3, -0.006978, 0.441657, [-0.00871, -0.26913, -0.01730], 0.61616),
        ("rotate", 0.3, -0.012727, 0.460241, [0.57349, 0.57765, 0.30946], -0.02822),
        ("aniso", 0.3, -0.008033, 0.448805, [0.02117, -0.27294, 0.00033], 0.64346),
        ("xfrac", 0.3, -0.002794, 0.455577, [-0.17058, 0.75148, 0.99365], 1.25059),
        ("blit", 0.3, -0.007385, 0.567380, [0.74619, -0.91682, 0.99420], 0.30074),
        ("geom", 0.3, -0.020505, 0.450207, [-0.07582, -0.19088, 0.42874], -0.38259),
        ("bg", 0.3, -0.002260, 0.448290, [0.55395, 0.72650, 0.05837], 0.26451),
        ("brightness", 0.3, -0.085530, 0.579292, [-0.92154, 0.48568, -0.19734], 0.59948),
        ("contrast", 0.3, -0.009998, 0.509431, [-0.74519, 0.49232, -0.10833], 0.59240),
        ("filter", 0.3, -0.010815, 0.551062, [-0.80609, 0.53256, -0.11718], 0.64081),
        ("cutout", 0.3, -0.010627, 0.497348, [-0.84738, 0.55984, -0.12318], 0),
    ],
)
def test_check_values(name, q, mean, std, first, other):
    y = pipe(name)(noise, percentile=q)
    got = [y.mean(), y.std(), *y[0, 0, 0, :3], y[1, 0, 16, 16]]
    assert np.allclose([float(v) for v in got], [mean, std, *first, other], atol=1e-4)


@pytest.mark.parametrize("name", ["blit", "geom", "bg"])
def test_reference_images(name):
    gold = np.load(data / "ada.npz")
    x = torch.from_numpy(gold["grey_input"])
    for q, want in zip(gold["percentiles"], gold[f"grey_{name}"]):
        step = 64 // want.shape[-1]  # every second pixel is kept of some
        assert (pipe(name)(x, percentile=float(q))[0, :, ::step, ::step] - torch.from_numpy(want)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "name, want",
    [
        ("hue", [0.99414, 0.24476, -0.06243]),
        ("saturation", [0.85081, -0.41692, 0.74259]),
        ("color", [0.35489, -0.74700, -1.19870]),
    ],
)
def test_check_values_in_colour(name, want):
    x = torch.tensor(np.random.RandomState(8).rand(2, 3, 32, 32) * 2 - 1, dtype=torch.float32)
    assert np.allclose(pipe(name)(x, percentile=0.7)[0, :, 0, 0], want, atol=1e-4)


def test_reference_images_of_every_group():
    gold = np.load(data / "ada.npz")
    found = [k for k in gold if k.startswith(("grey70_", "rgb30_"))]
    assert len(found) == 10
    for key in found:
        kind, name = key.split("_")
        y = pipe(name)(
            torch.from_numpy(gold["rgb_input" if kind == "rgb30" else "grey_input"]),
            percentile=0.3 if kind == "rgb30" else 0.7,
        )
        step = 64 // gold[key].shape[-1]
        assert (y[0, :, ::step, ::step] - torch.from_numpy(gold[key])).abs().max() < 2e-4, key


@pytest.mark.skipif("SEMGAN_GOLDEN" not in os.environ, reason="SEMGAN_GOLDEN names no folder of reference arrays")
def test_the_whole_reference():
    gold, seen = np.load(Path(os.environ["SEMGAN_GOLDEN"]) / "ada.npz"), 0
    for kind in ("grey", "rgb"):
        x = torch.from_numpy(gold[f"{kind}_input"])
        for key in gold:
            name = key.removeprefix(f"{kind}_")
            if (
                key.startswith(f"{kind}_")
                and (name in PIPES or name in AugmentPipe().on)
                and name not in ("noise", "bgcfnc")
            ):
                for q, want in zip(gold["percentiles"], gold[key]):
                    assert (pipe(name)(x, percentile=float(q))[0] - torch.from_numpy(want)).abs().max() < 1e-4 * max(
                        np.abs(want).max(), 1
                    ), (key, q)
                    seen += 1
    assert seen > 150


def test_noise_has_the_reference_strength():
    gold, x = np.load(data / "ada.npz"), torch.zeros(1, 1, 256, 256)
    for q, sigma in zip(gold["percentiles"], gold["noise_sigma"]):
        assert abs(pipe("noise")(x, torch.Generator().manual_seed(1), percentile=float(q)).std() / sigma - 1) < 0.02
    many = pipe("noise")(torch.zeros(4000, 1, 8, 8), torch.Generator().manual_seed(2))
    assert abs(many.square().mean().sqrt() - 0.1) < 0.005


def test_cutout_covers_what_it_should_on_average():
    kept = pipe("cutout")(torch.ones(4000, 1, 32, 32), torch.Generator().manual_seed(3)).mean()
    assert abs((1 - kept) - 0.19) < 0.01


def test_blur_and_median():
    x = torch.tensor(np.random.RandomState(1).randn(1, 1, 64, 64), dtype=torch.float32)
    sigma = 0.476936  # erfinv(0.5)
    want = ndimage.gaussian_filter(x[0, 0].double().numpy(), sigma, mode="mirror", radius=2)
    assert np.abs(pipe("blur")(x, percentile=0.75)[0, 0].numpy() - want).max() < 1e-4
    np.testing.assert_array_equal(
        pipe("median")(x, percentile=0.5)[0, 0].numpy(), ndimage.median_filter(x[0, 0].numpy(), 3, mode="mirror")
    )


@pytest.mark.parametrize("name", sorted(PIPES))
def test_twice_differentiable(name):
    a = pipe(name, 0.8)
    x = torch.tensor(np.random.RandomState(4).rand(2, 3, 24, 24), dtype=torch.float64, requires_grad=True)
    f = lambda v: a(v, torch.Generator().manual_seed(11))
    assert not torch.equal(f(x), x)
    assert torch.autograd.gradcheck(f, x, fast_mode=True) and torch.autograd.gradgradcheck(
        lambda v: f(v).pow(3), x, fast_mode=True
    )


@pytest.mark.parametrize("name", sorted(PIPES))
def test_closed_gates_change_nothing(name):
    x = torch.randn(3, 1, 32, 32)
    assert torch.equal(pipe(name, 0.0)(x), x)
    half = pipe(name, 0.2)(x.repeat(20, 1, 1, 1), torch.Generator().manual_seed(5)) == x.repeat(20, 1, 1, 1)
    assert 0 < half.flatten(1).all(dim=1).sum() < 60 or name in (
        "bgcf",
        "bgcfn",
        "bgcfnc",
        "bgc",
    )  # some are left as they were


def test_one_image_far_off_costs_the_others_nothing(monkeypatch):
    """The padding is common to the batch; what is doubled of each image is the part that it needs, and the result is
    what the whole would give."""
    made, resample = [], resampling._Resampling.__call__

    def noting(self, x, n_out, axis):
        y = resample(self, x, n_out, axis)
        if self is resampling._DOUBLE and axis == 1:
            made.append(y.numel())
        return y

    monkeypatch.setattr(resampling._Resampling, "__call__", noting)
    x = torch.tensor(np.random.RandomState(0).rand(32, 1, 128, 128), dtype=torch.float32)
    maps = np.eye(3)[None].repeat(32, 0)
    maps[5, 0, 2], maps[5, 1, 2] = 100, -100
    y = resampling.warp(x, maps)
    assert sum(made) < 32 * 4 * 160**2 and max(made) < 2 * 4 * 240**2  # the whole, doubled: 32 * 4 * 234**2 at once
    assert (y[0] - x[0]).abs().max() < 1e-4 and (y[5, 0, 110:, :18] - x[5, 0, 10:28, 100:118]).abs().max() < 1e-4


def test_reference_gradient():
    gold = np.load(data / "ada.npz")
    x = torch.from_numpy(gold["grey_input"]).requires_grad_()
    y = pipe("bg")(x, percentile=0.7)
    (grad,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum(), x)
    assert (grad[0] - torch.from_numpy(gold["grey_bg_p70_grad"])).abs().max() < 1e-3


@pytest.mark.parametrize("i", [0, 1, 2])
def test_controller_sequences(i):
    gold = np.load(data / "ada_controller.npz")
    batch, interval, ada_kimg, target, start = gold[f"s{i}_settings"]
    for with_reg in (False, True):
        c = AdaController(target, ada_kimg, int(interval), start)
        rt, p = [], []
        for it, logits in enumerate(gold[f"s{i}_logits"]):
            c.report(torch.from_numpy(logits.astype(np.float32)))
            if with_reg and it % 16 == 0:
                c.report(torch.from_numpy(gold[f"s{i}_logits_reg"][it // 16].astype(np.float32)))
            if c.update(it + 1, int(batch)):
                rt.append(c.rt), p.append(float(c.p))
        kind = "with_reg" if with_reg else "main_only"
        assert np.allclose(rt, gold[f"s{i}_{kind}_rt"], atol=1e-6) and np.allclose(p, gold[f"s{i}_{kind}_p"], atol=1e-7)


def test_some_images_untouched_at_small_p():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 16, 16)
    y = pipe("bg", 0.05)(x, g)
    same = (x == y).flatten(1).all(1)
    assert 20 < same.sum() < 64


def test_no_global_random_numbers():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pipe("bg", 0.5)(noise, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_p_max_and_nan():
    c = AdaController(0.5, 0.001, 1, p_max=0.3)
    for i in range(9):
        c.report(torch.ones(4))
        c.update(i + 1, 4)
    assert c.p == np.float32(0.3)
    c.report(torch.tensor([float("nan")]))
    with pytest.warns(UserWarning, match="not a number"):
        c.update(10, 4)
    assert c.p == np.float32(0.3)


def test_what_a_grey_image_can_show():
    "Contrast multiplies, the luma flip negates, cutout leaves mid grey on a quarter of the image."
    doubled = AugmentPipe(contrast=1, contrast_std=1.2)(noise, percentile=0.9)
    assert torch.allclose(doubled, noise * float(doubled[0, 0, 0, 0] / noise[0, 0, 0, 0]), rtol=1e-4)
    assert torch.allclose(AugmentPipe(lumaflip=1)(noise, percentile=0.7), -noise, atol=1e-6)
    holes = AugmentPipe(cutout=1)(torch.ones(1, 1, 32, 32), percentile=0.5)
    assert holes.mean() == 0.75 and holes[0, 0, 16, 16] == 0


def test_stretches_are_pieces_of_one_matrix_and_each_has_its_transpose():
    taps = np.asarray(resampling.SYM6) / np.sum(resampling.SYM6)

    def dense(n_in, n_out, tap, gain):
        k = tap(np.arange(n_in)[:, None], np.arange(n_out)[None])
        return torch.as_tensor(np.where((k >= 0) & (k < 12), gain * taps[k.clip(0, 11)], 0))

    r = resampling
    for n in (7, 32, 97, 300):
        up, down = dense(n, 2 * n, lambda i, o: o + 5 - 2 * i, 2), dense(2 * n + 12, n, lambda i, o: i - 1 - 2 * o, 1)
        for step, back, band in ((r._DOUBLE, r._UNDOUBLE, up), (r._HALVE, r._UNHALVE, down)):
            x, y = (torch.randn(3, k, dtype=torch.float64) for k in band.shape)
            for axis, turned in ((1, lambda v: v), (0, torch.t)):
                there = turned(step(turned(x).contiguous(), band.shape[1], axis))
                assert (there - x @ band).abs().max() < 1e-12
                assert (turned(back(turned(y).contiguous(), band.shape[0], axis)) - y @ band.t()).abs().max() < 1e-12


def test_an_image_beside_one_that_needs_much_padding_comes_out_as_it_should():
    wide = np.concatenate([np.eye(3)[None], resampling._scaling(1.5, 1.5, 1), resampling._translation(20.0, -25.0, 1)])
    three = torch.tensor(np.random.RandomState(1).rand(3, 1, 32, 32), dtype=torch.float64)
    for k in range(2):
        alone = resampling.warp(three[[k, 2]], wide[[k, 2]])[0]
        assert (resampling.warp(three, wide)[k] - alone).abs().max() < 1e-12
    still = resampling.warp(noise, np.eye(3)[None].repeat(2, 0))
    assert (still - noise).abs().max() < 4e-6
