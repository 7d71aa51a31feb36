"""Generator and discriminator at the widths of a preset, timed beside the formulation one would write down first,
and beside their convolutions alone, in one process.

`python benchmarks/networks.py [--max-resolution 128] [--resolutions 64 128] [--preset auto]`

* naive: each image its own kernels (one grouped convolution), zeros really inserted before resampling, PyTorch's
  memory order as it comes. Same weights; images and logits are compared first.
* ours, in float32 and with the four largest resolutions in bfloat16.
* convolutions: what ours cannot do without, each convolution of the networks at its size, with nothing between them
  (3×3 and 1×1; up by two as a transposed convolution), in both formats.

The ways take turns; what is printed is the shortest of their times in milliseconds, since other work on the machine
only ever adds. Memory is kept (`keep_memory`, chapter 20) for all of them. Nothing here asserts a time.
"""

import argparse
import copy
import math
import statistics
import time
import types

import torch
import torch.nn.functional as F

from semgan_nb.layers import Conv2dLayer, SynthesisLayer, ToRGB, keep_memory
from semgan_nb.losses import path_lengths, r1_penalty
from semgan_nb.networks import Discriminator, Generator, use_half
from semgan_nb.runs import preset


def zero_insertion(x, f, up=1, down=1, pad=(0, 0), gain=1.0):
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, [*pad, *pad])
    return F.conv2d(x, (f * gain).flip([0, 1])[None, None].expand(c, 1, -1, -1), groups=c)[:, :, ::down, ::down]


def naive_synthesis(self, x, w, noise_mode="random", generator=None, gain=1.0):
    n, c, h, _ = x.shape
    s = self.affine(w)
    k = self.weight[None] * s[:, None, :, None, None]
    k = k * (k.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    o = k.shape[1]
    if self.up == 2:
        x = zero_insertion(x, torch.ones(1, 1), up=2)
        x = F.conv2d(x.reshape(1, n * c, 2 * h, 2 * h), k.flip([3, 4]).reshape(n * o, c, 3, 3), padding=2, groups=n)[
            :, :, :-1, :-1
        ]
        x = zero_insertion(x.reshape(n, o, 2 * h + 1, 2 * h + 1), self.resample_filter, pad=(1, 1), gain=4)
    else:
        x = F.conv2d(x.reshape(1, n * c, h, h), k.reshape(n * o, c, 3, 3), padding=1, groups=n).reshape(n, o, h, h)
    r = self.resolution
    x = (
        x
        + (torch.randn(n, 1, r, r, generator=generator) if noise_mode == "random" else self.noise_const)
        * self.noise_strength
    )
    x = F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2) * (math.sqrt(2) * gain)
    return x if self.conv_clamp is None else x.clamp(-self.conv_clamp * gain, self.conv_clamp * gain)


def naive_torgb(self, x, w):
    n, c, h, _ = x.shape
    k = self.weight[None] * (self.affine(w) * self.weight_gain)[:, None, :, None, None]
    y = F.conv2d(x.reshape(1, n * c, h, h), k.reshape(-1, c, 1, 1), groups=n).reshape(n, -1, h, h) + self.bias.view(
        1, -1, 1, 1
    )
    return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)


def naive_conv(self, x, gain=1.0):
    w = self.weight * self.weight_gain
    k = w.shape[-1]
    if self.down == 2:
        x = zero_insertion(x, self.resample_filter, pad=(2, 2) if k == 3 else (1, 1), down=1 if k == 3 else 2)
        x = F.conv2d(x, w, stride=2 if k == 3 else 1)
    else:
        x = F.conv2d(x, w, padding=k // 2)
    x = x if self.bias is None else x + self.bias.view(1, -1, 1, 1)
    x = (F.leaky_relu(x, 0.2) * math.sqrt(2) if self.activation == "lrelu" else x) * gain
    return x if self.conv_clamp is None else x.clamp(-self.conv_clamp * gain, self.conv_clamp * gain)


def naive(net):
    net = copy.deepcopy(net)
    for m in net.modules():
        for kind, f in ((SynthesisLayer, naive_synthesis), (ToRGB, naive_torgb), (Conv2dLayer, naive_conv)):
            if isinstance(m, kind):
                m.forward = types.MethodType(f, m)
    for p in net.parameters():
        p.data = p.data.contiguous()
    return net


class Convolutions:
    "The convolutions of a network and nothing else, on inputs of their sizes that are already there."

    def __init__(self, net, *inputs, half=False):
        self.tasks, hooks = [], []
        for name, m in net.named_modules():
            if isinstance(m, (SynthesisLayer, ToRGB, Conv2dLayer)):
                block = net.get_submodule(name.rpartition(".")[0])
                dtype = torch.bfloat16 if half and getattr(block, "use_fp16", False) else torch.float32
                hooks.append(m.register_forward_pre_hook(lambda m, a, dtype=dtype: self.add(m, a[0].shape, dtype)))
        with torch.no_grad():
            net(*inputs)
        for h in hooks:
            h.remove()

    def add(self, m, shape, dtype):
        n, c, h, w = shape
        k, up, down = m.weight.shape[-1], getattr(m, "up", 1), getattr(m, "down", 1)
        weight = m.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        if up == 2 and k == 3:
            f, weight = lambda x, w: F.conv_transpose2d(x, w, stride=2), weight.transpose(0, 1)
        elif down == 2 and k == 3:
            f, h, w = lambda x, w: F.conv2d(x, w, stride=2), h + 1, w + 1
        else:
            f, h, w = lambda x, w: F.conv2d(x, w, padding=k // 2), h // down, w // down
        x = (
            torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_(c > 3)
        )  # not the image
        y = f(x, weight)
        self.tasks.append((f, x, weight.requires_grad_(), torch.ones_like(y)))

    def forward(self):
        with torch.no_grad():
            for f, x, w, _ in self.tasks:
                f(x, w)

    def backward(self):
        for f, x, w, g in self.tasks:
            torch.autograd.grad(f(x, w), [t for t in (x, w) if t.requires_grad], g)


def take_turns(ways, repeats, seconds, clock=time.perf_counter):
    "name -> shortest time in ms; each way once to warm up, then in turn, at most so often and so long."
    times = {name: [] for name in ways}
    for f in ways.values():
        f()
    start = time.perf_counter()
    for i in range(repeats):
        for name, f in ways.items():
            t = clock()
            f()
            times[name].append(1000 * (clock() - t))
        if i >= 2 and time.perf_counter() - start > seconds:
            break
    return {name: (min(t), statistics.median(t)) for name, t in times.items()}


def no_grad(f):
    def g():
        with torch.no_grad():
            f()

    return g


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--resolutions", type=int, nargs="+", default=[64, 128, 256, 512])
    p.add_argument("--max-resolution", type=int, default=512, help="leave out what is larger")
    p.add_argument("--preset", default="auto", help="whose widths: auto, laptop ...")
    p.add_argument("--batch", type=int, help="default: 1024 / resolution, from 2 to 16")
    p.add_argument("--repeats", type=int, default=15)
    p.add_argument("--seconds", type=float, default=30.0, help="for each line at most about this long")
    p.add_argument(
        "--no-naive", action="store_true", help="leave out the naive formulation, which takes most of the time"
    )
    p.add_argument("--median", action="store_true", help="print medians instead of the shortest times")
    p.add_argument(
        "--busy",
        action="store_true",
        help="for a machine with other work: one thread, and processor time instead of the clock on the wall",
    )
    a = p.parse_args()
    kept, clock = keep_memory(), time.perf_counter
    if a.busy:
        torch.set_num_threads(1)
        clock = time.process_time
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, preset {a.preset}, memory kept: {kept};"
        f" milliseconds{' of processor time' if a.busy else ''}, {'medians' if a.median else 'shortest'} of up to"
        f" {a.repeats} in turn"
    )
    heads = dict(naive=10, ours=10, bf16=10) | {
        "conv.": 10,
        "conv. bf16": 12,
        "naive/ours": 13,
        "ours/conv.": 12,
        "bf16/conv.": 12,
    }
    print(30 * " " + "".join(f"{head:>{width}s}" for head, width in heads.items()))
    for r in a.resolutions:
        if r > a.max_resolution:
            continue
        c, n = preset(a.preset, r), a.batch or min(max(1024 // r, 2), 16)
        common = dict(
            img_resolution=r,
            img_channels=1,
            channel_base=c.channel_base,
            channel_max=c.channel_max,
            conv_clamp=c.conv_clamp,
        )
        G, D = Generator(mapping_layers=c.mapping_layers, **common), Discriminator(**common)
        G_half, D_half = (
            Generator(mapping_layers=c.mapping_layers, num_fp16_res=4, **common),
            Discriminator(num_fp16_res=4, **common),
        )
        for net, of in ((G_half, G), (D_half, D)):
            net.load_state_dict(of.state_dict())
            use_half(net, torch.bfloat16)
        z, x = torch.randn(n, 512), torch.randn(n, 1, r, r)
        nets = {"ours": (G, D), "bf16": (G_half, D_half)} | ({} if a.no_naive else {"naive": (naive(G), naive(D))})
        with torch.no_grad():
            images, logits = (
                {k: g(z, noise_mode="const") for k, (g, _) in nets.items()},
                {k: d(x) for k, (_, d) in nets.items()},
            )
        for k in nets:
            tolerance = 0.1 if k == "bf16" else 1e-3
            assert (images[k] - images["ours"]).abs().max() <= tolerance * images["ours"].abs().max() and (
                logits[k] - logits["ours"]
            ).abs().max() <= tolerance * 3, f"{k} differs"
        conv = {
            k: (Convolutions(g, z, half=k == "bf16"), Convolutions(d, x, half=k == "bf16"))
            for k, (g, d) in nets.items()
            if k != "naive"
        }

        def r1(d):
            y = x.clone().requires_grad_()
            r1_penalty(d(y), y).sum().backward()

        def path(g):
            ws = g.mapping(z[: max(n // 2, 1)])
            y = g.synthesis(ws)
            path_lengths(y, ws, torch.randn_like(y)).sum().backward()

        lines = {
            "G forward": (lambda g, d: no_grad(lambda: g(z)), lambda g, d: g.forward),
            "G forward + backward": (lambda g, d: lambda: g(z).sum().backward(), lambda g, d: g.backward),
            "D forward": (lambda g, d: no_grad(lambda: d(x)), lambda g, d: d.forward),
            "D forward + backward": (lambda g, d: lambda: d(x).sum().backward(), lambda g, d: d.backward),
            "D with R1": (lambda g, d: lambda: r1(d), None),
            "G path length, half batch": (lambda g, d: lambda: path(g), None),
        }
        for line, (ours, alone) in lines.items():
            ways = {k: ours(*pair) for k, pair in nets.items()} | (
                {} if alone is None else {f"conv. {k}": alone(*pair) for k, pair in conv.items()}
            )
            t = {k: v[a.median] for k, v in take_turns(ways, a.repeats, a.seconds, clock).items()}
            cell = lambda k, width=10: f"{t[k]:{width}.1f}" if k in t else f"{'':{width}s}"
            ratio = lambda k, of, width: f"{t[k] / t[of]:{width}.2f}" if k in t and of in t else f"{'':{width}s}"
            print(
                f"{r:4d}"
                f" {line:25s}{cell('naive')}{cell('ours')}{cell('bf16')}{cell('conv. ours')}{cell('conv. bf16', 12)}"
                f"{ratio('naive', 'ours', 13)}{ratio('ours', 'conv. ours', 12)}{ratio('bf16', 'conv. bf16', 12)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
