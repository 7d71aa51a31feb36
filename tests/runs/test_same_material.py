"""Chapter 33: the descriptors as a metric of archives and runs, in several processes, and how often their verdict is
right."""

import json

import numpy as np
import pytest

from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.distances import blur
from semgan_nb.scores import parse_metric
from semgan_nb.evaluation import Judge
from semgan_nb.foundation import BadInput
from semgan_nb.microstructure import measure
from semgan_nb.same_material import compare_microstructures
from semgan_nb.runs import laptop, read_ladder, read_metrics
from semgan_nb.synthetic import specimens
from semgan_nb.launch import run_training

# What follows: segmentation, shapes with known answers, other libraries, many images, two sets, phase maps.


@pytest.fixture(scope="module")
def steel():
    return specimens(48, 64, seed=3, n_specimens=12, field_um=9.6)


def test_several_processes_measure_the_same(steel):
    one, two = (measure(steel[0][:10], workers=n).rows for n in (1, 2))
    assert (one == two).all()


# The metric that training can evaluate, and `compare` of chapter 45.


@pytest.fixture(scope="module", params=["none", "match"])
def archive(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("micro") / "data.zip"
    images, _, specimen = specimens(120, 32, seed=2, n_specimens=10, field_um=9.6)
    items = [
        dict(image=image, group=f"s{s}", pixel_size_nm=(300, 300), part="holdout" if s % 3 == 0 else "train")
        for image, s in zip(images, specimen)
    ]
    write_archive(path, items, dict(intensity=request.param))
    return path


def test_micro_is_a_metric_like_the_others(archive, tmp_path):
    assert (
        parse_metric("micro2k_full")[:4] == ("micro", "", 2000, "full")
        and parse_metric("micro50_holdout").name == "micro50_holdout"
    )
    for wrong in ("micro_full", "micro_fd50_full", "micro2k_half", "lite02k_full"):
        with pytest.raises(BadInput):
            parse_metric(wrong)
    judge = Judge("micro40_full", archive, cache=tmp_path)
    ladder = {rung["key"]: rung["value"] for rung in judge.ladder()["rungs"]}
    assert ladder["floor"] < 1.6 < ladder["blur2"] and ladder["phase"] > ladder["floor"]
    images = Dataset(archive).images()
    record = judge.judge(blur(images[:40], 1))
    assert (
        record["results"]["micro40_full"] > ladder["floor"]
        and record["extractor"] == "micro"
        and record["num_gen"] == 40
        and record["num_real"] == 120
    )
    assert record["descriptors"][record["worst"]] == max(record["descriptors"].values())
    assert json.loads(json.dumps(record)) == record
    matched = Dataset(archive).manifest["settings"]["intensity"] == "match"
    assert ("fraction" in record["descriptors"]) != matched and (
        "cannot be read" in record.get("note", "")
    ) == matched == any("cannot be read" in text for text in record["warnings"])
    assert (
        "µm" in " ".join(record["warnings"])
        and " px" not in " ".join(record["warnings"])
        and "farthest is the" in record["text"]
    )
    assert len(record["warnings"]) <= 4 and all("different. Real" in text for text in record["warnings"][matched:])
    again = Judge("micro40_full", archive, cache=tmp_path).judge([blur(images[:25], 1), blur(images[25:40], 1)])
    assert again["results"] == record["results"] and again["data"] == judge.data
    assert Judge("micro30_holdout", archive).judge(images[:30])["real"] == "holdout"


def test_training_evaluates_it(archive, tmp_path):
    run_training(
        laptop(32).replace(
            total_kimg=0.128,
            snap=1,
            kimg_per_tick=0.064,
            metrics=("micro20_full",),
            channel_base=512,
            channel_max=16,
            g_channels=(),
        ),
        archive,
        tmp_path / "run",
    )
    records = read_metrics(tmp_path / "run")["micro20_full"]
    assert (
        records
        and records[-1]["kimg"] == 0.128
        and read_ladder(tmp_path / "run", "micro20_full")["rungs"]
        and records[-1]["descriptors"]
    )


# Figures.


def test_verdicts_on_the_compare_microstructures_are_right_as_often_as_they_should():
    pool, rng = measure(specimens(400, 32, seed=1, n_specimens=400)[0]), np.random.default_rng(1)
    trials = [
        compare_microstructures(pool.take(order[:40]), pool.take(order[40:90]))
        for order in (rng.permutation(400) for _ in range(20))
    ]
    verdicts = [one["verdict"] for trial in trials for one in trial["descriptors"].values()]
    assert verdicts.count("same") > 0.9 * len(verdicts) and verdicts.count("different") < 0.02 * len(verdicts)
    assert np.median([trial["value"] for trial in trials]) == pytest.approx(1, abs=0.15)
