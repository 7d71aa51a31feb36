"""Ours against the formulation one would write down first, in one process: `python benchmarks/networks.py [--size 32 64] [--preset laptop]`.

Naive: each image its own kernels (grouped convolution), zeros really inserted before resampling, PyTorch's memory order as it comes. Both have the same weights, and the
images and logits are compared before anything is timed. The third column adds `keep_memory`, the allocator setting of chapter 05. Figures are medians of interleaved runs.
Nothing here asserts a time."""
import argparse
import copy
import math
import statistics
import time
import types

import torch
import torch.nn.functional as F

from semgan_nb.layers import keep_memory
from semgan_nb.losses import r1_penalty
from semgan_nb.networks import Conv2dLayer, Discriminator, Generator, SynthesisLayer, ToRGB
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
        x = F.conv2d(x.reshape(1, n * c, 2 * h, 2 * h), k.flip([3, 4]).reshape(n * o, c, 3, 3), padding=2, groups=n)[:, :, :-1, :-1]
        x = zero_insertion(x.reshape(n, o, 2 * h + 1, 2 * h + 1), self.resample_filter, pad=(1, 1), gain=4)
    else:
        x = F.conv2d(x.reshape(1, n * c, h, h), k.reshape(n * o, c, 3, 3), padding=1, groups=n).reshape(n, o, h, h)
    r = self.resolution
    x = x + (torch.randn(n, 1, r, r, generator=generator) if noise_mode == "random" else self.noise_const) * self.noise_strength
    x = F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2) * (math.sqrt(2) * gain)
    return x if self.conv_clamp is None else x.clamp(-self.conv_clamp * gain, self.conv_clamp * gain)


def naive_torgb(self, x, w):
    n, c, h, _ = x.shape
    k = self.weight[None] * (self.affine(w) * self.weight_gain)[:, None, :, None, None]
    y = F.conv2d(x.reshape(1, n * c, h, h), k.reshape(-1, c, 1, 1), groups=n).reshape(n, -1, h, h) + self.bias.view(1, -1, 1, 1)
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


def medians(functions, repeats):
    times = [[] for _ in functions]
    for f in functions:
        f()
    for _ in range(repeats):
        for t, f in zip(times, functions):
            start = time.perf_counter()
            f()
            t.append(time.perf_counter() - start)
    return [1000 * statistics.median(t) for t in times]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--size", type=int, nargs="+", default=[32, 64])
    p.add_argument("--preset", default="laptop")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--repeats", type=int, default=15)
    a = p.parse_args()
    tasks = {}
    for r in a.size:
        c = preset(a.preset, r)
        common = dict(img_resolution=r, img_channels=1, channel_base=c.channel_base, channel_max=c.channel_max, conv_clamp=c.conv_clamp)
        G, D = Generator(mapping_layers=c.mapping_layers, **common), Discriminator(**common)
        pairs = [(naive(G), naive(D)), (G, D)]
        z, x = torch.randn(a.batch, 512), torch.randn(a.batch, 1, r, r)
        with torch.no_grad():
            images = [g(z, noise_mode="const") for g, _ in pairs]
            logits = [d(x) for _, d in pairs]
        assert torch.allclose(*images, atol=1e-3 * images[0].abs().max()) and torch.allclose(*logits, atol=1e-3), "the two formulations differ"

        def no_grad(f):
            def g():
                with torch.no_grad():
                    f()
            return g

        def r1(d, x):
            y = x.clone().requires_grad_()
            r1_penalty(d(y), y).sum().backward()

        tasks[r] = {
            "G forward": [no_grad(lambda g=g, z=z: g(z)) for g, _ in pairs],
            "G forward + backward": [lambda g=g, z=z: g(z).sum().backward() for g, _ in pairs],
            "D forward + backward": [lambda d=d, x=x: d(x).sum().backward() for _, d in pairs],
            "D with R1": [lambda d=d, x=x: r1(d, x) for _, d in pairs],
        }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, preset {a.preset}, batch {a.batch}; milliseconds, medians of {a.repeats}")
    before = {(r, name): medians(pair, a.repeats) for r, todo in tasks.items() for name, pair in todo.items()}
    kept = keep_memory()
    print(f"{'':28s}{'naive':>9s}{'ours':>9s}{'ours, memory kept' if kept else '':>20s}{'naive / ours':>14s}")
    for r, todo in tasks.items():
        for name, pair in todo.items():
            (slow, ours), (after,) = before[r, name], medians(pair[1:], a.repeats)
            print(f"{r:4d} px {name:21s}{slow:9.1f}{ours:9.1f}{after:20.1f}{slow / after:14.2f}")


if __name__ == "__main__":
    main()
