"""Chapters 25 and 46: who decides what is seen, z or the noise."""

import numpy as np
import pytest
import torch

from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.evaluation import judge_together, score
from semgan_nb.foundation import BadInput
from semgan_nb.judges import LatentJudge, get_judge
from semgan_nb.latent import correlation, crossed_images, has_noise, intraclass, noise_draws, shares
from semgan_nb.networks import Generator
from semgan_nb.scores import latent_words, parse_metric
from semgan_nb.synthetic import specimens


def generator(noise=0.0, **more):
    torch.manual_seed(0)
    G = Generator(img_resolution=32, z_dim=16, w_dim=16, channel_base=256, channel_max=16, **more).eval()
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(noise)
            if name.endswith("torgb.weight"):
                parameter.mul_(0.2)
    return G


@pytest.fixture(scope="module")
def steel(tmp_path_factory):
    path = tmp_path_factory.mktemp("steel") / "steel.zip"
    images, _, specimen = specimens(80, 32, seed=0)
    write_archive(path, [dict(image=image, group=str(s)) for image, s in zip(images, specimen)], {})
    return path


def judged(G, path, name="latent_share16"):
    return judge_together([get_judge(name, path)], G)[0]


def test_noise_is_the_same_for_all_latent_vectors_and_z_for_all_noise():
    G = generator(0.5)
    x = crossed_images(G, 5, seed=3, batch=2)
    assert (
        x.shape == (5, 2, 3, 1, 32, 32)
        and np.array_equal(x, crossed_images(G, 5, seed=3, batch=2))
        and not np.array_equal(x, crossed_images(G, 5, seed=4, batch=2))
    )
    with torch.no_grad():  # nothing of z: the images of a draw of noise are the same whatever the z
        for parameter in G.mapping.parameters():
            parameter.zero_()
    x = crossed_images(G, 3)
    assert (
        np.array_equal(x[:, 0], x[:, 1])
        and not np.array_equal(x[:, 0, 0], x[:, 0, 1])
        and shares(x[:, :, :2])[1:] == pytest.approx((0, 1))
    )
    rows = noise_draws(G, "0-1", 3)
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0, 0], rows[0, 1])


def test_the_more_noise_the_less_z():
    found = [shares(crossed_images(generator(strength), 16)[:, :, :2])[1:] for strength in (0.0, 0.2, 1.0)]
    assert found[0] == (1, 0) and found[0][0] > found[1][0] > found[2][0] and found[0][1] < found[1][1] < found[2][1]


def test_records_set_it_beside_real_images(steel):
    record = judged(generator(0.3), steel)
    value = record["results"]
    assert (
        set(value) == {f"latent_share16_{ending}" for ending in ("diversity", "ends", "z", "noise")}
        and record["num_gen"] == 64
        and record["num_real"] == 32
    )
    real = Dataset(steel).images()
    judge = get_judge("latent_share16", steel)
    a, b = (real[judge._pairs[:, k]].astype(float) for k in (0, 1))
    x = crossed_images(generator(0.3), 16)
    assert value["latent_share16_diversity"] == pytest.approx(shares(x[:, :, :2])[0] / np.mean((a - b) ** 2))
    assert value["latent_share16_ends"] == pytest.approx(correlation(x[:, :, 2])) and record[
        "real_ends"
    ] == pytest.approx(correlation(np.stack([a, b], 1)))
    assert (
        -1 <= record["icc"]["fraction"] <= 1
        and {"z", "noise", "diversity"} == set(record["features"])
        and record["text"] == latent_words(record)
    )


def test_what_was_measured_of_real_images_is_kept(steel, tmp_path, monkeypatch):
    judge = get_judge("latent_share16", steel, cache=tmp_path)
    first = judge.real_side()
    assert judge.floor() is None and judge.ladder()["rungs"] == []
    monkeypatch.setattr(LatentJudge, "_features", None)
    assert get_judge("latent_share16", steel, cache=tmp_path).real_side() == first


@pytest.mark.parametrize("settings", [dict(use_noise=False), dict(noise_from=64)])
def test_a_network_without_noise_inputs_has_no_shares(steel, settings):
    G = generator(**settings)
    record = judged(G, steel)
    assert not has_noise(G) and set(record["results"]) == {"latent_share16_diversity", "latent_share16_ends"}
    assert (
        record["icc"] == "no noise"
        and set(record["features"]) == {"diversity"}
        and "no noise" in record["text"]
        and "z alone makes" not in record["text"]
    )


def test_a_collapsed_network_is_called_so(steel):
    G = generator()
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.zero_()
    record = judged(G, steel)
    assert record["results"]["latent_share16_diversity"] == 0 and record["text"].startswith(
        "its images are nearly all alike"
    )


def test_names_and_refusals(steel, tmp_path):
    assert (
        parse_metric("latent_share").name == "latent_share"
        and parse_metric("latent_share").results[-1] == "latent_share_noise"
    )
    for name in ("lite0_share64", "latent_fd64_full", "latent_share64_full"):
        with pytest.raises(BadInput, match="names the"):
            parse_metric(name)
    with pytest.raises(BadInput, match="get_judge gives"):
        score("latent_share", np.zeros((4, 1, 32, 32), np.uint8), np.zeros((4, 1, 32, 32), np.uint8))
    with pytest.raises(BadInput, match="give the network itself"):
        judge_together([get_judge("latent_share16", steel)], np.zeros((64, 1, 32, 32), np.uint8))
    with pytest.raises(BadInput, match=r"have the shape \[1, 16, 16\]"):
        torch.manual_seed(0)
        judged(Generator(img_resolution=16, z_dim=16, w_dim=16, channel_base=64, channel_max=8), steel)
    write_archive(tmp_path / "one.zip", [dict(image=np.zeros((32, 32), np.uint8))], {})
    with pytest.raises(BadInput, match="1 training image makes no pair"):
        get_judge("latent_share", tmp_path / "one.zip")


def test_intraclass_of_rows_that_cannot_be_measured():
    v = np.array([[1, 1], [2, 2], [3, 3.0], [np.nan, 5]])
    assert intraclass(v) == 1 and intraclass(v[[0, 3, 3]]) is None
