"""Chapters 20, 21 and 24 against arrays computed with the reference implementation: a network of 32 px, images,
logits, losses, R1 and path length with their gradients.

tests/data/net_32_grey.npz is an excerpt. With the environment variable SEMGAN_GOLDEN naming the folder of the whole
set (net_32_grey.npz, .json, .pkl, ops.npz) everything is compared.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from semgan_nb import layers
from semgan_nb.losses import loss_as_generated, loss_as_real, path_lengths, path_penalty, r1_penalty
from semgan_nb.networks import Discriminator, Generator

FOLDER = os.environ.get("SEMGAN_GOLDEN")
whole = pytest.mark.skipif(not FOLDER, reason="SEMGAN_GOLDEN does not name the folder of the whole set")
SIZES = dict(img_resolution=32, channel_base=1024, channel_max=32)


def close(ours, want, tolerance=1e-4):
    "Largest difference, as a share of the array's largest magnitude."
    want = torch.as_tensor(np.asarray(want))
    ours = torch.as_tensor(ours).detach()
    assert ours.shape == want.shape
    assert (ours - want).abs().max() <= tolerance * max(want.abs().max(), 1e-12), (
        f"{(ours - want).abs().max() / want.abs().max():.1e} of the largest"
    )


def fill(net, tensors):
    names = {n for n in net.state_dict() if not n.endswith("resample_filter")}
    assert names <= set(tensors)
    missing, unknown = net.load_state_dict({n: torch.as_tensor(v) for n, v in tensors.items()}, strict=False)
    assert not unknown and all(n.endswith("resample_filter") for n in missing)
    return net


class Excerpt:
    def __init__(self, path, weights=None, norms=None):
        self.a = np.load(path)
        self.norms = json.loads(str(self.a["gradient_norms"])) if norms is None else norms
        weights = weights or {n: {k[2:]: self.a[k] for k in self.a.files if k.startswith(n + ".")} for n in "GD"}
        self.G = fill(Generator(z_dim=64, w_dim=64, mapping_layers=2, **SIZES), weights["G"])
        self.D = fill(Discriminator(**SIZES), weights["D"])
        if "G_ema" in weights:
            self.G_ema = fill(Generator(z_dim=64, w_dim=64, mapping_layers=2, **SIZES), weights["G_ema"]).eval()

    def t(self, name):
        return torch.from_numpy(self.a[name])


@pytest.fixture(scope="module", params=["excerpt", pytest.param("whole", marks=whole)])
def loaded(request):
    if request.param == "excerpt":
        return Excerpt(Path(__file__).parents[1] / "data" / "net_32_grey.npz")
    from semgan_nb.official import load_official

    folder, nets = Path(FOLDER), load_official(Path(FOLDER) / "net_32_grey.pkl")
    norms = json.loads((folder / "net_32_grey.json").read_text(encoding="utf-8"))["gradient_l2_norms"]
    return Excerpt(folder / "net_32_grey.npz", {n: getattr(nets, n).state_dict() for n in ("G", "D", "G_ema")}, norms)


@pytest.fixture
def gold(loaded):
    "The networks without gradients, and the mean of w as it was."
    for net in (loaded.G, loaded.D):
        net.zero_grad(set_to_none=True)
    kept = loaded.G.mapping.w_avg.clone()
    yield loaded
    loaded.G.mapping.w_avg.copy_(kept)


def compare_gradients(gold, phase, net):
    "Every parameter's norm, and every whole gradient that is stored."
    gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    norms = gold.norms[phase]
    largest = max(norms.values())
    assert {n for n, g in gradients.items() if g.any()} == {n for n, v in norms.items() if v}
    for name, want in norms.items():
        assert abs(gradients[name].norm().item() - want) <= 1e-3 * want + 1e-6 * largest, (
            name,
            gradients[name].norm().item(),
            want,
        )
    for key in gold.a.files:
        if key.startswith(f"{phase}.grad."):
            close(gradients[key.removeprefix(f"{phase}.grad.")], gold.t(key), 1e-3)


def test_mapping(gold):
    G = gold.G.eval()
    with torch.no_grad():
        close(G.mapping(gold.t("z"))[:, 0], gold.t("w_G"))
        close(G.mapping.w_avg, gold.t("w_avg_G"))
        G.train().mapping(gold.t("z"))
        close(G.mapping.w_avg, gold.t("w_avg_after_train_step"))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_logits_depend_on_the_batch_as_there(gold, n):
    real = gold.t("real_u8").float() / 127.5 - 1
    with torch.no_grad():
        close(gold.D(real[:n]), gold.t(f"logits_real_{n}"))


def test_generator_loss_and_gradients(gold):
    logits = gold.D(gold.G.train()(gold.t("z")[:4], noise_mode="const"))
    loss = loss_as_real(logits)
    close(logits, gold.t("Gmain.logits"))
    close(loss, gold.t("Gmain.loss"), 1e-3)
    loss.mean().backward()
    compare_gradients(gold, "Gmain", gold.G)


def test_discriminator_loss_and_gradients(gold):
    with torch.no_grad():
        fake = gold.G.train()(gold.t("z")[:4], noise_mode="const")
    real = gold.t("real_u8")[:4].float() / 127.5 - 1
    generated, real = loss_as_generated(gold.D(fake)), loss_as_real(gold.D(real))
    close(generated, gold.t("Dmain.loss_gen"), 1e-3)
    close(real, gold.t("Dmain.loss_real"), 1e-3)
    (generated.mean() + real.mean()).backward()
    compare_gradients(gold, "Dmain", gold.D)


def test_r1_and_second_order_gradients(gold):
    real = (gold.t("real_u8")[:4].float() / 127.5 - 1).requires_grad_()
    logits = gold.D(real)
    (grad,) = torch.autograd.grad(logits.sum(), real, retain_graph=True)
    close(grad, gold.t("R1.image_grad"), 1e-3)
    penalty = r1_penalty(logits, real)
    close(penalty, gold.t("R1.penalty"), 1e-3)
    (penalty * (float(gold.a["R1.gamma"]) / 2)).mean().backward()
    compare_gradients(gold, "R1", gold.D)


def test_path_length_and_second_order_gradients(gold):
    G = gold.G.train()
    ws = G.mapping(gold.t("z")[:2])
    close(ws[:, 0], gold.t("PL.ws"))
    images = G.synthesis(ws, noise_mode="const")
    noise = gold.t("PL.noise")
    (grad,) = torch.autograd.grad((images * noise / 32).sum(), ws, retain_graph=True)
    close(grad, gold.t("PL.grad_ws"), 1e-3)
    lengths = path_lengths(images, ws, noise)
    close(lengths, gold.t("PL.lengths"), 1e-3)
    penalty, mean = path_penalty(lengths, gold.t("PL.mean_before"))
    close(mean, gold.t("PL.mean_after"), 1e-3)
    close(penalty, gold.t("PL.penalty"), 1e-3)
    (2 * penalty).mean().backward()
    compare_gradients(gold, "PL", G)


# -- through the trainer
# ----------------------------------------------------------------------------------------------------


class _Given:
    "In place of a dataset: the stored reals."

    resolution, channels = 32, 1

    def __init__(self, images):
        self.given = images

    def __len__(self):
        return len(self.given)

    def images(self, indices):
        return self.given[np.asarray(indices)]


@pytest.fixture
def trainer(gold, monkeypatch):
    """A Trainer whose draws are replaced by the stored ones: latents, noise maps and the path-length noise; no
    mixing, no augmentation, one iteration's interval of 1."""
    import copy

    from semgan_nb.runs import Config
    from semgan_nb.trainer import Trainer

    config = Config(
        z_dim=64,
        w_dim=64,
        channel_base=1024,
        channel_max=32,
        batch_size=4,
        batch_gpu=4,
        mbstd_group_size=4,
        style_mixing_prob=0.0,
        aug="noaug",
        r1_gamma=float(gold.a["R1.gamma"]),
        G_reg_interval=4,
        metrics=(),
    )
    t = Trainer(config, _Given(gold.a["real_u8"]), networks=(copy.deepcopy(gold.G), copy.deepcopy(gold.D)))
    t.G.train(), t.D.train()
    synthesis = t.G.synthesis.forward
    monkeypatch.setattr(t.G.synthesis, "forward", lambda ws, generator=None: synthesis(ws, noise_mode="const"))
    monkeypatch.setattr(t, "_z", lambda n, rng: gold.t("z")[:n])
    monkeypatch.setattr(t, "_noise", lambda images, rng: gold.t("PL.noise"))
    t.pl_mean.fill_(float(gold.a["PL.mean_before"]))
    return t


@pytest.mark.parametrize("interval", [1, 16])
@pytest.mark.parametrize("phase", ["Gmain", "PL", "Dmain", "R1"])
def test_the_phases_of_the_trainer_give_the_stored_gradients(gold, trainer, phase, interval):
    "The trainer's own phases; the lazy factor multiplies the gradients, and the statistics are without it."
    t, real = trainer, [gold.t("real_u8")[:4].float() / 127.5 - 1]
    net, optimizer, batches, loss = dict(
        Gmain=(t.G, t.G_opt, [4], t._gmain),
        PL=(t.G, t.G_opt, [4], t._greg),
        Dmain=(t.D, t.D_opt, real, t._dmain),
        R1=(t.D, t.D_opt, real, t._dreg),
    )[phase]
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    t._phase(phase, net, optimizer, batches, loss, interval, [None])
    assert all(p.grad is not None for p in net.parameters()) and any(
        not torch.equal(p, before[n]) for n, p in net.named_parameters()
    )
    for p in net.parameters():
        p.grad /= interval
    compare_gradients(gold, phase, net)
    mean = lambda name: t.statistics.moments[name][1] / t.statistics.moments[name][0]
    near = lambda name, want: abs(mean(name) - float(np.mean(want))) <= 1e-3 * abs(float(np.mean(want)))
    if phase == "Gmain":
        assert near("Loss/G/loss", gold.a["Gmain.loss"]) and near("Loss/scores/fake", gold.a["Gmain.logits"])
    elif phase == "PL":
        assert (
            near("Loss/pl_penalty", gold.a["PL.penalty"])
            and near("Loss/G/reg", 2 * gold.a["PL.penalty"])
            and abs(float(t.pl_mean) - float(gold.a["PL.mean_after"])) <= 1e-3 * float(gold.a["PL.mean_after"])
        )
    elif phase == "Dmain":
        assert near("Loss/D/loss", gold.a["Dmain.loss_gen"] + gold.a["Dmain.loss_real"]) and t.ada.sign_count == 4
    else:
        assert near("Loss/r1_penalty", gold.a["R1.penalty"]) and near(
            "Loss/D/reg", gold.a["R1.penalty"] * float(gold.a["R1.gamma"]) / 2
        )


def test_a_whole_iteration_takes_the_stored_steps(gold, trainer):
    """Iteration 0 runs all four phases in order; Gmain's gradients and what D sees then are those stored, and each
    network takes two steps of its corrected Adam."""
    t, order, first = trainer, [], {}
    inner = t._phase

    def phase(name, net, *rest):
        inner(name, net, *rest)
        order.append(name)
        first.setdefault(name, {n: p.grad.clone() for n, p in net.named_parameters()})

    t._phase = phase
    t.sampler.take = lambda n: np.arange(n)
    t.iterate()
    assert order == ["Gmain", "Greg", "Dmain", "Dreg"]
    for key in gold.a.files:
        if key.startswith("Gmain.grad."):
            close(first["Gmain"][key.removeprefix("Gmain.grad.")], gold.t(key), 1e-3)
    assert (
        {float(t.G_opt.state[p]["step"]) for p in t.G.parameters()}
        == {2.0}
        == {float(t.D_opt.state[p]["step"]) for p in t.D.parameters()}
    )
    assert t.ada.sign_count == 8 and t.statistics.moments["Loss/scores/fake"][0] == 8
    t.iterate(), t.iterate(), t.iterate(), t.iterate()
    assert order[4:] == ["Gmain", "Dmain"] * 3 + ["Gmain", "Greg", "Dmain"]


@whole
@torch.no_grad()
def test_averaged_generator():
    from semgan_nb.official import load_official

    a, nets = np.load(Path(FOLDER) / "net_32_grey.npz"), load_official(Path(FOLDER) / "net_32_grey.pkl")
    G, z = nets.G_ema.eval(), torch.from_numpy(a["z"])
    ws = G.mapping(z)
    close(ws[:, 0], a["w_ema"])
    close(G.mapping.w_avg, a["w_avg_ema"])
    close(G.mapping(z, truncation_psi=float(a["psi"]))[:, 0], a["w_psi"])
    close(G.mapping(z[:2], truncation_psi=float(a["psi"]), truncation_cutoff=int(a["cutoff"])), a["ws_psi_cutoff"])
    close(G(z[:4], noise_mode="const"), a["img_const"])
    close(G(z[:4], noise_mode="none"), a["img_none"])
    close(G(z[:4], noise_mode="const", truncation_psi=float(a["psi"])), a["img_const_psi"])
    close(G.synthesis(torch.cat([ws[:1, :5], ws[1:2, 5:]], dim=1), noise_mode="const"), a["img_mix"])
    close(nets.D(torch.from_numpy(a["img_const"])), a["logits_fake_const"])
    for r, x, img in G.synthesis.blocks(ws[:1], noise_mode="const"):
        close(img, a[f"block{r}_img"])
        close(x.mean(dim=[2, 3]), a[f"block{r}_x_mean"])
        close(x.std(dim=[2, 3]), a[f"block{r}_x_std"])


@whole
@pytest.mark.parametrize("kind, tolerance", [("f32", 1e-5), ("f64", 1e-6)])
def test_operations(kind, tolerance):
    "All of ops.npz; in float64 too."
    folder = Path(FOLDER)
    a = {k: torch.from_numpy(v) for k, v in np.load(folder / "ops.npz").items()}
    get = lambda name: a[f"{name}_{kind}"]
    seen = {"x", "xe", "w3", "w1", "styles", "noise", "noise_up", "bias", "mbstd_in"}

    def check(ours, name):
        close(ours, get(name), tolerance)
        seen.add(name)

    x, xe, w3, w1, s, f, sym6 = (
        get("x"),
        get("xe"),
        get("w3"),
        get("w1"),
        get("styles"),
        a["filter_1331"],
        a["filter_sym6"],
    )
    (
        check(layers.upsample2d(x, f), "up2_1331"),
        check(layers.downsample2d(x, f), "down2_1331"),
        check(layers.upfirdn2d(x, f, padding=(2, 1, 2, 1)), "filter_1331"),
    )
    (
        check(layers.upsample2d(x, sym6), "up2_sym6"),
        check(layers.downsample2d(x, sym6, flip_filter=True), "down2_sym6_flip"),
    )
    for name, c in json.loads((folder / "ops_general_cases.json").read_text(encoding="utf-8")).items():
        check(
            layers.upfirdn2d(x, a["filter_asym_3x4"], c["up"], c["down"], c["padding"], c["flip_filter"], c["gain"]),
            name,
        )
    y = x.clone().requires_grad_()
    up = layers.upsample2d(y, f)
    check(
        torch.autograd.grad((up * torch.linspace(-1, 1, up.numel(), dtype=x.dtype).view(up.shape)).sum(), y)[0],
        "up2_1331_grad",
    )
    check(layers.conv2d_resample(xe, w3), "conv_plain"), check(layers.conv2d_resample(xe, w3, f, down=2), "conv_down2")
    (
        check(layers.conv2d_resample(xe, w3, f, up=2), "conv_up2"),
        check(layers.conv2d_resample(xe, w3, f, up=2, flip_weight=True), "conv_up2_corr"),
    )
    (
        check(layers.conv2d_resample(xe, w1, f, down=2), "conv1x1_down2"),
        check(layers.conv2d_resample(xe, w1, f, up=2), "conv1x1_up2"),
    )
    for way in ("fused", "split"):
        mod = lambda *args, **more: layers.modulated_conv2d(*args, fused=way == "fused", **more)
        check(mod(xe, w3, s, get("noise")), f"modconv_{way}")
        check(mod(xe, w3, s, get("noise_up"), up=2, f=f), f"modconv_up2_{way}")
        check(mod(xe, w1, s, demodulate=False), f"modconv_nodemod_1x1_{way}")
    for act in ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"):
        check(layers.bias_act(x, get("bias"), act), f"bias_act_{act}")
    check(layers.bias_act(x, get("bias"), "lrelu", gain=3.0, clamp=1.25, slope=0.1), "bias_act_lrelu_gain_clamp")
    for group, channels, name in ((4, 1, "g4_f1"), (2, 2, "g2_f2"), (8, 1, "g8_f1"), (None, 3, "gall_f3")):
        check(layers.MinibatchStd(group, channels)(get("mbstd_in")), f"mbstd_{name}")
    assert seen == {k.rpartition("_")[0] for k in a if k.endswith(kind)}


@whole
def test_filters():
    a = np.load(Path(FOLDER) / "ops.npz")
    close(layers.fir_filter(), a["filter_1331"], 1e-7)
    close(layers.fir_filter(a["filter_sym6_raw"]), a["filter_sym6"], 1e-6)
