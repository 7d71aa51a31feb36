"""Chapter 62: directions in w against the mathematics, names by their rule, files and the verb."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import said, say
from made_up_runs import random_snapshot

from semgan_nb.checkpoints import load
from semgan_nb.factors import (
    Effect,
    Factor,
    effects_of,
    factor_text,
    factor_values,
    factors,
    find_factors,
    layer_ranges,
    load_factors,
    move,
    named,
    pca_directions,
    sampled_w,
    save_factors,
    sefa_directions,
    style_weights,
)
from semgan_nb.networks import Generator
from semgan_nb.origin import read_origin

KINDS = [dict(architecture="skip"), dict(architecture="resnet"), dict(architecture="orig", img_channels=3)]


def network(size=16, w_dim=12, **arguments):
    torch.manual_seed(3)
    given = dict(z_dim=w_dim, w_dim=w_dim, img_resolution=size, channel_base=16 * size, channel_max=16) | arguments
    return Generator(**given).eval().requires_grad_(False)


def made_up(method="sefa", number=1, layers=(0, 1), w_dim=12, name=""):
    direction = np.random.default_rng(number).normal(size=w_dim).astype(np.float32)
    return Factor(method, "all", number, layers, direction / np.linalg.norm(direction), 1.5, 0.2, name)


@pytest.mark.parametrize("arguments", KINDS, ids=lambda a: a["architecture"])
def test_a_step_along_a_direction_changes_the_styles_by_the_root_of_its_eigenvalue(arguments):
    "The styles are read where the layers compute them, not from the weights."
    G, styles = network(**arguments), {}
    for entry, _, weight in style_weights(G):
        (layer,) = [
            m for m in G.synthesis.modules() if hasattr(m, "affine") and m.affine.weight.data_ptr() == weight.data_ptr()
        ]
        length = weight.norm(dim=1) * layer.affine.weight_gain
        note = lambda entry, length: lambda module, given, out: styles.__setitem__(entry, (out / length).double())
        layer.affine.register_forward_hook(note(entry, length))
    (first,) = find_factors(G, ("sefa",), ["all"], 1)
    ws = G.mapping(torch.randn(1, 12))
    seen = []
    for d in (0.0, 2.0):
        G.synthesis(move(ws, first, d), noise_mode="none")
        seen.append(torch.cat([styles[entry][0] for entry in sorted(styles)]))
    values = sefa_directions(torch.cat([weight for *_, weight in style_weights(G)]))[1]
    assert len(styles) == G.num_ws
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(2 * first.scale * values[0] ** 0.5, rel=1e-4)


def test_directions_are_sorted_signed_and_blind_to_the_gain_of_a_channel():
    weights = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    rows, values = sefa_directions(weights)
    assert (np.diff(values) <= 0).all() and np.allclose(rows @ rows.T, np.eye(6)) and values.sum() == pytest.approx(40)
    assert (rows[np.arange(6), np.abs(rows).argmax(1)] > 0).all()
    again, _ = sefa_directions(weights * torch.rand(40, 1, generator=torch.Generator().manual_seed(1)).add(0.1))
    assert np.allclose(again, rows, atol=1e-6)
    dead = sefa_directions(torch.cat([weights, torch.zeros(3, 6)]))  # channels without any weight
    assert np.allclose(dead[1], values)


def test_pca_finds_the_axes_of_a_made_up_cloud():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    w = 7 + rng.normal(size=(20_000, 5)) * [3, 2, 1, 0.5, 0.1] @ axes.T
    rows, variances = pca_directions(w)
    assert np.allclose(variances**0.5, [3, 2, 1, 0.5, 0.1], rtol=0.03)
    assert (np.abs(np.sum(rows * axes.T, 1)) > 0.99).all()


def test_layers_by_resolution_are_those_of_the_papers_scale():
    G = network(512, 8, channel_base=512, channel_max=8)
    entries = {
        name: [e for e, r, _ in style_weights(G) if low <= r <= high] for name, (low, high) in layer_ranges(G).items()
    }
    assert entries == dict(all=[*range(16)], coarse=[*range(5)], middle=[*range(5, 9)], fine=[*range(9, 16)])
    for size in (4, 8, 16, 64, 256):
        ranges = layer_ranges(network(size, 8, channel_base=512, channel_max=8))
        own = [ranges[name] for name in ("coarse", "middle", "fine") if name in ranges]
        assert own[0][0] == 4 and own[-1][1] == size and all(b[0] == 2 * a[1] for a, b in zip(own, own[1:]))
    (some,) = find_factors(G, ("pca",), ["16-32"], 1)
    assert some.layers == (3, 4, 5, 6) and some.title == "PCA 16-32 1"


def test_a_move_is_an_addition_in_its_layers_and_in_no_other():
    ws, factor = torch.randn(3, 6, 12), made_up(layers=(1, 4))
    moved = move(ws, factor, torch.tensor([0.0, 1.0, -2.0]))
    change = (moved - ws)[:, [1, 4]]
    step = torch.from_numpy(factor.direction) * 1.5
    assert torch.equal(moved[:, [0, 2, 3, 5]], ws[:, [0, 2, 3, 5]]) and torch.equal(moved[0], ws[0])
    assert torch.allclose(change[1], step.expand(2, -1), atol=1e-6) and torch.allclose(change[2], -2 * step, atol=1e-6)


def test_the_unit_is_the_spread_of_w_along_the_direction():
    G = network()
    w = sampled_w(G)
    for factor in find_factors(G, ("sefa", "pca", "random"), ["all"], 3):
        assert np.linalg.norm(factor.direction) == pytest.approx(1, abs=1e-5)
        assert factor.scale == pytest.approx((w @ factor.direction).std(), rel=1e-4)


def effect(descriptor, size, shown=True, factor="SeFa all 1"):
    return Effect(factor, descriptor, size / 10, size / 10 - 0.01, size / 10 + 0.01, 0.001, shown, 64, size)


@pytest.mark.parametrize(
    "effects, name",
    [
        ([effect("grey_mean", 1.0), effect("fraction", -0.85)], "fraction"),  # nearly as much, and it says more
        ([effect("grey_mean", 1.0), effect("fraction", 0.76)], "grey_mean"),
        ([effect("fraction", 0.74)], ""),  # shown, and small
        ([effect("fraction", 3.0, shown=False)], ""),  # large, and perhaps chance
        ([effect("two_point", 2.0), effect("island_size", 0.9)], "island_size"),  # a curve gives no name
        ([effect("fraction", float("nan"))], ""),  # images that do not differ at all
        ([], ""),
    ],
)
def test_a_name_goes_to_what_moves_far_and_says_most(effects, name):
    (factor,) = named([made_up()], effects)
    assert factor.name == name


def test_what_is_found_is_said_in_sentences():
    own, other = made_up(name="fraction"), made_up(number=2)
    text = factor_text([own, other], [effect("fraction", 1.0), effect("fraction", 0.1, False, "SeFa all 2")])
    assert "2 factors, each moved from -2 to 2" in text and "changed by 1 of 2 factors, most by SeFa all 1." in text
    assert "SeFa all 1 is named phase fraction: by +0.1 (+0.09 to +0.11), 1.00 times" in text
    assert "1 factor has no name" in text
    assert "No factor is shown to change the phase fraction." in factor_text([other], [effect("fraction", 0.1, False)])
    assert "changed by 1 of 1 factor, most by SeFa all 1: by -0.05" in factor_text(
        [made_up()], [effect("fraction", -0.5)]
    )


def test_a_network_that_does_not_look_at_w_gives_no_effect_and_no_name():
    G = network(architecture="resnet")
    for *_, weight in style_weights(G):
        weight.zero_()
    found = find_factors(G, layers=["all"], count=1)
    effects = effects_of(*factor_values(G, found, [0, 1, 2]))
    assert effects and not any(e.shown or e.change for e in effects)
    assert not any(factor.name for factor in named(found, effects))


def test_factors_in_a_file(tmp_path):
    G, path = network(), tmp_path / "factors.json"
    own = named(find_factors(G, count=2), [])
    save_factors(path, own, network="made up")
    for a, b in zip(own, load_factors(path, G), strict=True):
        assert np.array_equal(a.direction, b.direction) and vars(a) | dict(direction=0) == vars(b) | dict(direction=0)
    assert "w of 12 numbers" in said(load_factors, path, network(w_dim=8))
    assert "does not exist" in said(load_factors, tmp_path / "none.json")
    content = json.loads(path.read_text())
    content["factors"][0]["scale"] = "wide"
    path.write_text(json.dumps(content))
    assert "factors[0].scale" in said(load_factors, path)
    path.write_text(json.dumps(content | dict(format=2)))
    assert "update semgan_nb" in said(load_factors, path)


def test_the_verb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_snapshot("net.safetensors", img_resolution=16, pixel_size_nm=(50.0, 50.0))
    status, out, _ = say("factors", "net.safetensors", "--seeds", "0-2", "--count", 1, "--layers", "coarse,8-16")
    assert status == 0 and "| SeFa coarse 1 |" in out and "4 factors, each moved" in out
    folder = Path("net-factors")
    assert {path.name for path in folder.iterdir()} == {f"factors.{kind}" for kind in ("json", "csv", "md", "png")}
    rows = list(csv.DictReader((folder / "factors.csv").open(encoding="utf-8")))
    assert {row["factor"] for row in rows} <= {f"{a} {b} 1" for a in ("SeFa", "PCA") for b in ("coarse", "8-16")}
    origin = read_origin(folder / "factors.png")
    assert origin.verb == "factors" and origin.network_name == "net.safetensors" and origin.seeds == "0"
    assert len(load_factors(folder / "factors.json", load("net.safetensors").G)) == 4
    factors("net.safetensors", folder, ("pca",), ("all",), 1, "0-1", progress=False)  # its own are replaced
    (folder / "factors.json").write_text("mine")
    assert "did not write it" in said(factors, "net.safetensors", folder, progress=False)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seeds", "3"], "needs two"),
        (["--methods", "ica"], "there are sefa, pca, random"),
        (["--layers", "rough"], "all, coarse"),
        (["--layers", "64-128"], "4-16"),
        (["--span", "0"], "more than 0"),
    ],
)
def test_faults_of_factors_are_one_sentence(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    random_snapshot("net.safetensors", img_resolution=16)
    status, _, err = say("factors", "net.safetensors", *options)
    assert status == 2 and words in err and err.count("\n") == 1
    assert not list(Path().glob("net-factors/*"))


def test_a_conditional_network_is_refused():
    assert "conditional" in said(find_factors, network(c_dim=3))
