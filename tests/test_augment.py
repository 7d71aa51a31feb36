"""Chapter 07 against the reference: check values at fixed percentiles, arrays (tests/data/ada.npz), the controller (ada_controller.npz)."""
from pathlib import Path

import numpy as np
import pytest
import torch

from semgan_nb.augment import PIPES, AdaController, AugmentPipe, augment_pipe

data = Path(__file__).parent / "data"
noise = torch.tensor(np.random.RandomState(7).rand(2, 1, 32, 32) * 2 - 1, dtype=torch.float32)


def pipe(name, p=1.0):
    a = augment_pipe(name) if name in PIPES else AugmentPipe(**{name: 1})
    a.p.fill_(p)
    return a


@pytest.mark.parametrize("name, q, mean, std, first, other", [
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
])
def test_check_values(name, q, mean, std, first, other):
    y = pipe(name)(noise, percentile=q)
    got = [y.mean(), y.std(), *y[0, 0, 0, :3], y[1, 0, 16, 16]]
    assert np.allclose([float(v) for v in got], [mean, std, *first, other], atol=1e-4)


@pytest.mark.parametrize("name", ["blit", "geom", "bg"])
def test_reference_images(name):
    gold = np.load(data / "ada.npz")
    x = torch.from_numpy(gold["grey_input"])
    for q, want in zip(gold["percentiles"], gold[f"grey_{name}"]):
        assert (pipe(name)(x, percentile=float(q))[0] - torch.from_numpy(want)).abs().max() < 1e-4


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
