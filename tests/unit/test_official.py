"""Chapter 52: official network pickles become our networks with equal outputs; poisoned ones are refused with one
sentence, and nothing of them happens."""

import gzip
import os
from pathlib import Path

import numpy as np
import official_files
import pytest
import torch

from semgan_nb import official
from semgan_nb.official import load_official
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Discriminator

DATA = Path(__file__).parents[1] / "data"
FOLDER = os.environ.get("SEMGAN_GOLDEN")
whole = pytest.mark.skipif(not FOLDER, reason="SEMGAN_GOLDEN does not name the folder of the whole set")
PROTOCOLS = (2, 3, 4, 5)


def same(a, b):
    return a.init_kwargs == b.init_kwargs and all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def refused(path, data=None):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadInput) as e:
        load_official(path)
    said = str(e.value)
    assert str(path) in said and "\n" not in said
    return said


# -- files that the reference implementation wrote
# ------------------------------------------------------------------------


def close(ours, want, tolerance=1e-4):
    want = torch.as_tensor(np.asarray(want))
    assert ours.shape == want.shape and (ours - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("name, protocol", [("p4", 4), ("2021", 4), ("p3", 3)])
def test_structure_written_by_the_reference(name, protocol, tmp_path):
    """The reference's own pickles with their numbers taken out (but for the filters), and put back from the arrays
    beside them."""
    gold = np.load(DATA / "net_32_grey.npz")
    data = bytearray(gzip.decompress((DATA / f"official_{name}.pkl.gz").read_bytes()))
    file = official._OfficialFile(data)
    for key in ("G", "G_ema", "D"):
        for tensor, record in official._tensor_notes(file.top[key], file.budget).items():
            if not tensor.endswith("resample_filter"):
                dtype, raw = file.storage(official._layout(record)[0])
                np.frombuffer(raw, dtype)[:] = gold[f"{key[0]}.{tensor}"].ravel()
    (tmp_path / "net.pkl").write_bytes(data)
    nets = load_official(tmp_path / "net.pkl")
    assert (
        nets.meta["protocol"] == protocol
        and nets.meta["p"] == 0.3125
        and nets.meta["training_set"]["resolution"] == 32
        and not nets.meta["unread"]
    )
    z, real = torch.from_numpy(gold["z"]), torch.from_numpy(gold["real_u8"]).float() / 127.5 - 1
    for G in (nets.G, nets.G_ema):
        close(G.mapping(z)[:, 0], gold["w_G"])
    for n in (1, 2, 4, 8):
        close(nets.D(real[:n]), gold[f"logits_real_{n}"])
    close(nets.D(nets.G(z[:4], noise_mode="const")), gold["Gmain.logits"], 1e-3)


@whole
@pytest.mark.parametrize("name", ["net_32_grey.pkl", "net_32_grey_2021.pkl", "net_32_grey_p3.pkl"])
def test_whole_pickles_of_the_reference(name):
    gold, nets = np.load(Path(FOLDER) / "net_32_grey.npz"), load_official(Path(FOLDER) / name)
    z, real = torch.from_numpy(gold["z"]), torch.from_numpy(gold["real_u8"]).float() / 127.5 - 1
    close(nets.G_ema.mapping(z)[:, 0], gold["w_ema"])
    close(nets.G.mapping(z)[:, 0], gold["w_G"])
    close(nets.G_ema.mapping.w_avg, gold["w_avg_ema"])
    close(nets.G_ema.mapping(z, truncation_psi=float(gold["psi"]))[:, 0], gold["w_psi"])
    close(nets.G_ema(z[: len(gold["img_const"])], noise_mode="const"), gold["img_const"])
    close(nets.G_ema(z[: len(gold["img_none"])], noise_mode="none"), gold["img_none"])
    close(
        nets.G_ema(z[: len(gold["img_const_psi"])], truncation_psi=float(gold["psi"]), noise_mode="const"),
        gold["img_const_psi"],
    )
    for n in (1, 2, 4, 8):
        close(nets.D(real[:n]), gold[f"logits_real_{n}"])
    close(nets.D(torch.from_numpy(gold["img_const"])), gold["logits_fake_const"])


# -- files that we write in the same format
# -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "arguments",
    [
        dict(),
        dict(img_channels=3, img_resolution=32),
        dict(c_dim=3),
        dict(architecture="resnet"),
        dict(architecture="orig", mapping_layers=8),
        dict(use_noise=False, activation="relu"),
        dict(
            embed_features=5,
            layer_features=12,
            c_dim=2,
            mapping_activation="relu",
            mapping_lr_multiplier=0.02,
            w_avg_beta=0.99,
        ),
        dict(conv_clamp=256, num_fp16_res=2),
        dict(resample_filter=[1, 2, 1]),
    ],
    ids=lambda a: "-".join(a) or "plain",
)
def test_every_option_comes_back(arguments, protocol, tmp_path):
    G, D = official_files.networks(**arguments)
    G_ema = official_files.networks(1, **arguments)[0]
    (tmp_path / "x.pkl").write_bytes(official_files.dump(official_files.content_of(G_ema, G, D), protocol))
    nets = load_official(tmp_path / "x.pkl")
    assert same(nets.G, G) and same(nets.G_ema, G_ema) and same(nets.D, D) and not same(nets.G, G_ema)
    z, c = torch.randn(2, 8), torch.eye(G.c_dim)[:2] if G.c_dim else None
    assert torch.equal(nets.G(z, c, noise_mode="const"), G(z, c, noise_mode="const")) and torch.equal(
        nets.D(G(z, c, noise_mode="const"), c), D(G(z, c, noise_mode="const"), c)
    )
    assert not nets.G.training and not any(p.requires_grad for p in nets.G.parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        dict(architecture="skip"),
        dict(architecture="orig"),
        dict(freeze_layers=5),
        dict(mbstd_group_size=None),
        dict(mbstd_num_channels=0),
        dict(epilogue_activation="relu"),
        dict(c_dim=2, cmap_dim=6, mapping_layers=0),
        dict(c_dim=2, mapping_layers=2, mapping_lr_multiplier=0.1, embed_features=4, layer_features=9),
    ],
    ids=lambda a: "-".join(a),
)
def test_every_option_of_the_discriminator(arguments, tmp_path):
    G = official_files.networks()[0]
    D = Discriminator(img_resolution=16, channel_base=64, channel_max=8, **arguments).eval().requires_grad_(False)
    (tmp_path / "x.pkl").write_bytes(official_files.dump(official_files.content_of(G, None, D)))
    nets = load_official(tmp_path / "x.pkl")
    assert nets.G is None and same(nets.D, D)
    x, c = torch.randn(4, 1, 16, 16), torch.eye(2)[[0, 1, 1, 0]] if D.c_dim else None
    assert torch.equal(nets.D(x, c), D(x, c))


def test_official_defaults_and_extra_keys(tmp_path):
    "What a file does not say is what it is in the official code; what forks add is accepted or refused by name."
    G, D = official_files.networks(mapping_layers=8)
    content = official_files.content_of(G, G, D)
    for key in ("G", "G_ema"):
        for group, names in dict(
            mapping_kwargs=("num_layers", "activation", "lr_multiplier", "w_avg_beta", "embed_features"),
            synthesis_kwargs=("architecture", "num_fp16_res", "conv_clamp", "use_noise"),
        ).items():
            for name in names:
                del content[key]["_init_kwargs"][group][name]
    del content["training_set_kwargs"], content["augment_pipe"]
    content["G_ema"]["_init_kwargs"]["synthesis_kwargs"].update(
        fused_modconv_default="inference_only", fp16_channels_last=True
    )
    content |= dict(cur_nimg=25000, vgg="left alone", augment_pipe="none of ours")
    (tmp_path / "x.pkl").write_bytes(official_files.dump(content))
    nets = load_official(tmp_path / "x.pkl")
    assert same(nets.G_ema, G) and nets.meta["unread"] == ["cur_nimg", "vgg"] and nets.meta["training_set"] == {}
    content["G_ema"]["_init_kwargs"]["synthesis_kwargs"]["magnitude_ema_beta"] = 0.99
    assert "synthesis_kwargs.magnitude_ema_beta" in refused(tmp_path / "x.pkl", official_files.dump(content))


def test_positional_arguments_half_precision_and_other_layouts(tmp_path):
    G = official_files.networks()[0]
    content = official_files.content_of(G)
    state = content["G_ema"]
    state["_init_args"] = tuple(
        state["_init_kwargs"].pop(k) for k in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    )
    fc = state["_modules"]["mapping"]["_modules"]["fc0"]
    kept = fc["_parameters"]["weight"]
    fc["_parameters"]["weight"] = torch.nn.Parameter(
        kept.data.t().contiguous().t(), requires_grad=False
    )  # another layout of the same numbers
    fc["_parameters"]["bias"] = torch.nn.Parameter(fc["_parameters"]["bias"].data.half(), requires_grad=False)
    (tmp_path / "x.pkl").write_bytes(official_files.dump(content))
    read = load_official(tmp_path / "x.pkl").G_ema
    assert (
        torch.equal(read.mapping.fc0.weight, kept)
        and torch.equal(read.mapping.fc0.bias, G.mapping.fc0.bias.half().float())
        and read.mapping.fc0.bias.dtype == torch.float32
    )


def test_a_fork_with_another_program_is_refused(tmp_path):
    content = official_files.content_of(official_files.networks()[0])
    layer = content["G_ema"]["_modules"]["synthesis"]["_modules"]["b8"]["_modules"]["conv0"]
    for name, value in dict(activation="relu", conv_clamp=64, use_noise=False).items():
        kept, layer[name] = layer[name], value
        said = refused(tmp_path / "x.pkl", official_files.dump(content))
        assert f"{name} of G_ema.synthesis.b8.conv0 is {value} there" in said
        layer[name] = kept
    (tmp_path / "x.pkl").write_bytes(official_files.dump(content))
    load_official(tmp_path / "x.pkl")


def test_all_mismatches_are_named_at_once(tmp_path):
    content = official_files.content_of(official_files.networks()[0])
    layer = content["G_ema"]["_modules"]["synthesis"]["_modules"]["b8"]["_modules"]["conv1"]
    del layer["_parameters"]["weight"]
    layer["_parameters"]["bias"] = torch.nn.Parameter(torch.zeros(1))
    layer["_buffers"]["secret"] = torch.zeros(1)
    said = refused(tmp_path / "x.pkl", official_files.dump(content))
    assert all(
        word in said
        for word in (
            "missing synthesis.b8.conv1.weight",
            "b8.conv1.bias has shape (1,) instead of (8,)",
            "unknown synthesis.b8.conv1.secret",
        )
    )


def test_loading_leaves_the_global_generator_alone(tmp_path):
    (tmp_path / "x.pkl").write_bytes(official_files.dump(official_files.content_of(official_files.networks()[0])))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_official(tmp_path / "x.pkl")
    assert torch.equal(before, torch.get_rng_state())


def test_tensorflow_files_and_what_is_no_pickle(tmp_path):
    for data in (b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81}b.", b"\x80\x02ctfutil\nNetwork\n)\x81}b."):
        assert "TensorFlow" in refused(tmp_path / "tf.pkl", data)
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pkl")
    assert "ZIP" in refused(tmp_path / "state.pkl")
    refused(tmp_path / "absent.pkl")
    refused(tmp_path)
