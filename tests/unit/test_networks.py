"""Chapter 21 against the check values of the reference implementation: weights filled by a rule, images and logits
compared."""

import json

import numpy as np
import pytest
import torch

from semgan_nb.layers import Conv2dLayer, FullyConnected, SynthesisLayer, ToRGB
from semgan_nb.losses import path_lengths, r1_penalty
from semgan_nb.networks import (
    ARCHITECTURES,
    Discriminator,
    DiscriminatorBlock,
    Generator,
    SynthesisBlock,
    count_parameters,
    first_half_resolution,
    use_half,
)


def fill(net):
    "Every weight from RandomState(1000 + i), i the place of its name in the sorted list."
    state = net.state_dict()
    for i, name in enumerate(sorted(n for n in state if not n.endswith("resample_filter"))):
        v = torch.tensor(np.random.RandomState(1000 + i).randn(*state[name].shape), dtype=torch.float32)
        if name.endswith("noise_strength"):
            v = torch.full(state[name].shape, 0.1)
        elif name.endswith("affine.bias"):
            v = 1 + 0.1 * v
        elif name.endswith("bias") or name.endswith("w_avg"):
            v = 0.1 * v
        state[name].copy_(v * 100 if "mapping.fc" in name else v)
    return net


def generator(**more):
    return fill(
        Generator(
            **{
                **dict(z_dim=16, w_dim=24, img_resolution=32, channel_base=512, channel_max=32, mapping_layers=3),
                **more,
            }
        )
    ).eval()


def discriminator(architecture="resnet", c_dim=0):
    return fill(Discriminator(c_dim, 32, 1, 512, 32, architecture, mapping_layers=3, mbstd_group_size=2))


z = torch.tensor(np.random.RandomState(0).randn(4, 16), dtype=torch.float32)
x = torch.tensor(np.random.RandomState(1).randn(4, 1, 32, 32), dtype=torch.float32)
c = torch.eye(3)[[0, 1, 2, 0]]


def equal(ours, want, tolerance=1e-4):
    assert torch.allclose(ours.detach().flatten(), torch.tensor(want), rtol=0, atol=tolerance), ours


def test_mapping_and_truncation():
    m = generator().mapping
    equal(m(z)[0, 0, :4], [1.454074, 0.720463, 0.301654, -0.013708])
    cut = m(z, truncation_psi=0.5, truncation_cutoff=3)
    equal(cut[0, 0, :2], [0.685286, 0.397335])
    assert torch.equal(cut[:, 5], m(z)[:, 5])


@pytest.mark.parametrize(
    "noise, mean, std, first",
    [
        ("const", 1.042854, 1.310521, [0.495222, 0.018246, 0.772936]),
        ("none", 1.020107, 1.224377, [0.154934, 0.315334, 0.339102]),
    ],
)
def test_skip_generator(noise, mean, std, first):
    y = generator()(z, noise_mode=noise)
    equal(torch.stack([y.mean(), y.std()]), [mean, std])
    equal(y[0, 0, 0, :3], first)


@pytest.mark.parametrize("architecture, mean, std", [("resnet", 0.521065, 0.614948), ("orig", 0.867810, 0.773040)])
def test_other_generators(architecture, mean, std):
    y = generator(architecture=architecture)(z, noise_mode="const")
    equal(torch.stack([y.mean(), y.std()]), [mean, std])


def test_conditional_rgb_generator():
    y = generator(c_dim=3, img_channels=3)(z, c, noise_mode="const")
    equal(torch.stack([y.mean(), y.std()]), [0.438112, 0.972128])
    equal(y[0, :, 0, 0], [0.095430, -0.156735, 0.425609])


@pytest.mark.parametrize(
    "architecture, logits",
    [
        ("resnet", [0.227507, 0.243565, 0.135356, 0.203960]),
        ("skip", [-0.549555, -0.730512, -0.506461, -0.478973]),
        ("orig", [0.826808, 0.857172, 0.799274, 0.886110]),
    ],
)
def test_discriminators(architecture, logits):
    equal(discriminator(architecture)(x), logits)


def test_conditional_discriminator():
    equal(discriminator(c_dim=3)(x, c), [0.424781, 0.510799, 0.227302, 0.381478])


def test_r1():
    a = x.clone().requires_grad_()
    equal(r1_penalty(discriminator()(a), a), [0.004232, 0.003444, 0.003763, 0.003096], 1e-5)


def test_path_length():
    g = generator()
    ws = g.mapping(z).detach().requires_grad_()
    y = torch.tensor(np.random.RandomState(2).randn(4, 1, 32, 32), dtype=torch.float32)
    equal(path_lengths(g.synthesis(ws, noise_mode="const"), ws, y), [0.544863, 0.592806, 1.060531, 0.661575])


@pytest.mark.parametrize(
    "r, ch, layers, fmaps, G, buffers, D",
    [
        (512, 1, 2, 1, 28_694_615, 699_904, 28_982_721),
        (512, 3, 2, 1, 28_700_647, 699_904, 28_982_849),
        (512, 1, 8, 1, 30_270_551, 699_904, 28_982_721),
        (256, 1, 2, 0.5, 23_186_516, 175_568, 24_000_961),
        (64, 1, 2, 0.5, 22_238_990, 11_632, 23_406_849),
        (1024, 3, 8, 1, 30_370_060, 2_797_104, 29_012_513),
    ],
)
def test_parameter_counts(r, ch, layers, fmaps, G, buffers, D):
    with torch.device("meta"):
        g = Generator(img_resolution=r, img_channels=ch, mapping_layers=layers, channel_base=int(32768 * fmaps))
        d = Discriminator(img_resolution=r, img_channels=ch, channel_base=int(32768 * fmaps))
    assert count_parameters(g) == G and count_parameters(d) == D
    assert sum(b.numel() for b in g.buffers()) == buffers


def outputs(net, *inputs, kinds):
    "name -> (layer, output, gain it was called with) of every layer of some kinds."
    found, hooks = {}, []
    for name, m in net.named_modules():
        if isinstance(m, kinds):
            hooks.append(
                m.register_forward_hook(
                    lambda m, a, k, y, name=name: found.update({name: (m, y, k.get("gain", 1.0))}), with_kwargs=True
                )
            )
    with torch.no_grad():
        net(*inputs)
    for h in hooks:
        h.remove()
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("half", [False, True])
def test_clamp_limits_every_convolution_and_nothing_else(architecture, half):
    """All but the short cuts of `resnet`, the last fromrgb of `skip` and the fully connected layers; with the gain
    of the call."""
    limit, more = 0.01, dict(num_fp16_res=2 if half else 0)
    g = use_half(generator(architecture=architecture, conv_clamp=limit, **more), torch.float16 if half else None)
    d = use_half(
        fill(Discriminator(0, 32, 1, 512, 32, architecture, conv_clamp=limit, mbstd_group_size=2, **more)),
        torch.float16 if half else None,
    )
    layers = {
        **outputs(g, z, kinds=(SynthesisLayer, ToRGB, Conv2dLayer, FullyConnected)),
        **outputs(d, x, kinds=(Conv2dLayer, FullyConnected)),
    }
    free = {n for n in layers if n.endswith(".skip") or n == "b4.fromrgb" or isinstance(layers[n][0], FullyConnected)}
    assert {n for n in free if n.endswith(".skip")} == (
        {f"{p}b{r}.skip" for r in (8, 16, 32) for p in ("", "synthesis.")} if architecture == "resnet" else set()
    )
    assert ("b4.fromrgb" in free) == (architecture == "skip")
    for name, (_layer, y, gain) in layers.items():
        if name in free:
            assert y.abs().max() > 1.1 * limit * gain, name
        else:
            assert abs(float(y.abs().max()) / (limit * gain) - 1) < 2e-3, (name, gain)
    assert {layers[n][2] for n in layers if n.endswith("conv1")} == (
        {0.5**0.5, 1.0} if architecture == "resnet" else {1.0}
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_blocks(architecture):
    "The two largest resolutions in float16, the rest and the image in float32; forced to float32 they are as without."
    assert first_half_resolution(32, 2) == 16
    for half in (torch.float16, torch.bfloat16):
        g, plain = (generator(architecture=architecture, num_fp16_res=n).eval() for n in (2, 0))
        d, plain_d = (
            fill(Discriminator(0, 32, 1, 512, 32, architecture, mbstd_group_size=2, num_fp16_res=n)) for n in (2, 0)
        )
        on_cpu = [g(z, noise_mode="const"), d(x)]
        use_half(g, half), use_half(d, half)
        formats = {n: y[0].dtype for n, (_, y, _) in outputs(g, z, kinds=SynthesisBlock).items()} | {
            n: y[0].dtype for n, (_, y, _) in outputs(d, x, kinds=DiscriminatorBlock).items()
        }
        assert {n: t for n, t in formats.items()} == {
            **{f"{p}b{r}": half for p in ("", "synthesis.") for r in (16, 32)},
            "synthesis.b4": torch.float32,
            "synthesis.b8": torch.float32,
            "b8": torch.float32,
        }
        for net, other, args, cpu in (
            (g, plain, dict(z=z, noise_mode="const"), on_cpu[0]),
            (d, plain_d, dict(img=x), on_cpu[1]),
        ):
            want, y = other(**args), net(**args)
            assert (
                y.dtype == torch.float32 and torch.equal(net(**args, force_fp32=True), want) and torch.equal(cpu, want)
            )
            assert 0 < (y - want).abs().max() < (0.01 if half == torch.float16 else 0.06) * want.abs().max()


def test_float16_survives_large_weights_and_styles():
    g = use_half(generator(num_fp16_res=3), torch.float16)
    plain = generator()
    for net in (g, plain):
        for name, p in net.named_parameters():
            if "conv" in name and name.endswith(".weight") and "affine" not in name:
                p.data *= 3e4
            if "conv" in name and name.endswith("affine.weight"):
                p.data *= 30
    want, y = plain(z, noise_mode="const"), g(z, noise_mode="const")
    assert y.isfinite().all() and (y - want).abs().max() < 0.01 * want.abs().max()


@pytest.mark.parametrize("half", [torch.bfloat16])
def test_gradients_of_any_order_in_half_precision(half):
    g, d = (
        use_half(generator(num_fp16_res=2), half),
        use_half(fill(Discriminator(0, 32, 1, 512, 32, mbstd_group_size=2, num_fp16_res=2)), half),
    )
    a = x.clone().requires_grad_()
    r1_penalty(d(a), a).sum().backward()
    ws = g.mapping(z).detach().requires_grad_()
    path_lengths(g.synthesis(ws, noise_mode="const"), ws, x).sum().backward()
    for net in (g.synthesis, d):
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert g.synthesis.b32.conv0.weight.grad.any() and d.b32.conv0.weight.grad.any()


GENERATORS = [
    dict(mapping_layers=0, w_dim=16),
    dict(layer_features=20, mapping_activation="relu", mapping_lr_multiplier=0.1, w_avg_beta=0.9),
    dict(c_dim=3, embed_features=7, layer_features=9),
    dict(c_dim=3, mapping_layers=0, embed_features=8),
    dict(z_dim=0, c_dim=3, mapping_layers=1),
    dict(activation="swish", architecture="resnet"),
    dict(activation="linear"),
    dict(activation="relu"),
    dict(use_noise=False),
    dict(resample_filter=[1, 2, 1]),
    dict(resample_filter=[1, 1], architecture="resnet"),
    dict(resample_filter=list(range(1, 9)), architecture="resnet"),
    dict(resample_filter=None),
    dict(num_fp16_res=4, conv_clamp=256),
]
DISCRIMINATORS = [
    dict(mbstd_group_size=None),
    dict(mbstd_num_channels=0),
    dict(mbstd_num_channels=2),
    dict(activation="swish", epilogue_activation="relu"),
    dict(c_dim=3, cmap_dim=5),
    dict(c_dim=3, mapping_layers=0),
    dict(
        c_dim=3,
        embed_features=7,
        layer_features=9,
        mapping_layers=2,
        mapping_activation="relu",
        mapping_lr_multiplier=0.1,
    ),
    dict(architecture="skip", resample_filter=[1, 2, 1]),
    dict(resample_filter=list(range(1, 9))),
    dict(freeze_layers=5, num_fp16_res=4, conv_clamp=256),
]


@pytest.mark.parametrize(
    "cls, more", [(Generator, m) for m in GENERATORS] + [(Discriminator, m) for m in DISCRIMINATORS]
)
def test_every_option_of_a_converted_network(cls, more):
    "They run, and what `init_kwargs` says makes the same network again."
    kwargs = {
        **(dict(z_dim=16, w_dim=24, mapping_layers=2) if cls is Generator else {}),
        **dict(img_resolution=16, channel_base=128, channel_max=16),
        **more,
    }
    net = fill(cls(**kwargs)).eval()
    assert {k: net.init_kwargs[k] for k in kwargs} == kwargs
    again = cls(**json.loads(json.dumps(net.init_kwargs))).eval()
    again.load_state_dict(net.state_dict())
    labels = c if more.get("c_dim") else None
    args = (z, labels) if cls is Generator else (x[:, :, :16, :16], labels)
    noise = dict(noise_mode="const") if cls is Generator else {}
    with torch.no_grad():
        y = net(*args, **noise)
        assert y.shape == ((4, 1, 16, 16) if cls is Generator else (4, 1)) and y.isfinite().all() and y.std() > 0
        assert torch.equal(again(*args, **noise), y)


def test_shapes_of_converted_options():
    state = {
        n: tuple(v.shape)
        for n, v in (
            Generator(16, 3, 24, 8, 1, 3, 64, 8, embed_features=7, layer_features=9, use_noise=False)
            .state_dict()
            .items()
        )
    }
    assert [state[f"mapping.{n}.weight"] for n in ("embed", "fc0", "fc1", "fc2")] == [
        (7, 3),
        (9, 16 + 7),
        (9, 9),
        (24, 9),
    ]
    assert not any("noise" in n for n in state)
    d = Discriminator(3, 8, 1, 64, 8, cmap_dim=5, mapping_layers=1, mbstd_num_channels=0)
    state = {n: tuple(v.shape) for n, v in d.state_dict().items()}
    assert (
        state["b4.out.weight"] == (5, 8)
        and state["mapping.fc0.weight"] == (5, 5)
        and state["b4.conv.weight"] == (8, 8, 3, 3)
    )
    with pytest.raises(ValueError, match="w_dim must be that"):
        Generator(16, 0, 24, 8, mapping_layers=0)


def test_w_avg_moves_in_training_only():
    g = generator()
    before = g.mapping.w_avg.clone()
    g.mapping(z)
    assert torch.equal(g.mapping.w_avg, before)
    w = g.train().mapping(z)[:, 0]
    assert torch.allclose(g.mapping.w_avg, 0.995 * before + 0.005 * w.mean(0), atol=1e-6)
