"""Judges of whole archives: their parts, caches, records and ladders, what they refuse, several of them together,
and in training. The numbers themselves: tests/unit/test_metrics.py."""

import json

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from made_up_sets import archive_of
import semgan_nb.evaluation as evaluation
from semgan_nb import plots
from semgan_nb.checkpoints import find_snapshot
from semgan_nb.launch import evaluate, run_training
from semgan_nb.cli import main
from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset, subset_indices
from semgan_nb.extractors import get_extractor
from semgan_nb.same_material import compare
from semgan_nb.distances import blur, feature_statistics, path_length
from semgan_nb.judges import get_judge
from semgan_nb.scores import best_record, between_rungs, parse_metric
from semgan_nb.reference_sets import REFERENCE_SETS
from semgan_nb.evaluation import Judge, judge_together, score
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Generator
from semgan_nb.runs import laptop, read_metrics, snapshots


def by_sqrtm(a, b):
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in (a, b))
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * sqrtm(sigma1 @ sigma2).real)


def blobs(n, seed):
    """Smooth random images with a texture that blur removes."""
    rng = np.random.default_rng(seed)
    coarse = blur(rng.integers(0, 256, (n, 1, 32, 32), dtype=np.uint8), 2).astype(float)
    return np.clip((coarse - 128) * 4 + 128 + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    images = blobs(400, 0)
    items = [
        dict(
            name=f"{i:03d}",
            image=image[0],
            source=f"s{i // 20}.png",
            source_sha256="",
            crop=(0, 0, 32, 32),
            group=f"g{i // 20}",
            pixel_size_nm=None,
            fraction=0.5,
            part="holdout" if i // 20 % 4 == 0 else "train",
        )
        for i, image in enumerate(images)
    ]
    write_archive(path, items, {})
    return path


@pytest.fixture(scope="module")
def open_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "open.zip"
    items = [
        dict(
            name=f"{i:03d}",
            image=image[0],
            source="s.png",
            source_sha256="",
            crop=(0, 0, 32, 32),
            group=f"g{i}",
            pixel_size_nm=None,
            fraction=0.5,
            part="train",
        )
        for i, image in enumerate(blobs(60, 1))
    ]
    write_archive(path, items, {})
    return path


def part_of(archive, indices):
    names = Dataset(archive).names
    return [names[i] for i in indices]


def test_holdout_judge(archive):
    judge = Judge("random_fd100_holdout", archive)
    train, held = (Dataset(archive, part=part).names for part in ("train", "holdout"))
    assert sorted(part_of(archive, judge.real_indices)) == held and set(part_of(archive, judge.rung_indices)) <= set(
        train
    )
    told = []
    ladder = judge.ladder(progress=lambda done, total, text: told.append((done, total, text)))
    value = {rung["key"]: rung["value"] for rung in ladder["rungs"]}
    assert list(value) == ["floor", "blur0.5", "blur1", "blur2", "phase", "blend", "field", "distinct10"]
    assert all(rung["name"] == REFERENCE_SETS[rung["key"]] for rung in ladder["rungs"])
    assert value["floor"] < value["blur0.5"] < value["blur1"] < value["blur2"] and value["floor"] < value["distinct10"]
    assert told[-1][0] == told[-1][1] == 800 and [t[0] for t in told] == sorted(t[0] for t in told)
    assert {key: ladder[key] for key in ("metric", "extractor", "real", "num_real", "num_gen", "seed")} == dict(
        metric="random_fd100_holdout", extractor="random", real="holdout", num_real=100, num_gen=100, seed=0
    )
    assert (
        ladder["data"] == Dataset(archive).fingerprint and ladder["extractor_sha256"] == get_extractor("random").sha256
    )
    json.dumps(ladder)


def test_records(archive):
    judge = Judge("random_fd50_holdout", archive, seed=3)
    images = blobs(60, 7)
    record = judge.judge(images)
    assert set(record) == {
        "results",
        "metric",
        "total_time",
        "total_time_str",
        "num_gpus",
        "timestamp",
        "extractor",
        "extractor_sha256",
        "num_real",
        "num_gen",
        "real",
        "seed",
        "data",
        "floor",
        "extrapolated",
        "warnings",
    }
    assert (
        record["metric"] == "random_fd50_holdout"
        and record["seed"] == 3
        and record["num_real"] == record["num_gen"] == 50
    )
    extractor = get_extractor("random")
    expected = by_sqrtm(extractor(Dataset(archive).images(judge.real_indices)), extractor(images[:50]))
    assert record["results"]["random_fd50_holdout"] == pytest.approx(expected, rel=1e-4)
    json.dumps(record)
    batches = (images[at : at + 16] for at in range(0, 60, 16))
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
    assert sorted(f.name.rpartition("-")[0] for f in files) == [
        "features-random",
        "random_fd40_holdout",
        *(f"rung-{key}-random" for key in ("blend", "blur0.5", "blur1", "blur2", "field", "floor", "phase")),
    ]
    again = Judge("random_fd40_holdout", archive, cache=tmp_path / "cache")
    monkeypatch.setattr(again, "_features", lambda *args: pytest.fail("computed again"))
    assert again.ladder() == ladder
    assert again.judge(blobs(40, 9))["results"] == record["results"]
    Judge("random_fd40_holdout", archive, seed=1, cache=tmp_path / "cache").real_side()
    assert len(list((tmp_path / "cache").iterdir())) == 10
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    assert Judge("random_fd40_holdout", archive, cache=tmp_path / "cache").ladder() == ladder
    (kept,) = (file for file in files if file.suffix == ".json")
    for damaged in ("[1]", '{"ladder": 5}', '{"ladder": {"rungs": []}}'):
        kept.write_text(damaged)
        assert Judge("random_fd40_holdout", archive, cache=tmp_path / "cache").ladder() == ladder


def test_a_record_has_its_fields_in_the_order_of_the_file(archive):
    beginning = (
        "results metric total_time total_time_str num_gpus timestamp extractor extractor_sha256 num_real num_gen"
    )
    fields = [*beginning.split(), "real", "seed", "data", "floor", "extrapolated", "warnings"]
    for metric, more in (("random_fd40_holdout", []), ("random_kid40_holdout", ["subsets"])):
        record = Judge(metric, archive).judge(blobs(40, 9))
        assert list(record) == fields + more
    assert list(score("random_fd40_full", blobs(40, 1), blobs(40, 2))) == [
        name
        for name in fields
        if name not in ("total_time", "total_time_str", "num_gpus", "timestamp", "real", "seed", "data")
    ]


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
    path = archive_of(tmp_path / "many.zip", blobs(520, 5)[:, 0], name="{:03d}", groups=520)
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


def test_the_training_part_is_a_real_side_whatever_the_subset(archive):
    """The same number for every subset, so that runs on 10 and on 500 images can be compared."""
    images = blobs(50, 2)
    judges = [Judge("random_fd50_train", archive, subset=subset, subset_seed=4) for subset in (None, 10, 100)]
    assert {judge.num_real for judge in judges} == {300}
    assert part_of(archive, judges[1].real_indices) == Dataset(archive, part="train").names
    records = [judge.judge(images) for judge in judges]
    assert {record["real"] for record in records} == {"train"} and len({str(r["results"]) for r in records}) == 1
    assert judges[0].ladder() == judges[1].ladder()
    for name in ("lite0_pr503_train", "augment_leak50_train", "latent_share_train", "micro50_train", "kid50k"):
        assert parse_metric(name).name == name
    with pytest.raises(BadInput, match="real side 'train'"):
        parse_metric("aligned_memory500_train")
    drawn = [get_judge("latent_share_train", archive, subset=subset)._pairs.tolist() for subset in (None, 10)]
    assert drawn[0] == drawn[1]


def test_a_subset_is_drawn_by_micrograph_for_judges_too(tmp_path):
    path = archive_of(tmp_path / "m.zip", blobs(60, 0)[:, 0], source_sha256="0" * 64)  # of one micrograph
    assert Judge("random_fd20_subset", path, subset=1, subset_by="micrograph").num_real == 60
    assert get_judge("aligned_memory20_subset", path, subset=1, subset_by="micrograph").num_real == 60
    assert get_judge("augment_leak20_subset", path, subset=1, subset_by="micrograph").num_real == 60


def test_too_few_images_name_the_metric_that_fits(archive, open_archive):
    with pytest.raises(
        BadInput, match="needs 500 images in its hold-out part, there are 100: use random_fd100_holdout"
    ):
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


def test_compare():
    real = blobs(200, 0)
    same = compare(real, blobs(200, 1), matched=False)
    assert same["fraction"]["reached"] and same["spectrum"]["reached"] and same["num_real"] == 200
    assert same["fraction"]["difference"] < 0.05 and same["spectrum"]["largest"] < 0.1
    assert len(same["spectrum"]["difference"]) == len(same["spectrum"]["frequency"]) == 16
    soft = compare(real, blur(blobs(200, 1), 1), matched=True)
    assert not soft["spectrum"]["reached"] and soft["spectrum"]["difference"][8] < -0.25
    assert (
        "not reached" in soft["text"]
        and "histogram-matched" in soft["text"]
        and "histogram-matched" not in same["text"]
    )
    darker = np.full_like(real, 40)
    darker[:, :, :3] = 220
    assert not compare(real, darker)["fraction"]["reached"]
    assert soft["spectrum"]["floor"] == same["spectrum"]["floor"] < 0.1
    json.dumps(soft)
    with pytest.raises(BadInput, match="32x32, generated ones 16x16"):
        compare(real, real[:, :, :16, :16])


# Names, the best of several, two sources.


class Known:
    name, sha256, about, preprocessing, dim, genuine = "inception", "0" * 64, "made up", "", 512, False

    def __call__(self, images, progress=None, classes=False):
        return get_extractor("random")(images, progress)


def test_only_the_official_thing_has_the_official_name(archive, monkeypatch):
    network = Known()
    monkeypatch.setattr(evaluation, "get_extractor", lambda name, *args: network)
    with pytest.raises(
        BadInput, match="fid50k_full: the weights are not the known file .*: ask for inception_fd50k_full"
    ):
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


@pytest.mark.parametrize("name", ["random_fd50_full", "random_kid50_full", "random_pr503_full", "lite0_is50"])
def test_two_sources_of_any_kind(name, archive):
    images, data = blobs(60, 3), Dataset(archive, part="holdout")
    found = score(name, data, images)
    for real, generated in (
        (data.images(), lambda: iter([images[:31], images[31:]])),
        (lambda: data, torch.from_numpy(images)),
        ([data.images()], (images[at : at + 7] for at in range(0, 60, 7))),
    ):
        other = score(name, real, generated)
        assert other["results"] == pytest.approx(found["results"], rel=1e-4, nan_ok=True) and (
            other["num_real"],
            other["num_gen"],
        ) == (0 if "is" in name else 100, 50)
    json.dumps(found)
    with pytest.raises(BadInput, match="needs 50 generated images, there were 9"):
        score(name, data, images[:9])


# The judge, for all statistics.


@pytest.mark.parametrize(
    "name, count", [("random_kid60_holdout", 60), ("random_pr603_holdout", 60), ("lite0_is24", 24)]
)
def test_judges_of_other_statistics(name, count, archive, tmp_path):
    judge, images = Judge(name, archive, cache=tmp_path), blobs(count, 7)
    ladder, record = judge.ladder(), judge.judge(images)
    assert (
        set(record["results"]) == set(judge.parsed.results)
        and record["num_gen"] == count
        and record["num_real"] == (0 if "is" in name else count)
    )
    assert {"floor", "blur1", "phase"} <= {rung["key"] for rung in ladder["rungs"]}
    json.dumps([ladder, record])
    again = Judge(name, archive, cache=tmp_path)
    assert again.ladder() == ladder and again.judge(images)["results"] == record["results"]
    values = {rung["key"]: rung.get("values", {name: rung["value"]}) for rung in ladder["rungs"]}
    if "pr" in name:
        assert (
            values["floor"][f"{name}_recall"] > values["distinct10"][f"{name}_recall"]
            and values["floor"][f"{name}_precision"] > values["blur2"][f"{name}_precision"]
        )
        assert record["floor"]["results"][f"{name}_recall"]["mean"] > 0.4
    if "kid" in name:
        assert (
            values["floor"][name] < values["blur1"][name] < values["blur2"][name]
            and record["extrapolated"] == record["results"][name]
        )


def test_metrics_share_features(archive, tmp_path, monkeypatch):
    looked = []
    extractor = get_extractor("random")
    whole = type(extractor).__call__
    monkeypatch.setattr(
        type(extractor),
        "__call__",
        lambda self, images, *args, **options: looked.append(len(images)) or whole(self, images, *args, **options),
    )
    judges = [
        Judge(name, archive, cache=tmp_path)
        for name in ("random_fd60_holdout", "random_kid60_holdout", "random_pr603_holdout")
    ]
    together = judge_together(judges, blobs(60, 7))
    assert sum(looked) == 120  # 60 real and 60 generated images, once for all three
    looked.clear()
    assert (
        Judge("random_kid60_holdout", archive, cache=tmp_path).judge(blobs(60, 7))["results"] == together[1]["results"]
        and sum(looked) == 60
    )
    assert [Judge(j.metric, archive).judge(blobs(60, 7))["results"] for j in judges] == [
        record["results"] for record in together
    ]


@pytest.mark.parametrize(
    "real, images", [("full", 400 + 6 * 60 + 60), ("subset", 300 + 6 * 60 + 60), ("holdout", 60 + 7 * 60 + 60)]
)
def test_real_images_are_looked_at_once(real, images, archive, tmp_path, monkeypatch):
    """By several metrics, their ladders and their floors together; a second evaluation looks at what was generated
    only."""
    looked = []
    whole = type(get_extractor("random")).__call__
    monkeypatch.setattr(
        type(get_extractor("random")),
        "__call__",
        lambda self, images, *args, **options: looked.append(len(images)) or whole(self, images, *args, **options),
    )
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
        archive_of(tmp_path / "a.zip", blobs(30, seed)[:, 0], name="{:03d}", groups=30)
        found = Judge("random_fd15_full", tmp_path / "a.zip", cache=tmp_path / "cache").real_features()
        assert np.array_equal(found, get_extractor("random")(Dataset(tmp_path / "a.zip").images()))
    assert len(list((tmp_path / "cache").glob("features-*"))) == 2
    with pytest.raises(
        BadInput, match="needs 20 images for the real side of its ladder.* there are 10: use random_fd15_full"
    ):
        Judge("random_fd20_full", tmp_path / "a.zip")  # before anything is computed


# The path length.


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(
        z_dim=16, c_dim=0, w_dim=16, img_resolution=32, img_channels=1, channel_base=256, channel_max=8
    ).eval()


def test_a_judge_of_path_lengths(archive, generator, tmp_path):
    judge = Judge("random_ppl20_wend", archive, cache=tmp_path)
    record = judge.judge(generator)
    assert (
        record["results"]["random_ppl20_wend"] == path_length(generator, get_extractor("random"), 20, "wend")
        and "stand-in" in record["lpips"]
    )
    assert judge.ladder()["rungs"] == [] and between_rungs(judge.ladder(), 1.0) and json.dumps(record)
    with pytest.raises(BadInput, match="needs a generator, not images"):
        judge.judge(blobs(20, 0))
    found = judge_together([Judge("random_fd20_full", archive), judge], generator)
    assert found[1]["results"] == record["results"] and found[0]["num_gen"] == 20


# A run, afterwards.


@pytest.fixture(scope="module")
def run(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run_training(
        laptop(32).replace(
            total_kimg=0.128,
            snap=1,
            kimg_per_tick=0.064,
            metrics=("random_pr203_full",),
            channel_base=512,
            channel_max=16,
            g_channels=(),
        ),
        archive,
        out,
    )
    return out


def test_training_and_evaluate_with_several_results(run, archive, capsys):
    records = read_metrics(run)["random_pr203_full"]
    assert len(records) >= 2 and set(records[0]["results"]) == {
        "random_pr203_full_precision",
        "random_pr203_full_recall",
    }
    assert (
        find_snapshot(run, "random_pr203_full_recall").name
        == best_record(records)["snapshot_pkl"]
        == find_snapshot(run, "random_pr203_full").name
    )
    names = ["random_fd20_full", "random_kid20_full", "random_ppl10_wend", "random_pr203_full"]
    done = evaluate(run, names, every=True, progress=False)
    assert len(done) == 4 * len(records) and {r["metric"] for r in done} == set(names)
    again = evaluate(run, names, every=True, progress=False)
    assert again == done and len(read_metrics(run)["random_fd20_full"]) == len(records)
    one = evaluate(snapshots(run)[0], ["random_fd30_full"], progress=False)
    assert (
        [r["snapshot_pkl"] for r in one]
        == [snapshots(run)[0].name]
        == [r["snapshot_pkl"] for r in read_metrics(run)["random_fd30_full"]]
    )
    assert main(["metrics", str(run), "--metrics", "random_fd20_full,random_pr203_full"]) in (0, None)
    said = capsys.readouterr().out
    assert (
        "random_pr203_full_recall" in said
        and "note: " in said
        and "real against real" in said
        and "for infinitely many images" in said
        and "where random_fd20_full is best" in said
    )
    figure = plots.curves(run)
    labels = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes]
    assert (
        "recall (random_pr203_full)" in labels
        and "precision (random_pr203_full)" in labels
        and sum("random_kid20_full" in label for label in labels) == 1
    )


def test_a_snapshot_that_lies_anywhere(run, archive, tmp_path):
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(snapshots(run)[-1].read_bytes())
    with pytest.raises(BadInput, match="lies in no run.*--data.*--metrics"):
        evaluate(lone)
    (record,) = evaluate(lone, ["random_fd20_full"], data=archive, progress=False)
    assert (
        record["results"] == evaluate(run, ["random_fd20_full"], progress=False)[0]["results"]
        and record["snapshot_pkl"] == "lone.safetensors"
    )
    assert list(tmp_path.iterdir()) == [lone]


def test_weights_are_looked_for_before_training(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMGAN_CACHE", str(tmp_path))
    for name in ("SEMGAN_WEIGHTS", "SEMGAN_WEIGHTS_VGG16"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="vgg16.pt .*are missing"):
        run_training(laptop(32).replace(total_kimg=0.128, metrics=("vgg16_pr203_full",)), archive, tmp_path / "run")
