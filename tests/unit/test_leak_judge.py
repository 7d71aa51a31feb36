"""Chapters 35, 41, 46 and 57: what a network's leak is called, in records, at a tick and in a report."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from semgan_nb import augment
from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.evaluation import judge_together, score
from semgan_nb.foundation import BadInput
from semgan_nb.judges import LeakJudge, get_judge
from semgan_nb.leak import TRANSFORMS, _sparsest
from semgan_nb.runs import laptop, read_metrics
from semgan_nb.scores import higher_is_better, check_record, in_words, metric_name, parse_metric
from semgan_nb.opening import choose_metrics
from semgan_nb.opening import WARNINGS, leak_warning


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """An archive of images that are light at the top and lean to the right, and others of their kind."""
    path, rng = tmp_path_factory.mktemp("lit") / "lit.zip", np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    wave = lambda: (
        30 * np.sin((y + 0.4 * x) * rng.uniform(0.5, 0.9) + rng.uniform(0, 6.28)) + rng.normal(0, 6, (32, 32))
    )
    images = np.stack([140 - 2.5 * y + wave() for _ in range(200)]).round().clip(0, 255).astype(np.uint8)
    write_archive(path, [dict(image=image, group=str(k % 10)) for k, image in enumerate(images[:120])], {})
    return path, images[120:, None]


def test_every_augmentation_is_looked_for_or_known_to_be_left_out():
    looked_for = {name for _, names in TRANSFORMS.values() for name in names.split(", ")}
    of_colour, of_texture = {"hue", "saturation"}, {"imgfilter", "blur", "median", "noise", "cutout"}
    assert looked_for | of_colour | of_texture == set(augment.TRANSFORMS)


def test_a_record_names_the_augmentation(lit):
    path, images = lit
    judge = get_judge("augment_leak80_subset", path)
    assert isinstance(judge, LeakJudge) and judge.metric == "augment_leak80_subset" and judge.num_real == 120
    for these, verdict, leaking in (
        (images, "none", set()),
        (images[:, :, ::-1, ::-1], "leak", {"half_turn"}),
        (images[..., ::-1], "leak", {"mirror"}),
        (255 - images, "leak", {"inversion"}),
    ):
        record = check_record(judge.judge(np.ascontiguousarray(these)), judge.metric, "here")
        assert (
            record["verdict"] == verdict and {name for name, one in record["leaks"].items() if one["leaks"]} == leaking
        )
        assert record["results"].keys() == {f"augment_leak80_subset_{name}" for name in TRANSFORMS} and all(
            metric_name(name) == judge.metric for name in record["results"]
        )
        warning = leak_warning([dict(metric="lite0_fd50_full"), record])
        assert not warning or warning.startswith(WARNINGS["leak"])
        assert bool(warning) == bool(leaking) and all(TRANSFORMS[name][1] in warning for name in leaking)
    assert judge.ladder()["rungs"] == [] and judge.floor() is None
    with pytest.raises(BadInput, match="needs 80 generated images, there were 40"):
        judge.judge(images[:40])
    with pytest.raises(BadInput, match="has no hold-out part"):
        get_judge("augment_leak80_holdout", path)


def test_mirrored_training_images_make_mirrored_ones_no_leak(lit):
    path, images = lit
    both = np.concatenate([images[:40], images[40:, :, :, ::-1]])
    assert get_judge("augment_leak80_subset", path).judge(both)["leaks"]["mirror"]["leaks"]
    assert not get_judge("augment_leak80_subset", path, mirror=True).judge(both)["leaks"]["mirror"]["leaks"]


def test_it_is_measured_where_images_are_augmented_and_the_record_is_read(lit, tmp_path):
    path, images = lit
    data, config = Dataset(path), laptop(32)
    chosen = lambda **fields: choose_metrics(config.replace(metrics=("auto",), **fields), path, data)
    assert "augment_leak50_subset" in chosen(aug="ada", augpipe="bg") and "augment_leak50_subset" in chosen(
        aug="fixed", p=0.9, augpipe="color"
    )
    assert not any(
        in_words(name) and "leak" in name for name in (*chosen(aug="noaug"), *chosen(aug="ada", augpipe="noise"))
    )

    judge = get_judge("augment_leak80_subset", path)
    record = judge_together([judge], images[:, :, ::-1, ::-1].copy())[0] | dict(
        snapshot_pkl="snapshot-000000.safetensors", kimg=0.0, cur_nimg=0
    )
    (tmp_path / f"metric-{judge.metric}.jsonl").write_text(json.dumps(record) + "\n")
    (read,) = read_metrics(tmp_path)[judge.metric]
    assert read["verdict"] == "leak" and read["text"] == record["text"]


def test_names_of_leaks():
    assert (
        parse_metric("augment_leak500_subset").name == "augment_leak500_subset"
        and parse_metric("augment_leak2k_full").count == 2000
    )
    assert (
        higher_is_better("augment_leak500_subset_turn") is None
        and metric_name("augment_leak500_subset_half_turn") == "augment_leak500_subset"
    )
    for name in ("lite0_leak500_full", "augment_fd500_full", "augment_leak500"):
        with pytest.raises(BadInput):
            parse_metric(name)
    with pytest.raises(BadInput, match="get_judge"):
        score("augment_leak8_full", np.zeros((8, 1, 32, 32), np.uint8), np.zeros((8, 1, 32, 32), np.uint8))


def test_a_transform_that_cannot_be_does_not_take_the_place_of_one_that_can():
    """A network trained with rotate90 at p = 0.9 painted every image lit from the side; free turns explained that as
    well, with a share of 1.8, and nothing was named."""
    names = (("quarter_turn",), ("turn",))
    meter = SimpleNamespace(names=names, seen=np.array([True, True]), signatures=np.array([[1.0, 0.8], [0.0, 0.03]]))
    share, rest = _sparsest(meter, np.array([1.0, 0.03]), 0.02, ("quarter_turn", "turn"))
    assert share["quarter_turn"] == pytest.approx(1) and share["turn"] == 0 and rest < 0.01
    alone, rest = _sparsest(meter, np.array([0.4, 0.015]), 0.01, ("quarter_turn", "turn"))
    assert alone["turn"] == pytest.approx(0.75) and alone["quarter_turn"] == 0 and rest < 1e-6
