"""Physical descriptors against mathematics."""
import numpy as np
import pytest

from semgan_nb.micrographs import BadInput
from semgan_nb.microstructure import (characteristic_length, directions, fraction_quantiles, leak_meter, grey_stack, phase_fractions, power_spectrum, radial_mean,
                                      radial_spectrum, two_point, two_point_map)
from semgan_nb.synthetic import grf


def by_pairs(m, periodic):
    """Two-point correlation by definition: dict (dy, dx) -> mean of products over all pairs."""
    h, w = m.shape
    out = {}
    for dy in range(-(h // 2) if periodic else 1 - h, h - h // 2 if periodic else h):
        for dx in range(-(w // 2) if periodic else 1 - w, w - w // 2 if periodic else w):
            if periodic:
                out[dy, dx] = (m * np.roll(m, (-dy, -dx), (0, 1))).mean()
            else:
                here = m[max(0, -dy):h - max(0, dy), max(0, -dx):w - max(0, dx)]
                there = m[max(0, dy):h - max(0, -dy), max(0, dx):w - max(0, -dx)]
                out[dy, dx] = (here * there).mean()
    return out


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (8, 6), (1, 4)])
def test_two_point_map_is_the_mean_over_pairs(shape, periodic):
    m = (np.random.default_rng(0).random(shape) < 0.5).astype(float)
    found = two_point_map(m, periodic)
    assert found.shape == (shape if periodic else (2 * shape[0] - 1, 2 * shape[1] - 1))
    for (dy, dx), value in by_pairs(m, periodic).items():
        assert found[found.shape[0] // 2 + dy, found.shape[1] // 2 + dx] == pytest.approx(value, abs=1e-12)


def test_two_point_begins_at_the_fraction_and_ends_at_its_square():
    maps = np.random.default_rng(1).random((10, 96, 64)) < np.linspace(0.2, 0.8, 10)[:, None, None]
    s2, f = two_point(maps), maps.mean((1, 2))
    assert s2.shape == (10, 33)
    assert s2[:, 0] == pytest.approx(f)
    assert np.abs(s2[:, 1:] - f[:, None]**2).max() < 0.02
    assert two_point(maps[3], max_r=20) == pytest.approx(s2[3, :21])


def test_two_point_of_stripes_is_a_triangle_wave():
    stripes = np.tile(np.arange(40) % 10 < 5, (40, 1))
    along = two_point_map(stripes, periodic=True)[20, 20:]
    r = np.arange(20)
    assert along == pytest.approx(np.abs((r % 10) - 5) / 10)
    assert two_point_map(stripes, periodic=True)[20:, 20] == pytest.approx(0.5)


def test_two_point_slope_is_the_boundary_length():
    """S2'(0) = -s / pi with s the length of boundary per area, here of discs on a lattice."""
    n, radius = 400, 60
    y, x = np.mgrid[:n, :n] - n / 2 + 0.5
    s2 = two_point(x**2 + y**2 < radius**2, periodic=True, max_r=10)
    slope = np.polyfit(np.arange(2, 9), s2[2:9], 1)[0]
    assert slope == pytest.approx(-(2 * np.pi * radius / n**2) / np.pi, rel=0.03)


def test_radial_mean_of_a_cone():
    y, x = np.arange(21) - 10, np.arange(31) - 15
    cone = np.hypot(y[:, None], x)
    rings = radial_mean(np.stack([cone, 2 * cone]), (10, 15), 9)
    assert rings.shape == (2, 9)
    assert np.abs(rings[0] - np.arange(9)).max() < 0.25 and rings[1] == pytest.approx(2 * rings[0])


def test_parseval():
    images = np.random.default_rng(2).integers(0, 256, (70, 24, 18), dtype=np.uint8)
    assert power_spectrum(images).mean() == pytest.approx(images.var((1, 2)).mean())


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (96, 64)])
def test_a_wave_is_found_at_its_frequency(shape):
    wave = 128 + 100 * np.cos(2 * np.pi * np.arange(shape[1]) / 8) * np.ones((shape[0], 1))
    frequency, level = radial_spectrum(wave)
    assert frequency[0] == pytest.approx(1 / 64) and frequency[-1] == 0.5 and len(frequency) == 32
    assert frequency[level.argmax()] == pytest.approx(1 / 8)
    assert np.sort(level)[-2] < -5.9


def test_white_noise_is_flat():
    noise = np.random.default_rng(3).normal(128, 10, (300, 32, 32))
    assert np.abs(radial_spectrum(noise)[1] - 2).max() < 0.03


def test_flat_images_have_a_floor():
    assert (radial_spectrum(np.full((2, 16, 16), 7, np.uint8))[1] == -6).all()


def test_phase_fractions_of_two_levels():
    images = np.full((5, 1, 20, 20), 50, np.uint8)
    for image, rows in zip(images, (2, 5, 10, 15, 18)):
        image[0, :rows] = 200
    assert phase_fractions(images) == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9])
    assert fraction_quantiles(images) == pytest.approx(np.quantile([0.1, 0.25, 0.5, 0.75, 0.9], (0.05, 0.5, 0.95)))
    assert fraction_quantiles(images[:, 0]) == fraction_quantiles(np.repeat(images, 3, 1)) == fraction_quantiles(images)


def test_shapes():
    assert grey_stack(np.zeros((4, 5))).shape == (1, 4, 5)
    assert grey_stack(np.zeros((2, 1, 4, 5))).shape == grey_stack(np.zeros((2, 3, 4, 5))).shape == (2, 4, 5)
    for shape in ((4,), (0, 4, 5), (1, 1, 1, 4, 5)):
        with pytest.raises(BadInput, match="cannot be measured"):
            grey_stack(np.zeros(shape))


def test_a_window_takes_leakage_away():
    ramp = np.tile(np.linspace(0, 200, 64), (64, 1))
    plain, faded = radial_spectrum(ramp)[1], radial_spectrum(ramp, window=True)[1]
    assert faded[-1] < plain[-1] - 2
    noise = np.random.default_rng(4).normal(0, 10, (300, 32, 32))
    assert np.abs(radial_spectrum(noise, window=True)[1] - 2)[2:].max() < 0.05


def textured(n, seed, stretch=1.0, angle=0.0, var=4):
    rng = np.random.default_rng(seed)
    fields = [grf(rng, (64, 64), var, var * stretch**2, angle, tile=True) for _ in range(n)]
    return np.clip(128 + 40 * np.stack(fields), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2])
def test_directions_are_those_of_the_field(angle):
    angles, share = directions(textured(20, 1, stretch=3, angle=angle))  # grf counts clockwise
    double = np.exp(2j * np.radians(angles)) @ share
    off = (np.degrees(np.angle(double)) / 2 + np.degrees(angle) + 90) % 180 - 90
    assert abs(off) < 4 and share.sum() == pytest.approx(1)


def test_lengths_scale_and_turning_by_a_quarter_swaps_directions():
    assert characteristic_length(textured(40, 2, var=9)) / characteristic_length(textured(40, 2, var=2.25)) == pytest.approx(2, rel=0.1)
    rows = textured(20, 3, stretch=3)
    assert np.allclose(np.roll(directions(rows)[1], 9), directions(rows.transpose(0, 2, 1)[:, :, ::-1])[1], atol=0.01)


def test_leak_meter_tells_what_changed():
    real = textured(80, 4, stretch=2)
    same = leak_meter(real, textured(80, 5, stretch=2))
    assert not any(one["leaks"] for one in same.values())
    turned = leak_meter(real, textured(80, 5, stretch=2, angle=1.2))
    assert turned["direction"]["leaks"] and not turned["grey"]["leaks"]
    brighter = leak_meter(real, (textured(80, 5, stretch=2) * 0.8 + 40).astype(np.uint8))
    assert brighter["grey"]["leaks"] and not brighter["direction"]["leaks"]
    assert leak_meter(real, textured(80, 5, stretch=1))["direction"]["leaks"]
    larger = np.kron(real[:, :32, :32], np.ones((1, 2, 2))).astype(np.uint8)
    assert leak_meter(real, larger)["length"]["leaks"]
    with pytest.raises(BadInput, match="at least 4"):
        leak_meter(real[:3], real)
