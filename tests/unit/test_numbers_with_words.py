"""Chapters 33, 41, 42, 45 and 58: no number without a sentence where it cannot be read."""

import json

import numpy as np
import pytest

from semgan_nb.foundation import BadInput
from semgan_nb.evaluation import score
from semgan_nb.reference_sets import warnings_of
from semgan_nb.launch import record_lines
from semgan_nb.memorisation import memorisation_text
from semgan_nb.microstructure import measure
from semgan_nb.same_material import compare_microstructures
from semgan_nb.scores import number_text, parse_metric
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
