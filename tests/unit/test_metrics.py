"""The Fréchet distance against check values, SciPy and golden numbers; the judge, its ladder, and what it refuses."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from made_up_sets import crops
from reference_tools import tool

import semgan_nb.distances as distances
from semgan_nb import evaluation, plots
from semgan_nb.extractors import Inception, get_extractor
from semgan_nb.weights import find_weights
from semgan_nb.same_material import compare
from semgan_nb.distances import (
    FeatureSet,
    blur,
    in_manifold,
    extrapolate,
    feature_statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    mmd2_unbiased,
    knn_radii_squared,
    path_length,
    precision_recall,
)
from semgan_nb.scores import (
    best_record,
    higher_is_better,
    between_rungs,
    closer_than,
    headline,
    metric_name,
    parse_metric,
    summary,
    quantity,
)
from semgan_nb.reference_sets import distinct_indices, phase_randomise, floor_of, warnings_of
from semgan_nb.evaluation import score
from semgan_nb.foundation import BadInput, format_duration
from semgan_nb.descriptors import power_spectrum
from semgan_nb.networks import Generator

GOLDEN = Path(__file__).parents[1] / "data" / "metrics_fid.npz"


def by_sqrtm(a, b):
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (a, b))
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * sqrtm(sigma1 @ sigma2).real)


def test_check_value():
    real = np.float32(np.random.RandomState(0).randn(300, 16))
    gen = np.float32(np.random.RandomState(1).randn(500, 16) * 0.9 + 0.2)
    d = frechet_distance(*feature_statistics(real), *feature_statistics(gen))
    assert d == pytest.approx(1.331173, abs=1e-6)
    assert d == pytest.approx(by_sqrtm(real, gen), abs=1e-9)
    assert d == pytest.approx(frechet_distance(*feature_statistics(gen), *feature_statistics(real)), abs=1e-9)


def test_golden_numbers():
    with np.load(GOLDEN) as golden:
        real, gen, fid, small = (golden[key] for key in ("real", "gen", "fid", "fid_40_45"))
    assert FeatureSet(real).distance(FeatureSet(gen)) == pytest.approx(float(fid), rel=1e-7)
    few, fewer = FeatureSet(real[:40]), FeatureSet(gen[:45])
    assert few.centred is not None
    assert few.distance(fewer) == pytest.approx(float(small), rel=1e-6)
    assert frechet_distance(*few.gaussian(), *fewer.gaussian()) == pytest.approx(float(small), rel=1e-6)


def test_statistics_divide_by_n():
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    mu, sigma = feature_statistics(x)
    assert mu.dtype == sigma.dtype == np.float64
    assert sigma == pytest.approx(np.cov(x, rowvar=False, bias=True), abs=1e-9) and mu == pytest.approx(
        x.mean(0), abs=1e-6
    )


@pytest.mark.parametrize("n, m", [(5, 9), (9, 5), (5, 50), (50, 5), (50, 60), (2, 2)])
def test_feature_sets_agree_with_the_plain_formula(n, m):
    rng = np.random.default_rng(n * m)
    a, b = rng.normal(size=(n, 16)), rng.normal(0.3, 1.2, size=(m, 16))
    expected = frechet_distance(*feature_statistics(a), *feature_statistics(b))
    assert FeatureSet(a).distance(FeatureSet(b)) == pytest.approx(expected, abs=1e-6)
    assert FeatureSet(statistics=feature_statistics(a)).distance(FeatureSet(b)) == pytest.approx(expected, abs=1e-6)
    assert FeatureSet(a).distance(FeatureSet(a)) == pytest.approx(0, abs=1e-6)


def test_a_shift_costs_its_square():
    a = np.random.default_rng(0).normal(size=(400, 8))
    assert FeatureSet(a).distance(FeatureSet(a + 0.5)) == pytest.approx(8 * 0.25)


@pytest.mark.parametrize(
    "name, fields",
    [
        ("lite0_fd500_holdout", ("lite0", "fd", 500, "holdout")),
        ("random_fd1k_full", ("random", "fd", 1000, "full")),
        ("random_fd2_subset", ("random", "fd", 2, "subset")),
    ],
)
def test_metric_names_round_trip(name, fields):
    assert parse_metric(name)[:4] == fields and parse_metric(name).name == name


@pytest.mark.parametrize(
    "name, says",
    [
        ("fid_full", "no metric 'fid_full'"),
        ("lite1_fd500_full", "extractor 'lite1'"),
        ("lite0_fid500_full", "statistic 'fid'"),
        ("lite0_fd500_test", "real side 'test'"),
        ("lite0_fd0_full", "at least 2"),
        ("lite0_fd_full", "no metric"),
    ],
)
def test_unknown_metrics_are_refused(name, says):
    with pytest.raises(BadInput, match=says):
        parse_metric(name)


def test_blur_and_phase_randomisation():
    images = np.random.default_rng(0).integers(60, 190, (3, 1, 16, 24), dtype=np.uint8)
    assert (blur(np.full((1, 3, 8, 8), 99, np.uint8), 2) == 99).all()
    assert blur(images, 1).std() < 0.6 * images.std() and blur(images, 1).dtype == np.uint8
    smooth = blur(images, 1)
    mixed = phase_randomise(smooth, np.random.default_rng(0))
    assert mixed.shape == smooth.shape and np.abs(mixed.mean((1, 2, 3)) - smooth.mean((1, 2, 3))).max() < 0.1
    low = power_spectrum(mixed)[:4, :4].ravel()[1:] / power_spectrum(smooth)[:4, :4].ravel()[1:]
    assert np.abs(np.log10(low)).max() < 0.1
    assert abs(np.corrcoef(mixed.ravel(), smooth.ravel())[0, 1]) < 0.4
    rgb = phase_randomise(np.repeat(smooth, 3, 1), np.random.default_rng(0))
    assert (rgb == mixed).all()


def test_distinct_images_are_spread_over_groups():
    groups = list("aaaaabbbc")
    assert [groups[i] for i in distinct_indices(groups, 3)] == ["a", "b", "c"]
    assert [groups[i] for i in distinct_indices(groups, 6)] == ["a", "b", "c", "a", "b", "a"]


def blobs(n, seed):
    """Smooth random images with a texture that blur removes."""
    rng = np.random.default_rng(seed)
    coarse = blur(rng.integers(0, 256, (n, 1, 32, 32), dtype=np.uint8), 2).astype(float)
    return np.clip((coarse - 128) * 4 + 128 + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def test_between_rungs_in_words():
    ladder = dict(
        rungs=[
            dict(key="floor", name="other real images", value=11.8),
            dict(key="blur0.5", name="blurred 0.5 px", value=19.0),
            dict(key="blur2", name="blurred 2 px", value=299.0),
            dict(key="distinct100", name="100 distinct images", value=49.0),
        ]
    )
    assert between_rungs(ladder, 43) == "between 'blurred 0.5 px' (19) and '100 distinct images' (49)"
    assert between_rungs(ladder, 3) == "below the lowest rung, 'other real images' (11.8)"
    assert between_rungs(ladder, 300) == "above the highest rung, 'blurred 2 px' (299)"
    assert closer_than(ladder, 43) == ["blur2", "distinct100"]


def test_the_last_bin_does_not_decide():
    real = blobs(100, 0)
    column = np.where(np.arange(32) % 2, 9, -9)
    result = compare(real, np.clip(real + column, 0, 255).astype(np.uint8))
    assert result["spectrum"]["last"] > 0.1 and result["spectrum"]["largest"] < 0.1 and result["spectrum"]["reached"]


def test_times_in_words():
    assert [evaluation._time_text(s) for s in (45, 123, 3723, 93780)] == ["45s", "2m 03s", "1h 02m 03s", "1d 02h 03m"]
    assert [format_duration(s) for s in (40, 1e6, float("inf"))] == ["40 s", "12 days", "inf days"]
    assert [format_duration(s, fine=True) for s in (40, 200, 93780)] == ["40 s", "3 min 20 s", "1 d 2 h"]


# Kernel distance, precision and recall, inception score.

CHECK = (
    np.float32(np.random.RandomState(0).randn(300, 16)),
    np.float32(np.random.RandomState(1).randn(500, 16) * 0.9 + 0.2),
)


def test_check_values_of_all():
    real, gen = CHECK
    assert mmd2_unbiased(real, gen) == pytest.approx(0.171263, abs=1e-6)
    assert kernel_distance(real, gen)[0] == pytest.approx(0.171574, abs=1e-6) and kernel_distance(real, gen, size=50)[
        0
    ] == pytest.approx(0.174134, abs=1e-6)
    assert precision_recall(real, gen) == (0.882, 0.62)
    p = np.exp(gen) / np.exp(gen).sum(1, keepdims=True)
    assert inception_score(p) == pytest.approx((1.401895, 0.022891), abs=1e-6)


class Stored(np.random.RandomState):
    """Draws the stored rows, generated ones first."""

    def __init__(self, gen, real):
        super().__init__(0)
        self.rows = [row for pair in zip(gen, real) for row in pair]

    def choice(self, n, size, replace):
        assert not replace and len(self.rows[0]) == size
        return self.rows.pop(0).astype(np.int64)


def golden():
    with np.load(GOLDEN) as first, np.load(GOLDEN.with_name("metrics_kid_pr.npz")) as second:
        return {**first, **second}


@pytest.mark.parametrize("name, size", [("kid_100x100", 100), ("kid_20x300", 300), ("kid_full", 1000)])
def test_golden_kernel_distances(name, size, monkeypatch):
    g = golden()
    rows = g[f"{name}_idx_gen"], g[f"{name}_idx_real"]
    kid = lambda **how: kernel_distance(g["real"], g["gen"], len(rows[0]), size, Stored(*rows), **how)[0]
    assert kid(single=True) == pytest.approx(float(g[name]), rel=1e-6)
    exact = kid()
    assert exact == pytest.approx(float(g[name]), rel=2e-5)  # its float32 sums are off by that
    monkeypatch.setattr(
        distances, "max", lambda *sizes: 10**9, raising=False
    )  # as where the whole table of kernel values would be too large
    assert kid() == pytest.approx(exact, rel=1e-9)


def test_golden_precision_and_recall():
    g = golden()
    assert precision_recall(g["real"], g["gen"], int(g["pr_k"])) == pytest.approx(tuple(g["pr_f32"]), abs=1e-6)
    assert precision_recall(g["real"], g["gen"], int(g["pr_k"]), half=True) == pytest.approx(
        tuple(g["pr_f16"]), abs=1e-6
    )


def test_global_generators_are_left_alone():
    before, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert kernel_distance(*CHECK) == kernel_distance(*CHECK) != kernel_distance(*CHECK, seed=1)
    assert (np.random.get_state()[1] == before).all() and torch.equal(torch.get_rng_state(), torch_state)


def test_tiles_change_nothing():
    real, gen = CHECK
    assert mmd2_unbiased(real, gen, tile=37) == pytest.approx(mmd2_unbiased(real, gen), rel=1e-12)
    a, b = (torch.from_numpy(x) for x in CHECK)
    for k in (1, 3, 5):
        radii = knn_radii_squared(a, k, tile=7)
        assert torch.equal(radii, knn_radii_squared(a, k))
        expected = np.sort(
            np.where(np.eye(300, dtype=bool), np.inf, ((real[:, None].astype(float) - real[None]) ** 2).sum(2)), 1
        )[:, k - 1]
        assert radii.numpy() == pytest.approx(expected, rel=1e-9)
        assert torch.equal(in_manifold(b, a, radii, tile=7), in_manifold(b, a, radii))


def by_definition(points, centres, k=3):
    a, b = points.astype(float), centres.astype(float)
    d = ((b[:, None] - b[None]) ** 2).sum(2)
    np.fill_diagonal(d, np.inf)
    return float((((a[:, None] - b[None]) ** 2).sum(2) <= np.sort(d, 1)[:, k - 1]).any(1).mean())


@pytest.mark.parametrize("far", [0, 1000])
def test_duplicates_and_points_on_the_rim(far):
    """Copies are in_manifold by balls of radius zero, also far from the origin, where float32 products of rows are off."""
    rng = np.random.default_rng(0)
    real = (rng.integers(-2, 3, (200, 64)) + far).astype(np.float32)
    copies = np.repeat(real[:12], 10, 0)
    near = copies + np.float32(0.25)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(copies, copies[::10]) == (1.0, 1.0)
    p, r = precision_recall(copies, near)
    assert p == 0.0 and r == 0.0
    assert precision_recall(real, copies) == (1.0, 12 / 200)
    fresh = (rng.integers(-2, 3, (150, 64)) + far).astype(np.float32)  # on a lattice many distances are equal
    assert precision_recall(real, fresh) == pytest.approx(
        (by_definition(fresh, real), by_definition(real, fresh)), abs=1e-12
    )


def test_inception_scores_of_known_answers():
    assert inception_score(np.eye(10)[np.arange(200) % 10]) == pytest.approx((10, 0))
    assert inception_score(np.full((100, 7), 1 / 7))[0] == pytest.approx(1)
    assert np.isnan(inception_score(np.full((5, 7), 1 / 7))[0])


@pytest.mark.skipif(
    "SEMGAN_WEIGHTS" not in os.environ,
    reason="SEMGAN_WEIGHTS does not name a folder with fid-inception-2015-12-05-through-mixed7a.npz",
)
@pytest.mark.parametrize(
    "preprocessing, near, far", [("tensorflow", 0.030018, 2.402023), ("pytorch-fid", 0.030062, 2.400898)]
)
def test_published_values_at_768_dimensions(preprocessing, near, far):
    from skimage import data

    network = Inception(
        path=find_weights("inception768", os.environ["SEMGAN_WEIGHTS"]), dim=768, preprocessing=preprocessing
    )
    gravel, gravel2, grass = (
        network(crops(texture, seed, 299))
        for texture, seed in ((data.gravel(), 1), (data.gravel(), 2), (data.grass(), 3))
    )
    for other, expected in ((gravel2, near), (grass, far)):
        (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (gravel, other))
        assert frechet_distance(mu1, sigma1 * 60 / 59, mu2, sigma2 * 60 / 59) == pytest.approx(expected, abs=3e-6)
    assert FeatureSet(gravel).distance(FeatureSet(gravel)) == pytest.approx(0, abs=1e-6)
    assert kernel_distance(gravel, grass, 50, 30)[0] == pytest.approx(0.008998, abs=2e-5)
    assert abs(kernel_distance(gravel, gravel2, 50, 30)[0]) < 5e-6
    assert precision_recall(gravel2, gravel) == pytest.approx((0.9167, 0.8667), abs=1e-4) and precision_recall(
        grass, gravel
    ) == (0, 0)


def test_torch_fidelity_gives_the_same_from_the_same_features(tmp_path):
    """Kernel distance, precision and recall, inception score and Fréchet distance of its functions on our features."""
    tool("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kernel_mmd
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, gen = (torch.from_numpy(x[:300]) for x in CHECK)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(gen), fid_features_to_statistics(real), False)[
        "frechet_inception_distance"
    ]
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (real, gen))
    assert frechet_distance(mu1, sigma1 * 300 / 299, mu2, sigma2 * 300 / 299) == pytest.approx(theirs, rel=1e-6)
    a, b = real.double().numpy(), gen.double().numpy()
    kernel = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    assert kernel_distance(a, b)[0] == pytest.approx(float(kernel_mmd(b, a, **kernel)), rel=1e-6)
    assert precision_recall(a, b) == pytest.approx(
        calculate_precision_recall_full(gen.double(), real.double()), abs=1e-6
    )
    isc = isc_features_to_metric(gen, shuffle=False)
    assert inception_score(torch.softmax(gen.double(), 1).numpy()) == pytest.approx(
        (isc["inception_score_mean"], isc["inception_score_std"]), rel=1e-6
    )


# Floors, extrapolation, warnings.


def gaussians(n, seed, scale=1.0):
    widths = np.linspace(2, 0.1, 60)
    return (np.random.default_rng(seed).normal(size=(n, 60)) * widths * scale).astype(np.float32)


def test_the_value_for_infinitely_many_images():
    truth = float(((np.linspace(2, 0.1, 60) * 0.2) ** 2).sum())
    plain, line = [], []
    for seed in range(6):
        a, b = gaussians(300, seed), gaussians(300, seed + 50, 1.2)
        plain.append(FeatureSet(a).distance(FeatureSet(b)))
        line.append(extrapolate(lambda i, j: FeatureSet(a[i]).distance(FeatureSet(b[j])), 300, 300))
    assert abs(np.mean(line) - truth) < 0.2 * (np.mean(plain) - truth) and np.mean(plain) > truth


def test_floor_of_real_against_real():
    f = gaussians(400, 0)
    floor = floor_of("random_fd100_full", f)
    assert floor["num"] == 200 and floor["rounds"] == 20
    expected = [FeatureSet(gaussians(200, 10 + k)).distance(FeatureSet(gaussians(200, 40 + k))) for k in range(10)]
    found = floor["results"]["random_fd100_full"]
    assert found["mean"] == pytest.approx(np.mean(expected), rel=0.1) and 0 < found["std"] < 0.2 * found["mean"]
    assert abs(floor["extrapolated"]) < 0.3 * found["mean"]
    kid = floor_of("random_kid100_full", f)["results"]["random_kid100_full"]
    assert abs(kid["mean"]) < 3 * kid["std"]
    pr = floor_of("random_pr1003_full", f)["results"]
    assert 0.5 < pr["random_pr1003_full_recall"]["mean"] <= 1
    assert floor_of("random_fd100_full", f[:7]) is None and floor_of("lite0_is100", f) is None
    assert floor_of("random_fd100_full", f) == floor and floor_of("random_fd100_full", f, seed=1) != floor


def test_images_of_two_sizes_are_not_compared():
    small, large = (np.random.RandomState(n).randint(0, 256, (12, 1, n, n), dtype=np.uint8) for n in (16, 32))
    for real, generated in ((small, large), ([small, large], small)):
        with pytest.raises(
            BadInput, match=r"random_fd10_full got images of \(16, 16\) and of \(32, 32\) px: bring all to one size"
        ):
            score("random_fd10_full", real, generated)
    assert np.isfinite(score("random_fd10_full", np.repeat(small, 3, axis=1), small)["results"]["random_fd10_full"])


def test_warnings_say_why():
    fd = parse_metric("lite0_fd500_full")
    floor = lambda mean, std=0.0, name=fd.name: dict(num=10, rounds=20, results={name: dict(mean=mean, std=std)})
    assert "500 real images in 1280 dimensions: their covariance is singular" in warnings_of(fd, 500, 500, 1280)[0]
    assert "300 generated images" in warnings_of(fd, 5000, 300, 1280)[0]
    assert warnings_of(fd, 5000, 5000, 1280, 100.0, floor(20)) == []
    assert "more than half of the value" in warnings_of(fd, 5000, 5000, 1280, 30.0, floor(20))[0]
    kid = parse_metric("lite0_kid500_full")
    assert (
        "cannot be told from real against real" in warnings_of(kid, 500, 500, 1280, 1e-4, floor(0, 1e-4, kid.name))[0]
    )
    assert "scatters" in warnings_of(kid, 30, 30, 1280)[0]
    assert "coarse (steps of 0.002)" in warnings_of(parse_metric("lite0_pr5003_full"), 500, 500, 1280)[0]
    assert "depends on their number" in warnings_of(parse_metric("lite0_is500"), 0, 500, 1000)[0]


# Names, the best of several, two sources.


def test_official_names():
    assert (
        parse_metric("fid50k_full")[:4] == ("inception", "fd", 50_000, "full")
        and parse_metric("pr50k3_full").digit == "3"
    )
    for name in (
        "fid50k_full",
        "kid50k_full",
        "pr50k3_full",
        "is50k",
        "fid50k",
        "kid50k",
        "pr50k3",
        "ppl2_wend",
        "ppl_zfull",
        "ppl_wfull",
        "ppl_zend",
        "ppl_wend",
    ):
        assert parse_metric(name).official and parse_metric(name).name == name
    for name, canonical in (
        ("fid2k_full", "inception_fd2k_full"),
        ("pr5003", "vgg16_pr5003_plain"),
        ("is5k", "inception_is5k"),
        ("inception_fd50k_full", "inception_fd50k_full"),
    ):
        assert not parse_metric(name).official and parse_metric(name).name == canonical
    for name in (
        "pr50k_full",
        "fid50k3_full",
        "is50k_full",
        "lite0_pr50k_full",
        "lite0_fd5003x_full",
        "vgg16_ppl2k_full",
        "lite0_is500_full",
        "lite0_fd500",
        "lite0_fd500_wend",
    ):
        with pytest.raises(BadInput):
            parse_metric(name)


def test_best_and_summary():
    row = lambda k, **results: dict(results=results, kimg=k, snapshot_pkl=f"s{k}")
    fd = [row(1, lite0_fd500_full=90.0), row(2, lite0_fd500_full=40.0), row(3, lite0_fd500_full=float("nan"))]
    pr = [
        row(k, lite0_pr5003_full_precision=p, lite0_pr5003_full_recall=r)
        for k, p, r in ((1, 0.9, 0.1), (2, 0.8, 0.3), (3, 0.7, 0.5))
    ]
    assert (
        best_record(fd)["kimg"] == 2
        and best_record(pr)["kimg"] == 3
        and best_record(pr, "lite0_pr5003_full_precision")["kimg"] == 1
    )
    assert (
        headline(pr[0]) == "lite0_pr5003_full_recall"
        and higher_is_better("fid50k_full") is False
        and higher_is_better("is50k_mean") is True
    )
    rows = {r["result"]: r for r in summary(dict(lite0_fd500_full=fd, lite0_pr5003_full=pr))}
    assert rows["lite0_pr5003_full_recall"] == dict(
        result="lite0_pr5003_full_recall",
        value=0.5,
        kimg=3,
        snapshot="s3",
        at_best={"lite0_fd500_full": dict(value=0.3, kimg=2, snapshot="s2")},
    )
    assert [
        quantity(name)
        for name in (
            "fid50k_full",
            "lite0_pr5003_full_recall",
            "lite0_pr5003_full",
            "aligned_memory500_subset",
            "micro2k_full",
            "ppl2_wend",
            "is50k_mean",
            "of others",
        )
    ] == [
        "distance",
        "recall",
        "precision and recall",
        "share of copies",
        "physics, in floors",
        "path length",
        "mean",
        "distance",
    ]
    assert metric_name("lite0_pr5003_full_recall") == metric_name("lite0_pr5003_full") == "lite0_pr5003_full"


@pytest.mark.parametrize(
    "name, real, needed", [("random_fd4_full", 0, 2), ("random_kid4_full", 1, 2), ("random_pr43_full", 3, 4)]
)
def test_too_few_real_images_make_no_number(name, real, needed):
    with pytest.raises(BadInput, match=f"got {real} real images?: at least {needed} make"):
        score(name, blobs(4, 0)[:real], blobs(4, 1))
    with pytest.raises(BadInput, match="asks for 3 images: at least 4"):
        parse_metric("random_pr33_full")


def test_what_a_source_raises_is_raised_and_the_thread_ends():
    def broken():
        yield blobs(4, 0)
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        score("random_fd20_full", blobs(20, 0), broken)
    before = threading.active_count()
    closed = []

    def endless():
        try:
            while True:
                yield blobs(8, 0)
        finally:
            closed.append(True)

    assert score("random_fd20_full", blobs(20, 0), endless)["num_gen"] == 20
    assert closed and threading.active_count() == before


# The path length.


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(
        z_dim=16, c_dim=0, w_dim=16, img_resolution=32, img_channels=1, channel_base=256, channel_max=8
    ).eval()


@pytest.mark.parametrize("path", ["wend", "wfull", "zend", "zfull", "wendcrop"])
def test_path_lengths(path, generator):
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    state = torch.get_rng_state()
    network = get_extractor("random")
    found = path_length(generator, network, 40, path)
    assert found > 0 and found == path_length(generator, network, 40, path) != path_length(
        generator, network, 40, path, seed=1
    )
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items()) and torch.equal(
        torch.get_rng_state(), state
    )
    assert generator.training is False


def test_large_pictures_are_cut_and_pooled():
    seen = []

    class G(torch.nn.Module):
        z_dim, img_resolution = 4, 512

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

        def mapping(self, z, c=None):
            return z[:, None]

        def synthesis(self, ws, **settings):
            return (torch.arange(512.0)[:, None] + 1000 * torch.arange(512.0)).expand(len(ws), 1, 512, 512) * self.w

    class Embed:
        def embedding(self, x):
            seen.append(x)
            return x.flatten(1)

    path_length(G(), Embed(), 2, "wendcrop")
    path_length(G(), Embed(), 2, "wend")
    assert [tuple(x.shape) for x in seen] == [(4, 1, 128, 128), (4, 1, 256, 256)]
    row, column = 3 * 64 + 0.5, 2 * 64 + 0.5  # middle of the first pooled pixel: rows from 3/8, columns from 2/8
    assert float(seen[0][0, 0, 0, 0]) == pytest.approx((row + 1000 * column + 1) * 127.5, rel=1e-5)


def test_curves_of_other_counts_or_archives_stay_apart(tmp_path):
    record = lambda kimg, **changes: (
        dict(
            results=dict(lite0_fd500_full=50.0 - kimg),
            metric="lite0_fd500_full",
            kimg=kimg,
            cur_nimg=kimg * 1000,
            snapshot_pkl=f"{kimg}",
            extractor="lite0",
            extractor_sha256="a",
            num_real=500,
            num_gen=500,
            real="full",
            data="x",
        )
        | changes
    )
    for folder, changes in (
        ("a", {}),
        ("b", {}),
        ("c", dict(num_real=400)),
        ("d", dict(extractor_sha256="b")),
        ("e", dict(data="y")),
        ("f", dict(real="subset")),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metric-lite0_fd500_full.jsonl").write_text(
            "".join(json.dumps(record(k, **changes)) + "\n" for k in (1, 2))
        )
    groups = plots._metric_groups({name: tmp_path / name for name in "abcdef"})
    assert sorted(sorted(by_run) for by_run in groups.values()) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
