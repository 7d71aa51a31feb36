"""Chapter 65: which seed an entry of a mixed image has, and which network a block of a blend."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command import said, say
from matplotlib.backends.backend_agg import FigureCanvasAgg
from made_up_runs import random_snapshot

from semgan_nb.checkpoints import load
from semgan_nb.generate import generate, open_generator
from semgan_nb.latent import latents, sample, to_uint8_images
from semgan_nb.mixing import blend, deciding_shares, kinship, mix, mixing_figure, style_resolutions, write_blend
from semgan_nb.mixing import write_mixing
from semgan_nb.networks import Generator
from semgan_nb.origin import read_origin

SMALL = dict(img_resolution=16, z_dim=8, w_dim=8, channel_base=64, channel_max=8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    random_snapshot("a.safetensors", pixel_size_nm=(30.0, 30.0), **SMALL)
    random_snapshot("b.safetensors", pixel_size_nm=(30.0, 30.0), **SMALL)


def test_the_entries_of_ws_act_where_the_networks_put_them():
    "An entry changes the picture at its own resolution first, and leaves what is coarser as it is."
    with torch.device("meta"):
        large = Generator(img_resolution=512, channel_base=512, channel_max=8, z_dim=8, w_dim=8)
    assert style_resolutions(large) == [4, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512, 512]
    G = open_generator("a.safetensors").G_ema
    assert style_resolutions(G) == [4, 8, 8, 16, 16, 16]
    ws = G.mapping(latents([0], 8))
    before = {r: x for r, x, _ in G.synthesis.blocks(ws, noise_mode="const")}
    for k, resolution in enumerate(style_resolutions(G)[:-1]):  # the last makes grey of features
        other = ws.clone()
        other[:, k] = G.mapping(latents([1], 8))[:, 0]
        changed = [r for r, x, _ in G.synthesis.blocks(other, noise_mode="const") if not torch.equal(x, before[r])]
        assert min(changed) == resolution


@pytest.mark.parametrize("split", [8, 16])
def test_a_mixed_image_is_the_network_with_these_styles(split):
    G = open_generator("a.safetensors").G_ema
    images = mix(G, "0-2", [5, 1], split, truncation_psi=0.7)
    assert images.shape == (3, 2, 1, 16, 16) and images.dtype == np.uint8
    a, b = (G.mapping(latents(seeds, 8), truncation_psi=0.7) for seeds in ([0, 1, 2], [5, 1]))
    for i in range(3):
        for j in range(2):
            ws = b[j : j + 1].clone()
            count = style_resolutions(G).index(split)
            ws[:, :count] = a[i, :count]
            wanted = to_uint8_images(G.synthesis(ws, noise_mode="const"))[0].numpy()
            assert abs(wanted.astype(int) - images[i, j]).max() <= 1
    assert np.array_equal(images[1, 1], sample(G, [1], truncation_psi=0.7)[0])
    assert np.array_equal(mix(G, "3", "3", split, noise_seed=4)[0, 0], sample(G, [3], noise_seed=4)[0])


def test_the_scale_of_a_small_panel_stays_inside_it():
    figure = mixing_figure(open_generator("steel").G_ema, "0,1", "2,3", pixel_size_nm=50)
    FigureCanvasAgg(figure).draw()
    (label,) = figure.axes[-1].texts
    box, panel = label.get_bbox_patch().get_window_extent(), figure.axes[-1].get_window_extent()
    assert panel.x0 <= box.x0 and box.x1 <= panel.x1


def test_shares_are_those_of_an_analysis_of_variance():
    v = np.add.outer([0.0, 1, 2], [0, 10.0])
    rows, columns, both = deciding_shares(v)
    assert rows == pytest.approx(4 / 154) and columns == pytest.approx(150 / 154) and both == pytest.approx(0)
    assert deciding_shares(np.zeros((2, 2))) == (0, 0, 0)
    assert deciding_shares([[1, -1], [-1, 1]]) == pytest.approx((0, 0, 1))


def test_a_grid_as_a_figure_says_what_it_is():
    found = write_mixing("a.safetensors", "grid.png", "0-1", "2-4", 8)
    origin = read_origin("grid.png")
    assert found["split"] == 8 and len(found["shares"]) == 3
    assert (origin.verb, origin.settings["rows"], origin.settings["split"]) == ("mix", "0-1", 8)
    write_mixing("a.safetensors", "grid.png", "0", "2-4")  # its own earlier one is replaced
    Path("other.png").write_bytes(b"x")
    assert "did not write it" in said(write_mixing, "a.safetensors", "other.png")
    figure = mixing_figure(open_generator("a.safetensors").G_ema, "0-1", "2-4")
    titles = [ax.get_title() for ax in figure.axes] + [ax.get_ylabel() for ax in figure.axes]
    assert {f"seed {k}" for k in range(5)} <= set(titles)


@pytest.mark.parametrize(
    "how, words",
    [
        (dict(split=4), "one of 8, 16"),
        (dict(split=12), "blocks at 4, 8, 16 px"),
        (dict(rows="x"), "write whole numbers"),
        (dict(rows="0-40"), "32 at most"),
        (dict(out="grid.zip"), ".png, .pdf or .svg"),
        (dict(noise_mode="none", noise_seed=1), "no noise is added"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_what_cannot_be_mixed_is_one_sentence(how, words):
    assert words in said(write_mixing, "a.safetensors", **how)
    assert not list(Path().glob("*.png"))


def test_a_blend_has_the_blocks_it_should_have():
    A, B = (load(name).G for name in ("a.safetensors", "b.safetensors"))
    found = write_blend("a.safetensors", "b.safetensors", "c.safetensors", 16, seeds="0-1")
    C = load("c.safetensors")
    a, b, c = (net.state_dict() for net in (A, B, C.G))
    assert any(name.endswith("noise_const") for name in c)
    for name, value in c.items():
        assert torch.equal(value, (b if name.startswith("synthesis.b16") else a)[name]), name
    assert C.meta["pixel_size_nm"] == [30, 30] and C.meta["blended"]["split"] == 16 and found["kinship"] < 0.2
    assert read_origin("c.png").verb == "blend" and not read_origin("c.png").composite
    half = blend(A, B, 8, 0.25).state_dict()
    name = "synthesis.b8.conv0.weight"
    assert torch.allclose(half[name], 0.75 * a[name] + 0.25 * b[name], atol=1e-6)
    noise = "synthesis.b8.conv0.noise_const"
    assert torch.equal(half[noise], a[noise]) and torch.equal(blend(A, B, 8, 0.75).state_dict()[noise], b[noise])
    assert torch.equal(half["mapping.w_avg"], a["mapping.w_avg"])
    assert generate("c.safetensors", "out", "0", progress=False)["images"] == 1
    before = [value.clone() for value in A.state_dict().values()]
    blend(A, B, 8)
    assert all(torch.equal(x, y) for x, y in zip(before, A.state_dict().values()))


def test_kinship_tells_relatives_from_strangers():
    A, B = (load(name).G for name in ("a.safetensors", "b.safetensors"))
    assert kinship(A, A) == pytest.approx(1) and abs(kinship(A, B)) < 0.1
    assert kinship(load("superalloy").G, load("steel").G) > 0.7  # of one seed


def test_weights_that_are_all_one_number_are_no_relatives():
    G = Generator(**SMALL)
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.zero_()
    assert kinship(G, G) == 0


def test_what_cannot_be_blended_is_one_sentence():
    random_snapshot("wide.safetensors", **SMALL | dict(channel_max=16))
    assert "channel_max 8 and 16" in said(write_blend, "a.safetensors", "wide.safetensors")
    assert ".safetensors" in said(write_blend, "a.safetensors", "b.safetensors", "c.png")
    assert "did not write it" in said(write_blend, "a.safetensors", "b.safetensors", "a.safetensors")
    assert "one of 8, 16" in said(write_blend, "a.safetensors", "b.safetensors", split=64)
    assert not Path("blend.safetensors").exists() and not Path("blend.png").exists()


def test_the_verbs_say_what_they_did():
    status, out, _ = say("mix", "a.safetensors", "--rows", "0-1", "--columns", "2-3", "--split", 8)
    assert status == 0 and "rows give the blocks below 8 px" in out and "phase fraction: " in out
    status, out, _ = say("blend", "a.safetensors", "b.safetensors")
    assert status == 0 and "they are strangers" in out
    status, out, _ = say("blend", "superalloy", "steel", "--split", 16, "--amount", 0.5)
    assert status == 0 and "correlated by 0.8" in out and "strangers" not in out  # and the earlier blend is replaced
    assert "blended" in say("info", "blend.safetensors")[1]
