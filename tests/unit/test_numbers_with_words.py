"""Chapters 33, 41, 42, 45 and 58: no number without a sentence where it cannot be read."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from semgan_nb.archives import write_archive
from semgan_nb.baselines import _table_notes
from semgan_nb.cli import info
from semgan_nb.foundation import BadInput
from semgan_nb.judges import get_judge
from semgan_nb.quality import note_left_out
from semgan_nb.sources import Outcome
from semgan_nb.foundation import count_noun
from semgan_nb.evaluation import score
from semgan_nb.reference_sets import warnings_of
from semgan_nb.launch import record_lines
from semgan_nb.memorisation import MemorisationTest, SimilarityNull, memorisation_text
from semgan_nb.microstructure import measure
from semgan_nb.same_material import compare_microstructures
from semgan_nb.scores import between_rungs, number_text, parse_metric
from semgan_nb.synthetic import specimens


@pytest.fixture(scope="module")
def images():
    return specimens(24, 32, seed=0)[0][:, None]


def test_a_set_is_at_distance_zero_of_itself(images):
    record = score("random_fd24_full", images, images)
    assert abs(record["results"]["random_fd24_full"]) < 1e-6
    lines = record_lines(record)
    assert lines[0] == "random_fd24_full  0"
    said = "\n".join(lines)
    assert (
        "the distance is zero up to rounding" in said
        and "halves of the real images are" in said
        and "e-1" not in lines[0]
    )
    if record["extrapolated"] < -1e-6:
        assert "below zero" in said and "no more than zero" in said


def test_the_warning_of_the_floor_stays_below_zero():
    metric, floor = (
        parse_metric("lite0_fd500_full"),
        dict(num=250, results={"lite0_fd500_full": dict(mean=5.0, std=1.0)}),
    )
    for value in (8.0, 0.0, -8.5e-14, -3.0):
        assert any(
            "halves of the real images are 5 apart" in text for text in warnings_of(metric, 500, 500, 100, value, floor)
        ), value
    assert not any("halves" in text for text in warnings_of(metric, 500, 500, 100, 20.0, floor))
    assert any("below zero (-28)" in text for text in warnings_of(metric, 500, 500, 100, 1.0, floor, -28.0))


def test_a_kernel_distance_below_zero_says_why_and_names_its_subsets(images):
    record = score("random_kid24_full", images, images)
    assert record["subsets"] == dict(count=100, size=24) and record["results"]["random_kid24_full"] < 0
    said = "\n".join(record_lines(record))
    assert "without bias" in said and "mean over 100 subsets of 24 images a side" in said
    json.dumps(record)


def test_an_inception_score_of_too_few_is_refused(images):
    "Of fewer than ten images it was NaN, and so was its ladder, which made the run unreadable."
    for name in ("lite0_is2", "lite0_is9"):
        with pytest.raises(BadInput, match=rf"'{name}' asks for {name[-1]} images: at least 10$"):
            score(name, images[:2], images[:2])
    record = dict(score("lite0_is10", images[:10], images[:10]))
    assert np.isfinite(record["results"]["lite0_is10_mean"])
    record["results"]["lite0_is10_mean"] = float("nan")  # as records of before may say
    said = "\n".join(record_lines(record))
    assert "lite0_is10_mean  not a number" in said and "nan" not in said.replace("not a number", "")
    assert number_text("no_such", 0.5) == "0.5"


def test_identical_sets_are_said_to_be_the_same_images(images):
    seen = measure(images[:12], workers=1)
    found = compare_microstructures(seen, seen)
    assert (
        "both sets are the same images" in found["text"]
        and "; random parts of the two are apart by" in found["descriptors"]["fraction"]["sentence"]
    )
    assert "same images" not in compare_microstructures(seen, measure(images[12:], workers=1))["text"]


def test_a_chance_of_nothing_is_not_written_as_zero():
    found = dict(
        num_gen=500,
        share=1.0,
        num_real=500,
        quantile=0.99,
        limit=0.5,
        p_value=0.0,
        groups={"a": 500},
        plain=0,
        found=None,
        nearer=None,
    )
    assert "p = 0" not in memorisation_text(found) and "p below 1e-300" in memorisation_text(found)
    assert "(p = 1e-05)" in memorisation_text(found | dict(p_value=1e-5))


def test_tiles_are_not_advised_where_the_files_are_tiles(tmp_path):
    from PIL import Image
    from semgan_nb.preparation import prepare

    for side, words in ((40, "the files are hardly larger than the images"), (96, "--window auto")):
        (tmp_path / str(side)).mkdir()
        for k in range(3):
            Image.fromarray(np.random.default_rng(k).integers(0, 255, (side, side)).astype(np.uint8)).save(
                tmp_path / str(side) / f"{k}.png"
            )
        (few,) = [
            note
            for note in prepare(tmp_path / str(side), tmp_path / f"{side}.zip", 32, bar=0, progress=False)["notes"]
            if "few to learn from" in note
        ]
        assert words in few


def test_one_of_a_kind_is_no_plural(images, tmp_path):
    assert count_noun(1, "image", "is", "are") == "1 image is" and count_noun(2, "image", "is", "are") == "2 images are"
    write_archive(tmp_path / "one.zip", [dict(image=images[0, 0])], {})
    for name, words in (
        ("aligned_memory12_subset", "1 training image is too few"),
        ("augment_leak12_full", "1 real image does not tell"),
        ("random_fd12_full", "has 1 image: at least 2"),
    ):
        with pytest.raises(BadInput, match=words):
            get_judge(name, tmp_path / "one.zip")
    assert get_judge("random_is12", tmp_path / "one.zip").metric == "random_is12"  # has no real side
    with pytest.raises(BadInput, match="1 training image is too few"):
        MemorisationTest(train=images[:1])


def test_rungs_and_floors_that_are_only_rounding_are_zero():
    ladder = dict(metric="lite0_fd500_full", rungs=[dict(name="field", value=2.15e-14), dict(name="blur", value=19.04)])
    assert between_rungs(ladder, 1.0) == "between 'field' (0) and 'blur' (19)"
    assert between_rungs(ladder, 19.041) == "above the highest rung, 'blur' (19.04)"
    assert between_rungs(ladder | dict(metric="lite0_is11"), 1.0).startswith("between 'field' (2.15e-14)")
    name = "lite0_fd12_full"
    floor = dict(num=12, results={name: dict(mean=7.6e-16, std=8.4e-16)}, extrapolated=-3.78e-15)
    record = dict(metric=name, results={name: 4.0}, extrapolated=3.5, floor=floor)
    said = "\n".join(record_lines(record, dict(ladder, rungs=[dict(name="other", value=-1.02e-16)])))
    assert (
        "'other' (0)" in said and "halves of 12: 0 ± 0" in said and "where 0 is true: 0)" in said and "e-1" not in said
    )
    kernel = dict(metric="lite0_kid12_full", results={"lite0_kid12_full": 0.1254}, extrapolated=0.1254)
    assert "infinitely many" not in "\n".join(record_lines(kernel))  # it has no bias


def test_a_share_above_all_images_is_none():
    results = {f"augment_leak500_full_{name}": value for name, value in (("grey", 5.453), ("turn", 0.5))}
    lines = record_lines(dict(metric="augment_leak500_full", results=results))
    assert lines[0] == "augment_leak500_full_grey  more than all images (5.453), which is no share"
    assert lines[1] == "augment_leak500_full_turn  0.5"


def test_likenesses_without_spread_overflow_nowhere(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alike = images[:1].repeat(24, 0)
        found = MemorisationTest(train=alike, unseen=alike, groups=[str(k) for k in range(24)]).compare(alike)
        assert np.isfinite(SimilarityNull([0.5] * 24).chance([-1.0, 0.0, 0.5, 1.0])).all()
    assert found["share"] == 0


def test_what_was_not_asked_for_is_not_listed_and_marks_are_kept_by_marks(images, tmp_path):
    write_archive(tmp_path / "a.zip", [dict(image=image[0]) for image in images], dict(window=None, size=32))
    assert "None" not in info(tmp_path / "a.zip") and "size: 32" in info(tmp_path / "a.zip")
    for why, there, not_there in (
        ("with marks burnt in", "marks 'keep'", "lower the threshold"),
        ("blurred", "lower the threshold", "marks"),
    ):
        manifest = dict(images=[{}] * 20, rejected_images=[dict(why=why)] * 5, sources=[])
        (*_, advice) = note_left_out(Outcome(manifest, 1))
        assert there in advice and not_there not in advice


def test_r_t_is_shown_once_it_is_known():
    from semgan_nb.monitoring import _course

    assert _course(SimpleNamespace(rt=float("nan"), p=0.0)) == "p 0.000"
    assert _course(SimpleNamespace(rt=0.5, p=0.1)) == "r_t 0.50, p 0.100"


def test_the_table_of_baselines_says_why_a_kernel_distance_is_below_zero():
    rows = [dict(values={"lite0_kid50_full": value}) for value in (-0.00239, 0.1)]
    result = dict(rows=rows, count=50, num_real=50, real="full", matched=False)
    assert "lite0 kid: the kernel distance is below zero (-0.0024), as an estimate without bias" in _table_notes(result)
    assert "below zero" not in _table_notes(result | dict(rows=rows[1:]))
