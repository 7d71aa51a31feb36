"""Chapter 14: large sets of synthetic micrographs. The single ones: tests/unit/test_synthetic.py."""

import tracemalloc

import numpy as np

from semgan_nb.synthetic import iter_specimens, phase_fraction


def test_workers_make_the_same_images():
    one, two = (list(iter_specimens(70, 64, n_specimens=7, workers=w)) for w in (1, 2))
    assert [s for _, _, s in one] == [s for _, _, s in two] == [k % 7 for k in range(70)]
    assert all((a == b).all() and (p == q).all() for (a, p, _), (b, q, _) in zip(one, two))
    begun = iter_specimens(10**6, 64, workers=2)
    next(begun)
    begun.close()  # does not go on to the million


def test_the_paper_s_specimens():
    """Martensite from 0.37 to 1.0 over thirty specimens; every image of a large field within 0.01 of its specimen,
    and Otsu within 0.01 of it up to 0.95."""
    target = np.linspace(0.37, 1.0, 30)
    for image, phase, specimen in iter_specimens(60, 256, fractions=(0.37, 1.0), field_um=50.8, kind="grains"):
        assert abs(phase.mean() - target[specimen]) < 0.01
        if target[specimen] < 0.95:
            assert abs(phase_fraction(image) - target[specimen]) < 0.01
        if specimen == 29:
            assert phase.all()


def test_memory_stays_flat():
    def peak(n):
        tracemalloc.start()
        for _ in iter_specimens(n, 64):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(16)
    assert peak(256) < 1.3 * peak(128)
