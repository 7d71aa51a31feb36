"""Chapters 21, 50 to 53 and 55: a generator whose blocks have widths of their own, and noise inputs in the fine ones
alone."""

import pytest
import torch

from semgan_nb.checkpoints import load, save_snapshot
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Discriminator, Generator
from semgan_nb.official import convert, file_lines, load_networks
from semgan_nb.runs import PRESETS, Config, laptop, preset
from semgan_nb.transfer import make_networks
from semgan_nb.transfer import transfer_config

OURS = dict(z_dim=16, w_dim=16, img_resolution=32, mapping_layers=1, block_channels=[24, 24, 16, 8], noise_from=32)


def test_blocks_have_the_widths_and_the_noise_that_were_asked_for():
    G = Generator(**OURS)
    assert [getattr(G.synthesis, f"b{r}").conv1.weight.shape[0] for r in (4, 8, 16, 32)] == OURS["block_channels"]
    noisy = {name.split(".")[1] for name, _ in G.named_parameters() if name.endswith("noise_strength")}
    assert noisy == {"b32"} and not any("noise_const" in name for name, _ in G.named_buffers() if ".b16." in name)
    with pytest.raises(ValueError, match="4 blocks, 4, 8, 16, 32 px"):
        Generator(**{**OURS, "block_channels": [24, 16]})


def test_noise_inputs_move_the_image_only_where_they_are():
    G = Generator(**OURS).eval()
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(1.0)
        ws = G.mapping(torch.randn(2, 16))
        (_, a, _), (_, b, _) = (
            [*G.synthesis.blocks(ws, generator=torch.Generator().manual_seed(seed))][2] for seed in (1, 2)
        )
        assert torch.equal(a, b)  # up to 16 px nothing is drawn
        assert not torch.equal(
            G.synthesis(ws, generator=torch.Generator().manual_seed(1)),
            G.synthesis(ws, generator=torch.Generator().manual_seed(2)),
        )


def test_what_the_reference_has_is_written_as_before():
    plain = Generator(z_dim=16, w_dim=16, img_resolution=32, channel_base=256, channel_max=16)
    assert not {"block_channels", "noise_from"} & set(plain.init_kwargs)
    same = Generator(
        z_dim=16, w_dim=16, img_resolution=32, channel_base=256, channel_max=16, block_channels=None, noise_from=4
    )
    assert same.init_kwargs == plain.init_kwargs


def test_such_networks_are_saved_loaded_converted_and_refused(tmp_path):
    G = Generator(**OURS)
    save_snapshot(tmp_path / "a.safetensors", G, None, cur_nimg=0)
    back = load(tmp_path / "a.safetensors").G
    assert back.init_kwargs == G.init_kwargs and all(
        torch.equal(v, back.state_dict()[k]) for k, v in G.state_dict().items()
    )
    assert any(
        "block_channels [24, 24, 16, 8]" in line and "noise_from 32" in line
        for line in file_lines(tmp_path / "a.safetensors")
    )
    assert (
        "no place for block_channels and noise_from" in convert(tmp_path / "a.safetensors", tmp_path / "plain.pt")[-1]
    )
    plain = torch.load(tmp_path / "plain.pt", weights_only=True)["G_ema"]
    assert all(torch.equal(v, plain[k]) for k, v in G.state_dict().items())
    for wrong in (
        dict(block_channels=[10**9] * 4),
        dict(block_channels="24"),
        dict(noise_from=3),
        dict(block_channels=[24, 24, 16, 16]),
    ):
        kept = dict(G.init_kwargs)
        G.init_kwargs.update(wrong)
        save_snapshot(tmp_path / "wrong.safetensors", G, None, cur_nimg=0)
        G.init_kwargs = kept
        with pytest.raises(BadInput, match="wrong.safetensors"):
            load(tmp_path / "wrong.safetensors")


def test_settings_make_them(tmp_path):
    config = Config(z_dim=16, w_dim=16, channel_base=64, channel_max=8, g_channels=(24, 24, 16, 8), noise_from=32)
    G, D = make_networks(config, 32, 1)
    assert (
        G.init_kwargs["block_channels"] == [24, 24, 16, 8]
        and G.init_kwargs["noise_from"] == 32
        and D.init_kwargs["channel_max"] == 8
    )
    assert Config.from_dict(config.to_dict()) == config and config.to_dict()["g_channels"] == [24, 24, 16, 8]
    assert Config(g_channels=("24", "24")).g_channels == (24, 24)  # as words of the command
    none, _ = make_networks(config.replace(noise_from=0), 32, 1)
    assert not any(name.endswith("noise_strength") for name, _ in none.named_parameters())
    for wrong, words in ((dict(g_channels=("many",)), "192,192,64,24"), (dict(noise_from=5), "power of two from 4")):
        with pytest.raises(BadInput, match=words):
            config.replace(**wrong)
    with pytest.raises(BadInput, match="32 px want 4, for 4, 8, 16, 32 px"):
        make_networks(config.replace(g_channels=(24, 24)), 32, 1)


def test_every_preset_but_ours_is_as_the_reference_has_it():
    for name in set(PRESETS) - {"laptop"}:
        c = preset(name, 64)
        assert (c.g_channels, c.noise_from, c.cooldown) == ((), 4, 0.0), name
    assert laptop(32).g_channels == (128, 128, 64, 24) and all(
        len(laptop(r).g_channels) == r.bit_length() - 2 and laptop(r).noise_from == r for r in (8, 16, 32, 64, 128)
    )


def test_a_transfer_takes_them_over(tmp_path):
    save_snapshot(
        tmp_path / "a.safetensors",
        Generator(**OURS),
        Discriminator(img_resolution=32, channel_base=256, channel_max=16),
        cur_nimg=0,
    )
    config, said = transfer_config(laptop(), load_networks(tmp_path / "a.safetensors"))
    assert config.g_channels == (24, 24, 16, 8) and config.noise_from == 32
    assert "g_channels is 24,24,16,8 instead of 128,128,64,24, as in the source" in said
    config, said = transfer_config(Config(), load_networks(tmp_path / "a.safetensors"))
    assert (
        "g_channels is 24,24,16,8 instead of none, as in the source" in said
        and "noise_from is 32 instead of 4, as in the source" in said
    )
