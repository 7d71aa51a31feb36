"""Chapter 14: random fields, dual-phase steel, Otsu's fraction."""

import time

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from semgan_nb.foundation import BadInput
from semgan_nb.synthetic import _cells, _cut, dual_phase, grf, iter_specimens, otsu_threshold, phase_fraction, specimens


def test_grf_statistics():
    field = grf(np.random.default_rng(0), (512, 768), 9, 25)
    assert field.shape == (512, 768) and abs(field.mean()) < 1e-9 and field.std() == pytest.approx(1)
    assert (field[:, 6:] * field[:, :-6]).mean() == pytest.approx(np.exp(-36 / 100), abs=0.05)
    assert (field[6:] * field[:-6]).mean() == pytest.approx(np.exp(-36 / 36), abs=0.05)
    turned = grf(np.random.default_rng(0), (512, 512), 4, 100, angle=np.pi / 2)
    assert (turned[8:] * turned[:-8]).mean() > 0.7 > 0.3 > (turned[:, 8:] * turned[:, :-8]).mean()
    diagonal = grf(np.random.default_rng(0), (512, 512), 4, 100, angle=np.pi / 4)  # runs from top left to bottom right
    assert (diagonal[8:, 8:] * diagonal[:-8, :-8]).mean() > (diagonal[8:, :-8] * diagonal[:-8, 8:]).mean() + 0.3


def test_grf_tiles_or_not():
    seam = lambda f: np.abs(f[:, 0] - f[:, -1]).mean() / np.abs(np.diff(f, axis=1)).mean()
    assert seam(grf(np.random.default_rng(0), (128, 128), 16, tile=True)) < 2
    assert seam(grf(np.random.default_rng(0), (128, 128), 16)) > 4


def test_grf_of_any_shape_and_precision():
    for shape in ((7, 9), (64, 31), (33, 64)):
        for var in (0, 0.1, 50):  # white noise to one hill
            field = grf(np.random.default_rng(0), shape, var, tile=True)
            assert field.shape == shape and np.isfinite(field).all() and field.std() == pytest.approx(1)
    assert grf(np.random.default_rng(0), (32, 32), 4, dtype=np.float32).dtype == np.float32
    white = grf(np.random.default_rng(0), (256, 256), 0, tile=True)
    power = np.abs(np.fft.fft2(white)) ** 2
    assert power[:, 0].mean() == pytest.approx(power.mean(), rel=0.25) and power[:, 128].mean() == pytest.approx(
        power.mean(), rel=0.25
    )
    assert (white[:, 1:] * white[:, :-1]).mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("uneven", [0.0, 1.2])
def test_cells_belong_to_the_nearest_centre(tile, uneven):
    """Against all distances of all pixels; weights cannot be seen from outside, so only unweighted cells are
    compared pixel by pixel."""
    label, parent, centres, beyond, border = _cells(
        np.random.default_rng(1), (90, 70), 12, uneven=uneven, tile=tile, borders=True
    )
    y, x = np.mgrid[:90, :70].reshape(2, -1, 1)
    d = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2
    if not uneven:
        assert (d.argmin(1) == label.ravel()).mean() > 0.999
    assert (border >= 0).all() and border.max() <= np.float32(0.4 * 12) and (label != beyond).all()
    edge = label[:, 1:] != label[:, :-1]
    assert (np.minimum(border[:, 1:], border[:, :-1])[edge] < 0.75).all()  # a border passes between such pixels
    if tile:
        area = np.bincount(parent[label].ravel(), minlength=parent.max() + 1)
        assert area.sum() == 90 * 70 and (area > 0).mean() > 0.9


@pytest.mark.parametrize("kind", ["islands", "grains"])
@pytest.mark.parametrize("size", [32, 64, 100])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.37, 0.9, 1.0])
def test_fraction_is_exact(size, fraction, kind):
    image, phase = dual_phase(np.random.default_rng(0), size, fraction, kind=kind)
    assert image.shape == phase.shape == (size, size) and image.dtype == np.uint8 and phase.dtype == bool
    assert phase.sum() == round(fraction * size * size)
    if 0 < fraction < 1:
        assert image[phase].mean() > image[~phase].mean() + 60


def test_equal_heights_are_cut_exactly():
    phase, _ = _cut(np.zeros((10, 10), np.float32), 0.37)
    assert phase.sum() == 37


@pytest.mark.parametrize("kind", ["islands", "grains"])
def test_tiles_have_no_seam(kind):
    for seed in range(3):
        image, phase = (
            a.astype(float) for a in dual_phase(np.random.default_rng(seed), 100, 0.5, 10, kind, tile=True, noise=0)
        )
        for a in (image, phase):
            for axis in (0, 1):
                step = np.abs(np.diff(a, axis=axis)).mean(1 - axis)
                seam = np.abs(a.take(0, axis) - a.take(-1, axis)).mean()
                assert seam < step.max() * 1.2
    alone = [dual_phase(np.random.default_rng(seed), 100, 0.5, 10, kind)[1].astype(float) for seed in range(10)]
    assert np.mean([np.abs(m[:, 0] - m[:, -1]).mean() for m in alone]) > 0.3


def test_grains_look():
    """Ferrite is darker, even, with brighter boundaries; martensite is lighter, with laths; brightness varies little
    between images."""
    image, phase = dual_phase(np.random.default_rng(0), 256, 0.5, 25.4, "grains", shading=0)
    light, dark = image[phase].astype(float), image[~phase].astype(float)
    assert 90 < light.mean() - dark.mean() < 140 and 12 < light.std() < 32
    plain, lined = (
        dual_phase(np.random.default_rng(0), 256, 0.1, 25.4, "grains", boundary=b, noise=0, shading=0) for b in (0, 0.4)
    )
    change = lined[0].astype(float) - plain[0]
    assert (lined[1] == plain[1]).all() and 0.005 < (change > 8).mean() < 0.1
    decorated, free = (
        dual_phase(np.random.default_rng(0), 256, 0.1, 25.4, "grains", decoration=d, whole=0, blocks=0)[1]
        for d in (3, 0)
    )
    pieces = lambda m: np.abs(np.diff(m.astype(int), axis=0)).sum()
    assert (decorated != free).mean() > 0.05 and pieces(decorated) > 0


def test_grains_are_larger_than_packets():
    size = lambda **how: (lambda m: (m[:, 20:] == m[:, :-20]).mean())(
        dual_phase(np.random.default_rng(4), 256, 0.5, 25.4, "grains", **how)[1]
    )
    assert size(grain_um=10.0, packet_um=6.0) > size(grain_um=3.0, packet_um=1.5) + 0.05


def test_specimens_are_seeded_and_a_prefix_of_more():
    a, b, c = specimens(40, 32), specimens(70, 32), specimens(40, 32, seed=1)
    assert all((x == y[:40]).all() for x, y in zip(a, b)) and (a[0] != c[0]).any()
    assert (a[2] == np.arange(40) % 30).all()


def test_speed():
    """3000 images of 512 px in four minutes on two cores leave 0.16 s of processor for one; half of it is generous
    for PNG and ZIP."""
    rng = np.random.default_rng(0)
    dual_phase(rng, 512, 0.5, 50.8, "grains")
    times = []
    for _ in range(5):
        start = time.process_time()
        dual_phase(rng, 512, 0.6, 50.8, "grains")
        times.append(time.process_time() - start)
    assert min(times) < 0.16


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
    """A packet's lamellae are one plane wave: the spectrum of a martensitic image has a few sharp peaks at their
    period."""
    image = dual_phase(np.random.default_rng(2), 64, 1.0, packet_um=50.0, noise=1.0)[0].astype(float)
    power = np.abs(np.fft.rfft2((image - image.mean()) * np.outer(np.hanning(64), np.hanning(64)))) ** 2
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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda rng: dual_phase(rng, 32, 1.2), "1.2"),
        (lambda rng: dual_phase(rng, 4, 0.5), "size: 4"),
        (lambda rng: grf(rng, (8, 8), 10000, tile=True), "8 x 8"),
        (lambda rng: dual_phase(rng, 32, 0.5, 0), "field_um: 0"),
        (lambda rng: dual_phase(rng, 32, 0.5, kind="bainite"), "'bainite'.*islands, grains"),
        (lambda rng: dual_phase(rng, 32, 0.5, kind="islands", lath_um=1), "lath_um.*island_um"),
        (lambda rng: specimens(0, 32), "0 images"),
        (lambda rng: iter_specimens(5, 32, workers=0), "workers: 0"),
        (lambda rng: iter_specimens(5, 32, fractions=(0.3, 1.1)), "fractions.*1.1"),
        (lambda rng: iter_specimens(5, 32, field_um=-1), "field_um: -1"),
        (lambda rng: list(iter_specimens(40, 64, workers=2, kind="bainite")), "bainite"),  # through a process
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(BadInput, match=words):
        call(np.random.default_rng(0))
