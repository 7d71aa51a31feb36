"""The blind test: which images are shown, what an answer is worth, answers in files, and bad input."""

import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from semgan_nb.blind_test import (
    KINDS,
    blind_sheet,
    blind_text,
    d_prime,
    draw_trials,
    key_text,
    score,
    score_class,
    wilson,
    write_answers,
)
from semgan_nb.foundation import BadInput


@pytest.fixture(scope="module")
def pools():
    "Images that say what they are by their grey level: held-out 0-59, generated 100-159, training 200-250."
    make = lambda n, base: np.stack([np.full((1, 16, 16), base + k, np.uint8) for k in range(n)])
    real, generated, training = make(60, 0), make(60, 100), make(50, 200)
    for images in (real, generated, training):
        images[:, :, ::2] += 1  # something to blur
    return real, generated, training


def test_trials_are_of_the_seed_and_show_no_image_twice(pools):
    real, generated, training = pools
    for pairs in (False, True):
        first, again, other = (draw_trials(*pools, n=30, pairs=pairs, seed=seed) for seed in (0, 0, 1))
        assert (first.images == again.images).all() and first.kinds == again.kinds != other.kinds
        counts = Counter(first.kinds)
        assert set(counts) == set(KINDS) and counts["generated"] == (18 if pairs else 12)
        held = [int(image.min()) for trial in first.images for image in trial if image.max() < 90]
        made = [int(image.min()) for trial in first.images for image in trial if 100 <= image.min() < 170]
        assert len(made) == len(set(made)) == counts["generated"]
        assert len(held) >= 30 if pairs else len(held) >= counts["real"]
    for images, kind, place in zip(first.images, first.kinds, first.places):
        assert images[place].max() < 90 and (kind != "generated" or images[1 - place].min() >= 100)
    assert set(first.places) == {0, 1}


def test_intervals_are_those_of_scipy():
    for k, n in ((0, 10), (3, 10), (10, 10), (47, 60)):
        found = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((found.low, found.high), abs=1e-12)
    assert wilson(0, 0) == (0, 1)


def test_d_prime_of_observers_whose_truth_is_known():
    rng = np.random.default_rng(0)
    for truth, leaning in ((0.0, 0.5), (1.0, 0.0), (2.0, 1.5)):
        real, made = rng.normal(truth, 1, 20_000) > leaning, rng.normal(0, 1, 20_000) > leaning
        assert d_prime(real.sum(), 20_000, made.sum(), 20_000) == pytest.approx(truth, abs=0.05)
        right = (rng.normal(truth, 1, 20_000) > rng.normal(0, 1, 20_000)).sum()
        assert d_prime(right, 20_000) == pytest.approx(truth, abs=0.05)
    assert d_prime(10, 10, 0, 10) == pytest.approx(2 * norm.ppf(10.5 / 11))


def test_a_score_by_hand():
    kinds = ["real", "real", "generated", "generated", "generated", "blur1", "phase", "copy", "real"]
    found = score(kinds, [True, False, False, False, True, True, False, True, None])
    assert (found["right"], found["of"], found["answered"]) == (3, 5, 8) and found["accuracy"] == 0.6
    assert found["kinds"]["copy"] == dict(shown=1, right=None, real=1, interval=wilson(1, 1))
    assert found["kinds"]["phase"]["right"] == 1 and found["d_prime"] == pytest.approx(d_prime(1, 2, 1, 3))
    found = score(["generated", "generated", "real", "copy"], [0, 1, 1, 0], [0, 0, 1, 0])
    assert (found["right"], found["of"]) == (1, 2) and found["kinds"]["real"]["right"] is None
    assert found["kinds"]["copy"]["right"] == 1 and found["d_prime"] == pytest.approx(d_prime(1, 2))


def test_the_sentences_say_what_was_not_shown():
    kinds = ["real"] * 20 + ["generated"] * 20 + ["phase"] * 4
    eye, coin = [True] * 20 + [False] * 24, [True, False] * 20 + [True] * 4
    assert "better than by chance." in blind_text(score(kinds, eye)) and "mostly taken" not in blind_text(
        score(kinds, eye)
    )
    assert "no better than by chance" in blind_text(score(kinds, coin)) and "mostly taken" in blind_text(
        score(kinds, coin)
    )
    assert blind_text(score(kinds, [None] * 44)) == "Nothing was answered yet."


def test_a_class_from_a_folder(pools, tmp_path):
    trials = draw_trials(*pools, n=30, pairs=True, seed=2)
    write_answers(tmp_path / "a.json", trials, list(trials.places), "Ada")
    write_answers(tmp_path / "b.json", trials, [1 - place for place in trials.places])
    together, (ada, other) = score_class(tmp_path)
    assert (ada["person"], ada["right"], other["person"], other["right"]) == ("Ada", 18, "b", 0)
    assert (
        (together["right"], together["of"]) == (18, 36)
        and ada["d_prime"] == pytest.approx(-other["d_prime"])
        and ada["d_prime"] > 2
    )
    alone = draw_trials(*pools, n=30)
    write_answers(tmp_path / "c.json", alone, [None] * 30)
    with pytest.raises(BadInput, match="c.json: pairs and images shown alone"):
        score_class(tmp_path)
    about = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(about | dict(kinds=["made up"] * 30)))
    with pytest.raises(BadInput, match="c.json.*kinds"):
        score_class(tmp_path)
    with pytest.raises(BadInput, match="holds no answers"):
        score_class(tmp_path / "nowhere")


def test_too_few_images_or_answers_are_refused(pools):
    real, generated, training = pools
    with pytest.raises(BadInput, match="needs 12 generated images.*there are 5"):
        draw_trials(real, generated[:5], training, n=30)
    with pytest.raises(BadInput, match="training images"):
        draw_trials(real, generated, training[:, :, :8], n=30)
    with pytest.raises(BadInput, match="n is 12: .*from 30"):
        draw_trials(*pools, n=12)
    with pytest.raises(BadInput, match="2 trials and 1 answer"):
        score(["real", "real"], [True])


def test_the_sheet_and_its_key(pools):
    trials = draw_trials(*pools, n=30, pairs=True)
    figure, key = blind_sheet(trials), key_text(trials).splitlines()
    assert len(figure.axes) >= 60 and figure.axes[1].get_title() == "1b" and len(key) == 30
    assert key[0].startswith("1: ") and key[0].endswith("ab"[trials.places[0]])
