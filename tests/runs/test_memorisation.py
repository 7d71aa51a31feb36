"""Copies: what `aligned_ncc` sees through, what is planted and must be found, what is fresh and must not be accused."""

import json

import numpy as np
import pytest
from made_up_runs import MadeUpRun, random_snapshot
from made_up_sets import steel_archive
from scipy.ndimage import gaussian_filter

from semgan_nb import plots
from semgan_nb import study_plots
from semgan_nb.checkpoints import find_snapshot
from semgan_nb.launch import summary_lines
from semgan_nb.studies import study_text
from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset, subset_indices
from semgan_nb.scores import best_record, higher_is_better, parse_metric, summary
from semgan_nb.memorisation import (
    MemorisationTest,
    SimilarityNull,
    best_alignment,
    aligned_ncc,
    alignment_features,
    memorisation_text,
    plant_copies,
    shares_pixels,
    dihedral,
)
from semgan_nb.reference_sets import REFERENCE_SETS
from semgan_nb.evaluation import judge_together, score
from semgan_nb.judges import MemoryJudge, get_judge
from semgan_nb.foundation import BadInput
from semgan_nb.runs import read_metrics
from semgan_nb.studies import Study
from semgan_nb.training import best_snapshots
from semgan_nb.synthetic import dual_phase_islands, specimens

RNG = np.random.default_rng(0)
FRACTIONS = np.linspace(0.37, 0.9, 10)


@pytest.fixture(scope="module")
def steel():
    """Micrographs of 48 px, of which the middle 32 are used: so that copies can be moved. 500 of ten specimens."""
    rng = np.random.default_rng(3)
    return np.stack([dual_phase_islands(rng, 48, FRACTIONS[i % 10], field_um=7.2)[0] for i in range(500)])


def middle(images, dy=0, dx=0):
    return images[:, 8 + dy : 40 + dy, 8 + dx : 40 + dx]


def noisy(images, sigma):
    return (
        np.rint(images + sigma * np.random.default_rng(5).standard_normal(images.shape)).clip(0, 255).astype(np.uint8)
    )


COPIES = {
    "exact": lambda x: middle(x),
    "mirrored": lambda x: middle(x)[..., ::-1],
    "turned": lambda x: np.stack([dihedral(image, 1 + k % 7) for k, image in enumerate(middle(x))]),
    "noise 4": lambda x: noisy(middle(x), 4),
    "noise 8": lambda x: noisy(middle(x), 8),
    "blurred 1 px": lambda x: np.rint(gaussian_filter(middle(x).astype(float), (0, 1, 1))).astype(np.uint8),
    "moved by a pixel": lambda x: middle(x, 1, 0),
    "moved by two and three": lambda x: middle(x, -2, 3),
    "moved by four": lambda x: middle(x, 4, -4),
    "other contrast": lambda x: np.rint(0.6 * middle(x) + 60).astype(np.uint8),
    "all of it": lambda x: noisy(
        np.rint(
            gaussian_filter(
                np.stack([dihedral(image, 1 + k % 7) for k, image in enumerate(middle(x, 2, -1))]).astype(float),
                (0, 0.5, 0.5),
            )
        ),
        4,
    ),
}


@pytest.mark.parametrize("how", COPIES)
def test_planted_copies_are_found(steel, how):
    memory = MemorisationTest(middle(steel[:250]), unseen=middle(steel[250:350]), groups=np.arange(250) % 10)
    generated = middle(steel[350:450]).copy()
    generated[:30] = COPIES[how](steel[:30])
    found = memory.compare(generated)
    assert found["p_value"] < 1e-6 and found["share"] > 0.25 and "reproduces training images" in found["text"]
    assert (
        found["plain"] >= 10
        and sum(pair["image"] < 30 and pair["train"] == str(pair["image"]) for pair in found["worst"]) == 10
    )
    assert sum(found["groups"].values()) == round(found["share"] * 100)


def test_few_copies_are_found_by_name(steel):
    memory = MemorisationTest(middle(steel[:250]), names=[f"tile{i}" for i in range(250)])
    generated = middle(steel[250:450]).copy()
    generated[[7, 70]] = COPIES["all of it"](steel[[100, 200]])
    found = memory.compare(generated)
    assert (
        found["plain"] == 2
        and found["p_value"] > 0.001
        and "look at the worst pairs" in found["text"]
        and found["nearer"] is None
    )
    assert {(pair["image"], pair["train"]) for pair in found["worst"][:2]} == {(7, "tile100"), (70, "tile200")}


@pytest.mark.parametrize("seed", range(3))
def test_fresh_images_of_the_same_specimens_are_not_accused(seed):
    images, _, groups = specimens(900, 32, seed=seed, n_specimens=6)
    memory = MemorisationTest(images[:500], unseen=images[500:700], groups=groups[:500])
    found = memory.compare(images[700:])
    assert found["p_value"] > 0.001 and found["plain"] == 0 and "no sign of copies" in found["text"]
    assert found["share"] < 0.05 and abs(found["nearer"] - found["nearer_fair"]) < 0.1


def test_larger_images_and_colour(steel):
    rng = np.random.default_rng(8)
    large = np.stack([dual_phase_islands(rng, 128, FRACTIONS[i % 10], field_um=19.2)[0] for i in range(60)])
    colour = np.repeat(large[:, None], 3, 1)
    memory = MemorisationTest(colour[:40])
    generated = colour[40:].copy()
    generated[:8] = np.roll(np.stack([dihedral(image, 6) for image in colour[:8]]), (9, -5), (2, 3))
    found = memory.compare(generated)
    assert found["plain"] >= 7 and all(pair["train"] == str(pair["image"]) for pair in found["worst"][:7])


def test_likeness_of_known_pairs(steel):
    a = middle(steel[:6])
    found = aligned_ncc(a, a)
    assert np.abs(np.diag(found) - 1).max() < 1e-5 and found[~np.eye(6, dtype=bool)].max() < 0.95
    for k in range(8):
        assert aligned_ncc(np.stack([dihedral(x, k) for x in a]), a).diagonal().min() > 0.9999
    assert np.abs(aligned_ncc(255 - a, a).diagonal()).max() < 0.95  # a negative is no copy
    assert aligned_ncc(np.full((1, 32, 32), 7, np.uint8), a).max() <= 1e-3  # a flat image is like nothing
    assert np.array_equal(aligned_ncc(alignment_features(a), alignment_features(a)), found)
    with pytest.raises(BadInput, match="square ones of one size"):
        aligned_ncc(a, np.zeros((2, 16, 16), np.uint8))
    with pytest.raises(BadInput, match="square ones of one size"):
        aligned_ncc(np.zeros((2, 32, 16), np.uint8), np.zeros((2, 32, 16), np.uint8))


@pytest.mark.parametrize("k", range(8))
def test_laid_on_undoes_turn_and_shift(steel, k):
    image, moved = middle(steel[:1])[0], dihedral(middle(steel[:1], 2, -3)[0], k)
    found = best_alignment(moved, image)
    assert found["likeness"] > 0.98
    inner = np.s_[6:-6, 6:-6]
    assert np.abs(found["image"][inner].astype(int) - moved[inner]).max() == 0


def test_overlapping_crops_do_not_make_the_yardstick(tmp_path):
    """Tiles cut every 4 px resemble their neighbours; only because these are left out is a copy still remarkable."""
    rng, items = np.random.default_rng(0), []
    for k in range(4):
        micrograph = dual_phase_islands(rng, 96, FRACTIONS[2 * k], field_um=14.4)[0]
        for y in range(0, 65, 4):
            for x in range(0, 65, 16):
                items.append(
                    dict(
                        image=micrograph[y : y + 32, x : x + 32],
                        source=f"m{k}",
                        source_sha256=f"{k}",
                        crop=(y, x, 32, 32),
                        group=f"m{k}",
                    )
                )
    write_archive(tmp_path / "tiles.zip", items, {})
    write_archive(tmp_path / "unknown.zip", [{**item, "crop": None} for item in items], {})
    judge, blind = (get_judge("aligned_memory40_subset", tmp_path / f"{name}.zip") for name in ("tiles", "unknown"))
    assert judge.yardstick().limit < 0.93 < 0.98 < blind.yardstick().limit
    copies = plant_copies(judge_images(tmp_path / "tiles.zip")[::7][:40], np.random.default_rng(1))
    assert judge.judge(copies)["results"]["aligned_memory40_subset"] > 0.9


def judge_images(path):
    return Dataset(path).images()


def test_shares_pixels():
    a = dict(source_sha256="a", crop=(0, 0, 32, 32))
    assert shares_pixels(
        [a],
        [
            a,
            dict(a, crop=(31, 31, 32, 32)),
            dict(a, crop=(32, 0, 32, 32)),
            dict(a, source_sha256="b"),
            dict(crop=(0, 0, 32, 32)),
            {},
        ],
    ).tolist() == [[True, True, False, False, False, False]]
    assert not shares_pixels([{}], [{}]).any()


def test_yardstick():
    rng = np.random.default_rng(0)
    real = np.tanh(rng.gumbel(1.0, 0.1, 1000))
    stick = SimilarityNull(real)
    assert stick.beyond(real).sum() <= 10 and abs(stick.mode - 1.0) < 0.02 and abs(stick.width - 0.1) < 0.01
    assert stick.chance(np.tanh(1.0)) == pytest.approx(1 - np.exp(-1), abs=0.05) and stick.chance(0.9999) < 1e-9
    assert stick.p_value(np.tanh(rng.gumbel(1.0, 0.1, 500))) > 0.01 > stick.p_value(np.tanh(rng.gumbel(1.2, 0.1, 500)))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return steel_archive(tmp_path_factory.mktemp("memory") / "steel.zip", 400)


def test_judge_of_an_archive(archive, tmp_path):
    judge = get_judge("aligned_memory100_subset", archive, subset=60, subset_seed=3, cache=tmp_path)
    train = Dataset(archive, part="train").images()
    own = train[subset_indices(len(train), 60, 3)]
    fresh = specimens(480, 32, seed=4, n_specimens=8)[0][400:, None]
    generated = np.concatenate([fresh, plant_copies(own[:20], RNG)])
    told = []
    record = judge.judge(
        (generated[at : at + 30] for at in range(0, 100, 30)),
        progress=lambda done, total, text: told.append((done, total, text)),
    )
    assert record["results"].keys() == {"aligned_memory100_subset"} and record["metric"] == judge.metric
    assert (record["extractor"], record["num_real"], record["num_gen"], record["real"]) == (
        "aligned",
        60,
        100,
        "subset",
    ) and record["data"] == Dataset(archive).fingerprint
    assert (
        0.15 < record["results"]["aligned_memory100_subset"] < 0.3
        and record["p_value"] < 1e-6
        and record["same_groups"]
        and record["found"] > 0.9
    )
    assert set(record["groups"]) <= {"s0", "s1", "s3", "s4", "s6", "s7"} and all(
        0 <= pair["image"] < 100 for pair in record["worst"]
    )
    assert told and all(done <= total for done, total, _ in told) and json.loads(json.dumps(record)) == record
    assert len(json.dumps(record)) < 4000
    ladder = judge.ladder()
    assert {rung["key"] for rung in ladder["rungs"]} == {"floor", "copies"} and ladder["rungs"][0][
        "value"
    ] < 0.05 < 0.9 < ladder["rungs"][1]["value"]
    again = get_judge("aligned_memory100_subset", archive, subset=60, subset_seed=3, cache=tmp_path)
    again.nearest = None  # nothing is measured again
    assert again.ladder() == ladder
    other = get_judge("aligned_memory100_subset", archive, subset=60, subset_seed=4, cache=tmp_path)
    assert other.ladder()["rungs"] and len(list(tmp_path.glob("memory-*.json"))) == 2
    for path in tmp_path.glob("memory-*.json"):
        path.write_text(path.read_text()[:50])
    assert get_judge("aligned_memory100_subset", archive, subset=60, subset_seed=3, cache=tmp_path).ladder() == ladder


def test_whole_training_part_and_hold_out(archive):
    judge = get_judge("aligned_memory50_subset", archive)
    assert judge.num_real == 300 and not judge.same_groups
    record = judge.judge(Dataset(archive, part="holdout").images()[:50])
    assert record["p_value"] > 0.001 and not record["same_groups"] and "of other groups" in record["text"]


def test_beside_other_metrics(archive):
    judges = [get_judge(name, archive) for name in ("random_fd50_full", "aligned_memory50_subset")]
    assert isinstance(judges[1], MemoryJudge) and parse_metric(judges[1].metric).name == judges[1].metric
    records = judge_together(judges, specimens(50, 32, seed=9, n_specimens=8)[0][:, None])
    assert [record["metric"] for record in records] == ["random_fd50_full", "aligned_memory50_subset"] and records[1][
        "p_value"
    ] > 0.001
    assert {"floor", "extrapolated", "warnings", "extractor_sha256", "total_time_str"} <= set(records[1])


def test_refusals(archive, tmp_path):
    with pytest.raises(BadInput, match="5 training images are too few"):
        get_judge("aligned_memory50_subset", archive, subset=5)
    with pytest.raises(BadInput, match="9 training images are too few"):
        MemorisationTest(np.zeros((9, 32, 32), np.uint8))
    judge = get_judge("aligned_memory50_subset", archive)
    with pytest.raises(BadInput, match="there were 7: generate more or use aligned_memory7_subset"):
        judge.judge(np.zeros((7, 1, 32, 32), np.uint8))
    with pytest.raises(BadInput, match="judge a network against its own data"):
        judge.judge(np.zeros((50, 1, 16, 16), np.uint8))
    for name, word in (
        ("aligned_memory0_subset", "at least 2"),
        ("aligned_memory50_full", "known are subset"),
        ("lite0_memory50_subset", "known are aligned"),
        ("aligned_fd50_full", "extractor 'aligned'"),
        ("memory", "no metric"),
    ):
        with pytest.raises(BadInput, match=word):
            get_judge(name, archive)
    with pytest.raises(BadInput, match="no metric of memorisation"):
        MemoryJudge("random_fd50_full", archive)
    with pytest.raises(BadInput, match="use MemorisationTest, or the judge"):
        score("aligned_memory50_subset", np.zeros((50, 1, 32, 32), np.uint8), np.zeros((50, 1, 32, 32), np.uint8))


def test_alike_training_images_are_said_to_blunt_the_verdict():
    rng = np.random.default_rng(0)
    one = specimens(1, 32, seed=0)[0]
    train = plant_copies(np.repeat(one, 60, 0), rng)  # sixty copies of one image
    found = MemorisationTest(train).compare(plant_copies(np.repeat(one, 30, 0), rng))
    assert found["found"] < 0.8 and "less of a verdict" in found["text"] and memorisation_text(found) == found["text"]


def test_no_snapshot_is_the_best_for_copying_nothing(tmp_path):
    """The untrained snapshot has the smallest share of copies; nothing may prefer it for that."""
    name = "aligned_memory100_subset"
    run = MadeUpRun(tmp_path / "study" / "aug=noaug-seed0", aug="noaug")
    run.writer.write_json(
        f"ladder-{name}.json",
        dict(
            metric=name,
            num_real=60,
            num_gen=100,
            rungs=[
                dict(key=key, name=REFERENCE_SETS[key], value=value)
                for key, value in (("floor", 0.01), ("copies", 0.97))
            ],
        ),
    )
    for kimg, share in ((0, 0.0), (16, 0.5), (32, 0.2)):
        run.tick(kimg)
        random_snapshot(run.dir / f"snapshot-{kimg:06d}.safetensors")
        about = dict(
            extractor="aligned",
            extractor_sha256="",
            num_real=60,
            num_gen=100,
            real="subset",
            snapshot_pkl=f"snapshot-{kimg:06d}.safetensors",
        )
        run.writer.append(f"metric-{name}.jsonl", dict(results={name: share}, metric=name, kimg=kimg, **about))
    run.end()
    metrics = read_metrics(run.dir)
    assert (
        higher_is_better(name) is None
        and best_record(metrics[name]) is None
        and name not in {row["result"] for row in summary(metrics)}
    )
    assert find_snapshot(run.dir, best="lite0_fd500_holdout").name == "snapshot-000032.safetensors" and not any(
        name in line for line in summary_lines(run.dir)
    )
    with pytest.raises(BadInput, match="knows no best snapshot"):
        find_snapshot(run.dir, best=name)
    texts = lambda figure: (
        [text.get_text() for axes in figure.axes for text in axes.texts]
        + [
            axes.get_title(loc="left") + axes.get_title() + axes.get_xlabel() + axes.get_ylabel()
            for axes in figure.axes
        ]
    )
    ladder = texts(plots.ladder_figure(json.loads((run.dir / f"ladder-{name}.json").read_text()), metrics[name]))
    assert not any("best" in text for text in ladder) and any(
        "share of copies of 60 training images" in text for text in ladder
    )
    assert f"share of copies\n({name})" in texts(plots.curves(run.dir)) and not any(
        "best" in text for text in texts(study_plots.best_values(run.dir.parent, name))
    )
    (row,) = Study(run.dir.parent).best_table(name)
    assert best_snapshots(run.dir) == {"snapshot-000032.safetensors"}  # of the distance
    assert (
        row["best"] == row["end"] == [0.2]
        and "last: median" in study_text(run.dir.parent, [name])
        and "best: median" not in study_text(run.dir.parent, [name])
    )
