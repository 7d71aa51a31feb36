"""The Fréchet distance against check values, SciPy and golden numbers; the judge, its ladder, and what it refuses."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from semgan_nb import metrics
from semgan_nb.dataset import Dataset, subset_indices, write_archive
from semgan_nb.features import get_extractor
from semgan_nb.metrics import (RUNGS, FeatureSet, Judge, between_rungs, blur, closer_than, compare, distinct_indices,
                               feature_statistics, frechet_distance, parse_metric, phase_randomise)
from semgan_nb.micrographs import BadInput
from semgan_nb.microstructure import power_spectrum

GOLDEN = Path(__file__).parent / "data" / "metrics_fid.npz"


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

    def crops(texture, seed):
        rng, out = np.random.default_rng(seed), []
        for _ in range(60):
            y, x = rng.integers(0, 289), rng.integers(0, 289)
            crop = texture[y:y + 224, x:x + 224]
            out.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        return FeatureSet(get_extractor("lite0")(np.stack(out)[:, None]))

    gravel = crops(data.gravel(), 1)
    for texture, seed, expected in ((data.gravel(), 2, 5.03), (data.grass(), 3, 299.2), (data.brick(), 4, 468.8)):
        other = crops(texture, seed)
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
    assert [metrics._time_text(s) for s in (45, 123, 3723, 93780)] == ["45s", "2m 03s", "1h 02m 03s", "1d 02h 03m"]
