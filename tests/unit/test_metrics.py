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
from reference_tools import prepare_torchvision, tool

import semgan_nb.evaluation as evaluation
import semgan_nb.distances as distances
from semgan_nb import foundation, plots
from semgan_nb.checkpoints import find_snapshot
from semgan_nb.launch import evaluate
from semgan_nb.cli import main
from semgan_nb.dataset import Dataset, subset_indices, write_archive
from semgan_nb.extractors import Inception, find_weights, get_extractor
from semgan_nb.microstructure import compare
from semgan_nb.distances import (
    FeatureSet, blur, covered, extrapolate, feature_statistics, frechet_distance, inception_score, kernel_distance, kernel_distance_of_all,
    neighbour_radii, path_length, precision_recall,
)
from semgan_nb.scores import best_record, better_of, between_rungs, closer_than, headline, metric_of, parse_metric, summary, word_of
from semgan_nb.reference_sets import RUNGS, distinct_indices, phase_randomise
from semgan_nb.evaluation import Judge, floor_of, judge_together, score, warnings_of
from semgan_nb.foundation import BadInput
from semgan_nb.descriptors import power_spectrum
from semgan_nb.networks import Generator
from semgan_nb.runs import laptop, read_metrics, snapshots
from semgan_nb.launch import train_silently

GOLDEN = Path(__file__).parents[1] / "data" / "metrics_fid.npz"


def by_sqrtm(a, b):
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (a, b))
    return ((mu1 - mu2)**2).sum() + np.trace(sigma1 + sigma2 - 2 * sqrtm(sigma1 @ sigma2).real)


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


def test_distances_of_textures_from_independent_code():
    """60 and 60 crops of photographs of gravel, grass and brick, in lite0 features: 5.03, 299.2, 468.8 where covariances are divided by N - 1."""
    from skimage import data

    features = lambda texture, seed: FeatureSet(get_extractor("lite0")(crops(texture, seed, 224)))
    gravel = features(data.gravel(), 1)
    for texture, seed, expected in ((data.gravel(), 2, 5.03), (data.grass(), 3, 299.2), (data.brick(), 4, 468.8)):
        other = features(texture, seed)
        means = ((gravel.mu - other.mu)**2).sum()
        assert means + (gravel.distance(other) - means) * 60 / 59 == pytest.approx(expected, rel=1e-3)


def test_statistics_divide_by_n():
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    mu, sigma = feature_statistics(x)
    assert mu.dtype == sigma.dtype == np.float64
    assert sigma == pytest.approx(np.cov(x, rowvar=False, bias=True), abs=1e-9) and mu == pytest.approx(x.mean(0), abs=1e-6)


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


@pytest.mark.parametrize("name, fields", [("lite0_fd500_holdout", ("lite0", "fd", 500, "holdout")),
                                          ("random_fd1k_full", ("random", "fd", 1000, "full")),
                                          ("random_fd2_subset", ("random", "fd", 2, "subset"))])
def test_metric_names_round_trip(name, fields):
    assert parse_metric(name)[:4] == fields and parse_metric(name).name == name


@pytest.mark.parametrize("name, says", [("fid_full", "no metric 'fid_full'"), ("lite1_fd500_full", "extractor 'lite1'"),
                                        ("lite0_fid500_full", "statistic 'fid'"), ("lite0_fd500_test", "real side 'test'"),
                                        ("lite0_fd0_full", "at least 2"), ("lite0_fd_full", "no metric")])
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


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    images = blobs(400, 0)
    items = [dict(name=f"{i:03d}", image=image[0], source=f"s{i // 20}.png", source_sha256="", crop=(0, 0, 32, 32), group=f"g{i // 20}",
                  pixel_size_nm=None, fraction=0.5, part="holdout" if i // 20 % 4 == 0 else "train") for i, image in enumerate(images)]
    write_archive(path, items, {})
    return path


@pytest.fixture(scope="module")
def open_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "open.zip"
    items = [dict(name=f"{i:03d}", image=image[0], source="s.png", source_sha256="", crop=(0, 0, 32, 32), group=f"g{i}",
                  pixel_size_nm=None, fraction=0.5, part="train") for i, image in enumerate(blobs(60, 1))]
    write_archive(path, items, {})
    return path


def part_of(archive, indices):
    names = Dataset(archive).names
    return [names[i] for i in indices]


def test_holdout_judge(archive):
    judge = Judge("random_fd100_holdout", archive)
    train, held = (Dataset(archive, part=part).names for part in ("train", "holdout"))
    assert sorted(part_of(archive, judge.real_indices)) == held and set(part_of(archive, judge.rung_indices)) <= set(train)
    told = []
    ladder = judge.ladder(progress=lambda done, total, text: told.append((done, total, text)))
    value = {rung["key"]: rung["value"] for rung in ladder["rungs"]}
    assert list(value) == ["floor", "blur0.5", "blur1", "blur2", "phase", "blend", "field", "distinct10"]
    assert all(rung["name"] == RUNGS[rung["key"]] for rung in ladder["rungs"])
    assert value["floor"] < value["blur0.5"] < value["blur1"] < value["blur2"] and value["floor"] < value["distinct10"]
    assert told[-1][0] == told[-1][1] == 800 and [t[0] for t in told] == sorted(t[0] for t in told)
    assert {key: ladder[key] for key in ("metric", "extractor", "real", "num_real", "num_gen", "seed")} == dict(
        metric="random_fd100_holdout", extractor="random", real="holdout", num_real=100, num_gen=100, seed=0)
    assert ladder["data"] == Dataset(archive).fingerprint and ladder["extractor_sha256"] == get_extractor("random").sha256
    json.dumps(ladder)


def test_records(archive):
    judge = Judge("random_fd50_holdout", archive, seed=3)
    images = blobs(60, 7)
    record = judge.judge(images)
    assert set(record) == {"results", "metric", "total_time", "total_time_str", "num_gpus", "timestamp", "extractor", "extractor_sha256",
                           "num_real", "num_gen", "real", "seed", "data", "floor", "extrapolated", "warnings"}
    assert record["metric"] == "random_fd50_holdout" and record["seed"] == 3 and record["num_real"] == record["num_gen"] == 50
    extractor = get_extractor("random")
    expected = by_sqrtm(extractor(Dataset(archive).images(judge.real_indices)), extractor(images[:50]))
    assert record["results"]["random_fd50_holdout"] == pytest.approx(expected, rel=1e-4)
    json.dumps(record)
    batches = (images[at:at + 16] for at in range(0, 60, 16))
    assert judge.judge(batches)["results"] == pytest.approx(record["results"], rel=1e-5)
    assert next(batches, None) is None
    assert judge.judge(torch.from_numpy(images))["results"] == pytest.approx(record["results"], rel=1e-5)


def test_batches_beyond_the_count_are_not_asked_for(archive):
    def endless():
        while True:
            yield blobs(20, 0)
    assert Judge("random_fd50_holdout", archive).judge(endless())["num_gen"] == 50


def test_the_seed_decides_and_global_generators_are_left_alone(archive):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = Judge("random_fd40_holdout", archive), Judge("random_fd40_holdout", archive)
    assert first.ladder() == second.ladder()
    other = Judge("random_fd40_holdout", archive, seed=1)
    assert other.ladder()["rungs"] != first.ladder()["rungs"]
    assert torch.equal(torch.get_rng_state(), torch_state) and (np.random.get_state()[1] == numpy_state).all()


def test_cache(archive, tmp_path, monkeypatch):
    judge = Judge("random_fd40_holdout", archive, cache=tmp_path / "cache")
    ladder, record = judge.ladder(), judge.judge(blobs(40, 9))
    files = list((tmp_path / "cache").iterdir())
    assert sorted(f.name[:-25] for f in files) == ["features-random", "random_fd40_holdout", *(f"rung-{key}-random" for key in ("blend", "blur0.5", "blur1", "blur2", "field", "floor", "phase"))]
    again = Judge("random_fd40_holdout", archive, cache=tmp_path / "cache")
    monkeypatch.setattr(again, "_features", lambda *args: pytest.fail("computed again"))
    assert again.ladder() == ladder
    assert again.judge(blobs(40, 9))["results"] == record["results"]
    Judge("random_fd40_holdout", archive, seed=1, cache=tmp_path / "cache").real_side()
    assert len(list((tmp_path / "cache").iterdir())) == 10
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    assert Judge("random_fd40_holdout", archive, cache=tmp_path / "cache").ladder() == ladder


def test_full_judge(archive, tmp_path):
    judge = Judge("random_fd150_full", archive)
    assert judge.num_real == 400
    train = set(Dataset(archive, part="train").names)
    assert set(part_of(archive, judge.rung_indices)) <= train
    ladder = judge.ladder()
    assert ladder["num_real"] == 250 and ladder["num_gen"] == 150 and ladder["rungs"][-1]["key"] == "distinct100"
    assert judge.judge(blobs(150, 3))["num_real"] == 400
    with pytest.raises(BadInput, match="random_fd200_full"):
        Judge("random_fd250_full", archive).ladder()


def test_features_are_cached_where_images_outnumber_them(tmp_path):
    path = tmp_path / "many.zip"
    write_archive(path, [dict(name=f"{i:03d}", image=x[0], source="s", source_sha256="", crop=(0, 0, 32, 32), group=f"g{i}", pixel_size_nm=None,
                              fraction=None, part="train") for i, x in enumerate(blobs(520, 5))], {})
    record = Judge("random_fd20_full", path, cache=tmp_path / "cache").judge(blobs(20, 1))
    with np.load(next((tmp_path / "cache").glob("features-*")), allow_pickle=False) as kept:
        assert kept["features"].shape == (520, 512)
    assert Judge("random_fd20_full", path, cache=tmp_path / "cache").judge(blobs(20, 1))["results"] == record["results"]


def test_subset_judge(archive):
    judge = Judge("random_fd50_subset", archive, subset=30, subset_seed=4)
    train = Dataset(archive, part="train").names
    chosen = Dataset(archive, part="train", subset=30, seed=4).names
    assert part_of(archive, judge.real_indices) == chosen == [train[i] for i in subset_indices(len(train), 30, 4)]
    assert not set(part_of(archive, judge.rung_indices)) & set(chosen)
    assert judge.ladder()["num_real"] == judge.judge(blobs(50, 2))["num_real"] == 30
    whole = Judge("random_fd50_subset", archive)
    assert whole.num_real == 300 and whole.ladder()["num_real"] == 250


def test_too_few_images_name_the_metric_that_fits(archive, open_archive):
    with pytest.raises(BadInput, match="needs 500 images in its hold-out part, there are 100: use random_fd100_holdout"):
        Judge("random_fd500_holdout", archive)
    with pytest.raises(BadInput, match="no hold-out part.*random_fd20_full"):
        Judge("random_fd20_holdout", open_archive)
    with pytest.raises(BadInput, match="there are 20: use random_fd30_full"):
        Judge("random_fd40_full", open_archive).ladder()
    assert Judge("random_fd30_full", open_archive).ladder()["num_real"] == 30
    with pytest.raises(BadInput, match="needs 50 generated images, there were 12"):
        Judge("random_fd50_holdout", archive).judge(blobs(12, 0))
    with pytest.raises(BadInput, match=r"shape \[1, 16, 16\], those of .* \[1, 32, 32\]"):
        Judge("random_fd50_holdout", archive).judge(np.zeros((50, 1, 16, 16), np.uint8))


def test_between_rungs_in_words():
    ladder = dict(rungs=[dict(key="floor", name="other real images", value=11.8), dict(key="blur0.5", name="blurred 0.5 px", value=19.0),
                         dict(key="blur2", name="blurred 2 px", value=299.0), dict(key="distinct100", name="100 distinct images", value=49.0)])
    assert between_rungs(ladder, 43) == "between 'blurred 0.5 px' (19) and '100 distinct images' (49)"
    assert between_rungs(ladder, 3) == "below the lowest rung, 'other real images' (11.8)"
    assert between_rungs(ladder, 300) == "above the highest rung, 'blurred 2 px' (299)"
    assert closer_than(ladder, 43) == ["blur2", "distinct100"]


def test_compare():
    real = blobs(200, 0)
    same = compare(real, blobs(200, 1), matched=False)
    assert same["fraction"]["reached"] and same["spectrum"]["reached"] and same["num_real"] == 200
    assert same["fraction"]["difference"] < 0.05 and same["spectrum"]["largest"] < 0.1
    assert len(same["spectrum"]["difference"]) == len(same["spectrum"]["frequency"]) == 16
    soft = compare(real, blur(blobs(200, 1), 1), matched=True)
    assert not soft["spectrum"]["reached"] and soft["spectrum"]["difference"][8] < -0.25
    assert "not reached" in soft["text"] and "histogram-matched" in soft["text"] and "histogram-matched" not in same["text"]
    darker = np.full_like(real, 40)
    darker[:, :, :3] = 220
    assert not compare(real, darker)["fraction"]["reached"]
    assert soft["spectrum"]["floor"] == same["spectrum"]["floor"] < 0.1
    json.dumps(soft)
    with pytest.raises(BadInput, match="32x32, generated ones 16x16"):
        compare(real, real[:, :, :16, :16])


def test_the_last_bin_does_not_decide():
    real = blobs(100, 0)
    column = np.where(np.arange(32) % 2, 9, -9)
    result = compare(real, np.clip(real + column, 0, 255).astype(np.uint8))
    assert result["spectrum"]["last"] > 0.1 and result["spectrum"]["largest"] < 0.1 and result["spectrum"]["reached"]


def test_times_in_words():
    assert [foundation._time_text(s) for s in (45, 123, 3723, 93780)] == ["45s", "2m 03s", "1h 02m 03s", "1d 02h 03m"]


# Kernel distance, precision and recall, inception score.

CHECK = (np.float32(np.random.RandomState(0).randn(300, 16)), np.float32(np.random.RandomState(1).randn(500, 16) * 0.9 + 0.2))


def test_check_values_of_all():
    real, gen = CHECK
    assert kernel_distance_of_all(real, gen) == pytest.approx(0.171263, abs=1e-6)
    assert kernel_distance(real, gen)[0] == pytest.approx(0.171574, abs=1e-6) and kernel_distance(real, gen, size=50)[0] == pytest.approx(0.174134, abs=1e-6)
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
    monkeypatch.setattr(distances, "max", lambda *sizes: 10**9, raising=False)  # as where the whole table of kernel values would be too large
    assert kid() == pytest.approx(exact, rel=1e-9)


def test_golden_precision_and_recall():
    g = golden()
    assert precision_recall(g["real"], g["gen"], int(g["pr_k"])) == pytest.approx(tuple(g["pr_f32"]), abs=1e-6)
    assert precision_recall(g["real"], g["gen"], int(g["pr_k"]), half=True) == pytest.approx(tuple(g["pr_f16"]), abs=1e-6)


def test_global_generators_are_left_alone():
    before, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert kernel_distance(*CHECK) == kernel_distance(*CHECK) != kernel_distance(*CHECK, seed=1)
    assert (np.random.get_state()[1] == before).all() and torch.equal(torch.get_rng_state(), torch_state)


def test_tiles_change_nothing():
    real, gen = CHECK
    assert kernel_distance_of_all(real, gen, tile=37) == pytest.approx(kernel_distance_of_all(real, gen), rel=1e-12)
    a, b = (torch.from_numpy(x) for x in CHECK)
    for k in (1, 3, 5):
        radii = neighbour_radii(a, k, tile=7)
        assert torch.equal(radii, neighbour_radii(a, k))
        expected = np.sort(np.where(np.eye(300, dtype=bool), np.inf, ((real[:, None].astype(float) - real[None]) ** 2).sum(2)), 1)[:, k - 1]
        assert radii.numpy() == pytest.approx(expected, rel=1e-9)
        assert torch.equal(covered(b, a, radii, tile=7), covered(b, a, radii))


def by_definition(points, centres, k=3):
    a, b = points.astype(float), centres.astype(float)
    d = ((b[:, None] - b[None])**2).sum(2)
    np.fill_diagonal(d, np.inf)
    return float((((a[:, None] - b[None])**2).sum(2) <= np.sort(d, 1)[:, k - 1]).any(1).mean())


@pytest.mark.parametrize("far", [0, 1000])
def test_duplicates_and_points_on_the_rim(far):
    """Copies are covered by balls of radius zero, also far from the origin, where float32 products of rows are off."""
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
    assert precision_recall(real, fresh) == pytest.approx((by_definition(fresh, real), by_definition(real, fresh)), abs=1e-12)


def test_memory_of_the_distances_is_bounded():
    import tracemalloc
    points = torch.randn(12_000, 4, generator=torch.Generator().manual_seed(0))
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if torch.is_tensor(out):
                seen.append(out.numel())
            return out
    tracemalloc.start()
    with Watch():
        radii = neighbour_radii(points, tile=512)
        covered(points, points, radii, tile=512)
    assert max(seen) <= 512 * 5 * 512 + 1 and tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_inception_scores_of_known_answers():
    assert inception_score(np.eye(10)[np.arange(200) % 10]) == pytest.approx((10, 0))
    assert inception_score(np.full((100, 7), 1 / 7))[0] == pytest.approx(1)
    assert np.isnan(inception_score(np.full((5, 7), 1 / 7))[0])


# Against torchmetrics, with our extractor as its feature network.

class Features(torch.nn.Module):
    num_features = 512

    def forward(self, images):
        return torch.from_numpy(get_extractor("random")(images.expand(-1, 3, -1, -1))).double()


def test_torchmetrics_gives_the_same():
    prepare_torchvision()
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
    real, gen = blobs(600, 0), blur(blobs(600, 1), 0.5)
    f = [get_extractor("random")(x) for x in (real, gen)]
    rgb = [torch.from_numpy(x).expand(-1, 3, -1, -1) for x in (real, gen)]
    fid, kid = FrechetInceptionDistance(feature=Features()), KernelInceptionDistance(feature=Features(), subsets=1, subset_size=600)
    fid.set_dtype(torch.float64)
    for metric in (fid, kid):
        metric.update(rgb[0], real=True)
        metric.update(rgb[1], real=False)
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in f)
    ours = frechet_distance(mu1, sigma1 * 600 / 599, mu2, sigma2 * 600 / 599)  # torchmetrics divides by N - 1
    assert float(fid.compute()) == pytest.approx(ours, rel=1e-4) and FeatureSet(f[0]).distance(FeatureSet(f[1])) == pytest.approx(ours, rel=5e-3)
    assert float(kid.compute()[0]) == pytest.approx(kernel_distance(f[0], f[1])[0], rel=1e-4)


@pytest.mark.skipif("SEMGAN_WEIGHTS" not in os.environ, reason="SEMGAN_WEIGHTS does not name a folder with fid-inception-2015-12-05-through-mixed7a.npz")
@pytest.mark.parametrize("preprocessing, near, far", [("tensorflow", 0.030018, 2.402023), ("pytorch-fid", 0.030062, 2.400898)])
def test_published_values_at_768_dimensions(preprocessing, near, far):
    from skimage import data
    network = Inception(path=find_weights("inception768", os.environ["SEMGAN_WEIGHTS"]), dim=768, preprocessing=preprocessing)
    gravel, gravel2, grass = (network(crops(texture, seed, 299)) for texture, seed in ((data.gravel(), 1), (data.gravel(), 2), (data.grass(), 3)))
    for other, expected in ((gravel2, near), (grass, far)):
        (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (gravel, other))
        assert frechet_distance(mu1, sigma1 * 60 / 59, mu2, sigma2 * 60 / 59) == pytest.approx(expected, abs=3e-6)
    assert FeatureSet(gravel).distance(FeatureSet(gravel)) == pytest.approx(0, abs=1e-6)
    assert kernel_distance(gravel, grass, 50, 30)[0] == pytest.approx(0.008998, abs=2e-5)
    assert abs(kernel_distance(gravel, gravel2, 50, 30)[0]) < 5e-6
    assert precision_recall(gravel2, gravel) == pytest.approx((0.9167, 0.8667), abs=1e-4) and precision_recall(grass, gravel) == (0, 0)


def test_torch_fidelity_gives_the_same_from_the_same_features(tmp_path):
    """Kernel distance, precision and recall, inception score and Fréchet distance of its functions on our features."""
    tool("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kernel_mmd
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    real, gen = (torch.from_numpy(x[:300]) for x in CHECK)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(gen), fid_features_to_statistics(real), False)["frechet_inception_distance"]
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (real, gen))
    assert frechet_distance(mu1, sigma1 * 300 / 299, mu2, sigma2 * 300 / 299) == pytest.approx(theirs, rel=1e-6)
    a, b = real.double().numpy(), gen.double().numpy()
    kernel = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    assert kernel_distance(a, b)[0] == pytest.approx(float(kernel_mmd(b, a, **kernel)), rel=1e-6)
    assert precision_recall(a, b) == pytest.approx(calculate_precision_recall_full(gen.double(), real.double()), abs=1e-6)
    isc = isc_features_to_metric(gen, shuffle=False)
    assert inception_score(torch.softmax(gen.double(), 1).numpy()) == pytest.approx((isc["inception_score_mean"], isc["inception_score_std"]), rel=1e-6)


# Floors, extrapolation, warnings.

def gaussians(n, seed, scale=1.0):
    widths = np.linspace(2, 0.1, 60)
    return (np.random.default_rng(seed).normal(size=(n, 60)) * widths * scale).astype(np.float32)


def test_the_value_for_infinitely_many_images():
    truth = float(((np.linspace(2, 0.1, 60) * 0.2)**2).sum())
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
        with pytest.raises(BadInput, match=r"random_fd10_full got images of \(16, 16\) and of \(32, 32\) px: bring all to one size"):
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
    assert "cannot be told from real against real" in warnings_of(kid, 500, 500, 1280, 1e-4, floor(0, 1e-4, kid.name))[0]
    assert "scatters" in warnings_of(kid, 30, 30, 1280)[0]
    assert "coarse (steps of 0.002)" in warnings_of(parse_metric("lite0_pr5003_full"), 500, 500, 1280)[0]
    assert "depends on their number" in warnings_of(parse_metric("lite0_is500"), 0, 500, 1000)[0]


# Names, the best of several, two sources.

def test_official_names():
    assert parse_metric("fid50k_full")[:4] == ("inception", "fd", 50_000, "full") and parse_metric("pr50k3_full").digit == "3"
    for name in ("fid50k_full", "kid50k_full", "pr50k3_full", "is50k", "fid50k", "kid50k", "pr50k3", "ppl2_wend", "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend"):
        assert parse_metric(name).official and parse_metric(name).name == name
    for name, canonical in (("fid2k_full", "inception_fd2k_full"), ("pr5003", "vgg16_pr5003_plain"), ("is5k", "inception_is5k"), ("inception_fd50k_full", "inception_fd50k_full")):
        assert not parse_metric(name).official and parse_metric(name).name == canonical
    for name in ("pr50k_full", "fid50k3_full", "is50k_full", "lite0_pr50k_full", "lite0_fd5003x_full", "vgg16_ppl2k_full", "lite0_is500_full", "lite0_fd500", "lite0_fd500_wend"):
        with pytest.raises(BadInput):
            parse_metric(name)


class Known:
    name, sha256, about, preprocessing, dim, genuine = "inception", "0" * 64, "made up", "", 512, False

    def __call__(self, images, progress=None, classes=False):
        return get_extractor("random")(images, progress)


def test_only_the_official_thing_has_the_official_name(archive, monkeypatch):
    network = Known()
    monkeypatch.setattr(evaluation, "get_extractor", lambda name, *args: network)
    with pytest.raises(BadInput, match="fid50k_full: the weights are not the known file .*: ask for inception_fd50k_full"):
        Judge("fid50k_full", archive)
    assert Judge("inception_fd50k_full", archive).metric == "inception_fd50k_full"
    network.genuine = True
    assert Judge("fid50k_full", archive).metric == Judge("inception_fd50k_full", archive).metric == "fid50k_full"
    assert Judge("fid100_full", archive).metric == "inception_fd100_full"
    judge = Judge("fid50k", archive, mirror=True)
    assert judge.metric == "fid50k" and judge.num_real == 800


def test_more_generated_images_than_the_archive_has(archive):
    judge = Judge("random_fd1k_full", archive)
    ladder = judge.ladder()
    assert ladder["num_gen"] == 150 and ladder["num_real"] == 250 and "fewer than 1000 images" in ladder["warnings"][0]
    assert judge.judge(lambda: (blobs(250, k) for k in range(4)))["num_gen"] == 1000


def test_best_and_summary():
    row = lambda k, **results: dict(results=results, kimg=k, snapshot_pkl=f"s{k}")
    fd = [row(1, lite0_fd500_full=90.0), row(2, lite0_fd500_full=40.0), row(3, lite0_fd500_full=float("nan"))]
    pr = [row(k, lite0_pr5003_full_precision=p, lite0_pr5003_full_recall=r) for k, p, r in ((1, 0.9, 0.1), (2, 0.8, 0.3), (3, 0.7, 0.5))]
    assert best_record(fd)["kimg"] == 2 and best_record(pr)["kimg"] == 3 and best_record(pr, "lite0_pr5003_full_precision")["kimg"] == 1
    assert headline(pr[0]) == "lite0_pr5003_full_recall" and better_of("fid50k_full") == "lower" and better_of("is50k_mean") == "higher"
    rows = {r["result"]: r for r in summary(dict(lite0_fd500_full=fd, lite0_pr5003_full=pr))}
    assert rows["lite0_pr5003_full_recall"] == dict(result="lite0_pr5003_full_recall", value=0.5, kimg=3, snapshot="s3", at_best={"lite0_fd500_full": dict(value=0.3, kimg=2, snapshot="s2")})
    assert [word_of(name) for name in ("fid50k_full", "lite0_pr5003_full_recall", "lite0_pr5003_full", "aligned_memory500_subset", "micro2k_full", "ppl2_wend", "is50k_mean", "of others")] == [
        "distance", "recall", "precision and recall", "share of copies", "physics, in floors", "path length", "mean", "distance"]
    assert metric_of("lite0_pr5003_full_recall") == metric_of("lite0_pr5003_full") == "lite0_pr5003_full"


@pytest.mark.parametrize("name", ["random_fd50_full", "random_kid50_full", "random_pr503_full", "lite0_is50"])
def test_two_sources_of_any_kind(name, archive):
    images, data = blobs(60, 3), Dataset(archive, part="holdout")
    found = score(name, data, images)
    for real, generated in ((data.images(), lambda: iter([images[:31], images[31:]])), (lambda: data, torch.from_numpy(images)), ([data.images()], (images[at:at + 7] for at in range(0, 60, 7)))):
        other = score(name, real, generated)
        assert other["results"] == pytest.approx(found["results"], rel=1e-4, nan_ok=True) and (other["num_real"], other["num_gen"]) == (0 if "is" in name else 100, 50)
    json.dumps(found)
    with pytest.raises(BadInput, match="needs 50 generated images, there were 9"):
        score(name, data, images[:9])


@pytest.mark.parametrize("name, real, needed", [("random_fd4_full", 0, 2), ("random_kid4_full", 1, 2), ("random_pr43_full", 3, 4)])
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


# The judge, for all statistics.

@pytest.mark.parametrize("name", ["random_kid60_holdout", "random_pr603_holdout", "lite0_is60"])
def test_judges_of_other_statistics(name, archive, tmp_path):
    judge = Judge(name, archive, cache=tmp_path)
    ladder, record = judge.ladder(), judge.judge(blobs(60, 7))
    assert set(record["results"]) == set(judge.parsed.results) and record["num_gen"] == 60 and record["num_real"] == (0 if "is" in name else 60)
    assert {"floor", "blur1", "phase"} <= {rung["key"] for rung in ladder["rungs"]}
    json.dumps([ladder, record])
    again = Judge(name, archive, cache=tmp_path)
    assert again.ladder() == ladder and again.judge(blobs(60, 7))["results"] == record["results"]
    values = {rung["key"]: rung.get("values", {name: rung["value"]}) for rung in ladder["rungs"]}
    if "pr" in name:
        assert values["floor"][f"{name}_recall"] > values["distinct10"][f"{name}_recall"] and values["floor"][f"{name}_precision"] > values["blur2"][f"{name}_precision"]
        assert record["floor"]["results"][f"{name}_recall"]["mean"] > 0.4
    if "kid" in name:
        assert values["floor"][name] < values["blur1"][name] < values["blur2"][name] and record["extrapolated"] == record["results"][name]


def test_metrics_share_features(archive, tmp_path, monkeypatch):
    looked = []
    extractor = get_extractor("random")
    whole = type(extractor).__call__
    monkeypatch.setattr(type(extractor), "__call__", lambda self, images, *args, **options: looked.append(len(images)) or whole(self, images, *args, **options))
    judges = [Judge(name, archive, cache=tmp_path) for name in ("random_fd60_holdout", "random_kid60_holdout", "random_pr603_holdout")]
    together = judge_together(judges, blobs(60, 7))
    assert sum(looked) == 120  # 60 real and 60 generated images, once for all three
    looked.clear()
    assert Judge("random_kid60_holdout", archive, cache=tmp_path).judge(blobs(60, 7))["results"] == together[1]["results"] and sum(looked) == 60
    assert [Judge(j.metric, archive).judge(blobs(60, 7))["results"] for j in judges] == [record["results"] for record in together]


@pytest.mark.parametrize("real, images", [("full", 400 + 6 * 60 + 60), ("subset", 300 + 6 * 60 + 60), ("holdout", 60 + 7 * 60 + 60)])
def test_real_images_are_looked_at_once(real, images, archive, tmp_path, monkeypatch):
    """By several metrics, their ladders and their floors together; a second evaluation looks at what was generated only."""
    looked = []
    whole = type(get_extractor("random")).__call__
    monkeypatch.setattr(type(get_extractor("random")), "__call__", lambda self, images, *args, **options: looked.append(len(images)) or whole(self, images, *args, **options))
    for total in (images, 60):
        judges = [Judge(f"random_{stat}_{real}", archive, cache=tmp_path) for stat in ("fd60", "kid60", "pr603")]
        told = []
        for judge in judges:
            judge.ladder(lambda done, total, text: told.append((done, total)))
        judge_together(judges, blobs(60, 7))
        assert sum(looked) == total and all(done <= all_ for done, all_ in told)
        looked.clear()


def test_a_changed_archive_never_meets_old_features(tmp_path):
    for seed in (0, 1):
        items = [dict(name=f"{i:03d}", image=x[0], source="s", source_sha256="", crop=(0, 0, 32, 32), group=f"g{i}", pixel_size_nm=None, fraction=None, part="train") for i, x in enumerate(blobs(30, seed))]
        write_archive(tmp_path / "a.zip", items, {})
        found = Judge("random_fd20_full", tmp_path / "a.zip", cache=tmp_path / "cache").real_features()
        assert np.array_equal(found, get_extractor("random")(Dataset(tmp_path / "a.zip").images()))
    assert len(list((tmp_path / "cache").glob("features-*"))) == 2


# The path length.

@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(z_dim=16, c_dim=0, w_dim=16, img_resolution=32, img_channels=1, channel_base=256, channel_max=8).eval()


@pytest.mark.parametrize("path", ["wend", "wfull", "zend", "zfull", "wendcrop"])
def test_path_lengths(path, generator):
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    state = torch.get_rng_state()
    network = get_extractor("random")
    found = path_length(generator, network, 40, path)
    assert found > 0 and found == path_length(generator, network, 40, path) != path_length(generator, network, 40, path, seed=1)
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items()) and torch.equal(torch.get_rng_state(), state)
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


def test_a_judge_of_path_lengths(archive, generator, tmp_path):
    judge = Judge("random_ppl20_wend", archive, cache=tmp_path)
    record = judge.judge(generator)
    assert record["results"]["random_ppl20_wend"] == path_length(generator, get_extractor("random"), 20, "wend") and "stand-in" in record["lpips"]
    assert judge.ladder()["rungs"] == [] and between_rungs(judge.ladder(), 1.0) and json.dumps(record)
    with pytest.raises(BadInput, match="needs a generator, not images"):
        judge.judge(blobs(20, 0))
    found = judge_together([Judge("random_fd20_full", archive), judge], generator)
    assert found[1]["results"] == record["results"] and found[0]["num_gen"] == 20


# A run, afterwards.

@pytest.fixture(scope="module")
def run(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train_silently(laptop(32).replace(total_kimg=0.128, snap=1, kimg_per_tick=0.064, metrics=("random_pr203_full",), channel_base=512, channel_max=16), archive, out)
    return out


def test_training_and_evaluate_with_several_results(run, archive, capsys):
    records = read_metrics(run)["random_pr203_full"]
    assert len(records) >= 2 and set(records[0]["results"]) == {"random_pr203_full_precision", "random_pr203_full_recall"}
    assert find_snapshot(run, "random_pr203_full_recall").name == best_record(records)["snapshot_pkl"] == find_snapshot(run, "random_pr203_full").name
    names = ["random_fd20_full", "random_kid20_full", "random_ppl10_wend", "random_pr203_full"]
    done = evaluate(run, names, every=True, progress=False)
    assert len(done) == 4 * len(records) and {r["metric"] for r in done} == set(names)
    again = evaluate(run, names, every=True, progress=False)
    assert again == done and len(read_metrics(run)["random_fd20_full"]) == len(records)
    one = evaluate(snapshots(run)[0], ["random_fd30_full"], progress=False)
    assert [r["snapshot_pkl"] for r in one] == [snapshots(run)[0].name] == [r["snapshot_pkl"] for r in read_metrics(run)["random_fd30_full"]]
    assert main(["metrics", str(run), "--metrics", "random_fd20_full,random_pr203_full"]) in (0, None)
    said = capsys.readouterr().out
    assert "random_pr203_full_recall" in said and "note: " in said and "real against real" in said and "for infinitely many images" in said and "where random_fd20_full is best" in said
    figure = plots.curves(run)
    labels = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes]
    assert "recall (random_pr203_full)" in labels and "precision (random_pr203_full)" in labels and sum("random_kid20_full" in label for label in labels) == 1


def test_a_snapshot_that_lies_anywhere(run, archive, tmp_path):
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(snapshots(run)[-1].read_bytes())
    with pytest.raises(BadInput, match="lies in no run.*--data.*--metrics"):
        evaluate(lone)
    record, = evaluate(lone, ["random_fd20_full"], data=archive, progress=False)
    assert record["results"] == evaluate(run, ["random_fd20_full"], progress=False)[0]["results"] and record["snapshot_pkl"] == "lone.safetensors"
    assert list(tmp_path.iterdir()) == [lone]


def test_weights_are_looked_for_before_training(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMGAN_CACHE", str(tmp_path))
    for name in ("SEMGAN_WEIGHTS", "SEMGAN_WEIGHTS_VGG16"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="vgg16.pt .*are missing"):
        train_silently(laptop(32).replace(total_kimg=0.128, metrics=("vgg16_pr203_full",)), archive, tmp_path / "run")


def test_curves_of_other_counts_or_archives_stay_apart(tmp_path):
    record = lambda kimg, **changes: dict(results=dict(lite0_fd500_full=50.0 - kimg), metric="lite0_fd500_full", kimg=kimg, cur_nimg=kimg * 1000, snapshot_pkl=f"{kimg}", extractor="lite0", extractor_sha256="a", num_real=500, num_gen=500, real="full", data="x") | changes
    for folder, changes in (("a", {}), ("b", {}), ("c", dict(num_real=400)), ("d", dict(extractor_sha256="b")), ("e", dict(data="y")), ("f", dict(real="subset"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metric-lite0_fd500_full.jsonl").write_text("".join(json.dumps(record(k, **changes)) + "\n" for k in (1, 2)))
    groups = plots._metric_groups({name: tmp_path / name for name in "abcdef"})
    assert sorted(sorted(by_run) for by_run in groups.values()) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
