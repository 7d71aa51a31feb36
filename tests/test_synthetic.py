"""Chapter 02: random fields, dual-phase steel, Otsu's fraction."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from semgan_nb.micrographs import BadInput
from semgan_nb.synthetic import dual_phase, grf, iter_specimens, otsu_threshold, phase_fraction, specimens


def test_grf_statistics():
    field = grf(np.random.default_rng(0), (512, 768), 9, 25)
    assert field.shape == (512, 768) and abs(field.mean()) < 1e-9 and field.std() == pytest.approx(1)
    assert (field[:, 6:] * field[:, :-6]).mean() == pytest.approx(np.exp(-36 / 100), abs=0.05)
    assert (field[6:] * field[:-6]).mean() == pytest.approx(np.exp(-36 / 36), abs=0.05)
    turned = grf(np.random.default_rng(0), (512, 512), 4, 100, angle=np.pi / 2)
    assert (turned[8:] * turned[:-8]).mean() > 0.7 > 0.3 > (turned[:, 8:] * turned[:, :-8]).mean()
    diagonal = grf(np.random.default_rng(0), (512, 512), 4, 100, angle=np.pi / 4)      # runs from top left to bottom right
    assert (diagonal[8:, 8:] * diagonal[:-8, :-8]).mean() > (diagonal[8:, :-8] * diagonal[:-8, 8:]).mean() + 0.3


def test_grf_tiles_or_not():
    seam = lambda f: np.abs(f[:, 0] - f[:, -1]).mean() / np.abs(np.diff(f, axis=1)).mean()
    assert seam(grf(np.random.default_rng(0), (128, 128), 16, tile=True)) < 2
    assert seam(grf(np.random.default_rng(0), (128, 128), 16)) > 4


@pytest.mark.parametrize("size", [32, 64, 100])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.37, 0.9, 1.0])
def test_fraction_is_exact(size, fraction):
    image, phase = dual_phase(np.random.default_rng(0), size, fraction)
    assert image.shape == phase.shape == (size, size) and image.dtype == np.uint8 and phase.dtype == bool
    assert phase.sum() == round(fraction * size * size)
    if 0 < fraction < 1:
        assert image[phase].mean() > image[~phase].mean() + 60


def test_specimens_are_seeded_and_a_prefix_of_more():
    a, b, c = specimens(40, 32), specimens(70, 32), specimens(40, 32, seed=1)
    assert all((x == y[:40]).all() for x, y in zip(a, b)) and (a[0] != c[0]).any()
    assert (a[2] == np.arange(40) % 30).all()


def test_workers_make_the_same_images():
    one, two = (list(iter_specimens(70, 64, n_specimens=7, workers=w)) for w in (1, 2))
    assert [s for _, _, s in one] == [s for _, _, s in two] == [k % 7 for k in range(70)]
    assert all((a == b).all() and (p == q).all() for (a, p, _), (b, q, _) in zip(one, two))
    begun = iter_specimens(10**6, 64, workers=2)
    next(begun)
    begun.close()                                      # does not go on to the million


def test_specimens_differ_in_fraction():
    _, maps, specimen = specimens(240, 32, n_specimens=8, fractions=(0.37, 1.0))
    means = [maps[specimen == s].mean() for s in range(8)]
    assert np.allclose(means, np.linspace(0.37, 1.0, 8), atol=0.03)
    assert all(0 < maps[specimen == s].mean((1, 2)).std() < 0.05 for s in range(7))


def test_same_field_at_any_size():
    """Islands keep their share of the image: the correlation at an eighth of the side agrees between sizes."""
    def correlation(size):
        maps = specimens(60, size)[1].astype(float)
        maps -= maps.mean((1, 2), keepdims=True)
        d = size // 8
        return (maps[:, :, d:] * maps[:, :, :-d]).mean() / maps.var()
    assert correlation(32) == pytest.approx(correlation(64), abs=0.06)


def test_lamellae_are_straight():
    """A packet's lamellae are one plane wave: the spectrum of a martensitic image has a few sharp peaks at their period."""
    image = dual_phase(np.random.default_rng(2), 64, 1.0, packet_um=50.0, noise=1.0)[0].astype(float)
    power = np.abs(np.fft.rfft2((image - image.mean()) * np.outer(np.hanning(64), np.hanning(64))))**2
    fy, fx = np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None]
    radius = np.hypot(fy, fx)
    ring = (radius > 1 / 9.5) & (radius < 1 / 5.5)
    assert np.sort(power[ring])[-24:].sum() > 0.8 * power[radius > 0.05].sum()


def test_otsu():
    rng = np.random.default_rng(0)
    for image in [*specimens(30, 32)[0], rng.integers(0, 256, (40, 40)).astype(np.uint8)]:
        assert otsu_threshold(image) == threshold_otsu(image)
    two = np.repeat(np.array([10, 200], np.uint8), [30, 70])[None]
    assert phase_fraction(two) == 0.7 and phase_fraction(np.full((4, 4), 3, np.uint8)) == 0


def test_fraction_is_measured_well():
    images, maps, _ = specimens(90, 32)
    error = [phase_fraction(i) - m.mean() for i, m in zip(images, maps)]
    assert np.abs(error).mean() < 0.02 and abs(np.mean(error)) < 0.01


def test_bad_arguments():
    for call in (lambda: dual_phase(np.random.default_rng(0), 32, 1.2), lambda: specimens(0, 32), lambda: iter_specimens(5, 32, workers=0)):
        with pytest.raises(BadInput):
            call()
