"""Do the learning curves of two ways of training overlap within their spread over seeds, and at what multiple of the speed? Same data, same architecture, in turn.

`python benchmarks/curves.py DATA.zip OUT [--ways plain ours] [--kimg 40] [--seeds 0 1 2] [--width 512 64] [--threads 1]`, then `python benchmarks/curves.py --show OUT`. Ways:

* plain: StyleGAN2-ADA as its papers and its published facts describe it, written down here in the plainest formulation, with nothing of the package's training, augmentation or layers: each image its own kernels in one grouped convolution,
  zeros really inserted before a low-pass, the whole batch padded and resampled by zero insertion and `grid_sample`, PyTorch's memory order as it comes, random numbers from one global stream. Initial weights are drawn by the package's
  networks; other random numbers follow, so no two curves can be equal.
* ours: the package's trainer in float32.
* bfloat16: the package's trainer with the four largest resolutions in bfloat16.

All are judged by the same metric, and all include what the narrow `laptop` preset leaves out: path length regularisation and style mixing.
Written: OUT/runs.jsonl, one line per judged snapshot, with the processor time of training alone; a run that is there is not made again."""
import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from networks import naive, zero_insertion

from semgan_nb.augment import SYM6
from semgan_nb.dataset import Dataset
from semgan_nb.latent import random_images
from semgan_nb.layers import keep_memory
from semgan_nb.metrics import Judge
from semgan_nb.runs import append_line, preset
from semgan_nb.training import Trainer, make_networks


class PlainAugment:
    "`bg` at probability p: mirror, quarter turns, whole shifts, scale, rotation, stretch, rotation, shift; one resampling of the whole padded batch."

    def __init__(self):
        f = torch.tensor(SYM6) / sum(SYM6)
        self.f, self.p = torch.outer(f, f), 0.0

    def maps(self, n, size):
        m = torch.eye(3).repeat(n, 1, 1)

        def add(entries):
            nonlocal m
            step = torch.eye(3).repeat(n, 1, 1)
            for (r, c), v in entries.items():
                step[:, r, c] = v
            m = m @ step

        def gate(value, idle=0.0, p=None):
            return torch.where(torch.rand(n) < (self.p if p is None else p), value, torch.full_like(value, idle))

        add({(0, 0): 1 - 2 * gate(torch.floor(torch.rand(n) * 2))})
        turn = lambda a: add({(0, 0): a.cos(), (0, 1): -a.sin(), (1, 0): a.sin(), (1, 1): a.cos()})
        turn(gate(torch.floor(torch.rand(n) * 4)) * (math.pi / 2))
        t = gate(torch.ones(n)) * ((torch.rand(2, n) * 2 - 1) * 0.125 * size)
        add({(0, 2): -t[0].round(), (1, 2): -t[1].round()})
        s = torch.exp2(gate(torch.randn(n) * 0.2))
        add({(0, 0): 1 / s, (1, 1): 1 / s})
        p_rot = 1 - math.sqrt(1 - min(self.p, 1))
        turn(gate((torch.rand(n) * 2 - 1) * math.pi, p=p_rot))
        s = torch.exp2(gate(torch.randn(n) * 0.2))
        add({(0, 0): 1 / s, (1, 1): s})
        turn(gate((torch.rand(n) * 2 - 1) * math.pi, p=p_rot))
        t = gate(torch.ones(n)) * (torch.randn(2, n) * 0.125 * size)
        add({(0, 2): -t[0], (1, 2): -t[1]})
        return m

    def __call__(self, x, m=None):  # m: [N, 3, 3], output pixel -> input pixel about the centre
        n, _, _, size = x.shape
        m = self.maps(n, size) if m is None else m
        c = (size - 1) / 2
        corners = (m @ torch.tensor([[-c, c, c, -c], [-c, -c, c, c], [1.0, 1, 1, 1]]))[:, :2]
        low, high = -corners.amin(dim=(0, 2)) + 6 - c, corners.amax(dim=(0, 2)) + 6 - c
        left, top, right, bottom = torch.cat([low, high]).clamp(0, size - 1).ceil().int().tolist()
        y = F.pad(x, [left, right, top, bottom], mode="reflect")
        h, w = y.shape[2:]
        y = zero_insertion(y, self.f, up=2, pad=(6, 5), gain=4)
        k = 2 * (size + 6)
        at = (torch.arange(k) - (k - 1) / 2) / 2 + 0.25  # of the finer output grid, in pixels about the centre; the filter's taps are a quarter off
        gy, gx = torch.meshgrid(at, at, indexing="ij")
        g = torch.einsum("nij,jhw->nhwi", m[:, :2], torch.stack([gx, gy, torch.ones_like(gx)]))
        g = torch.stack([(2 * (g[..., 0] + c + left) + 0.5) / w - 1, (2 * (g[..., 1] + c + top) + 0.5) / h - 1], dim=-1)
        y = F.grid_sample(y, g, mode="bilinear", padding_mode="zeros", align_corners=False)
        return zero_insertion(y, self.f.flip([0, 1]), down=2, pad=(-1, -1))[:, :, :size, :size]


class Plain:
    def __init__(self, c, data):
        torch.manual_seed(c.seed + 1000)
        self.c, self.data, self.order = c, data, np.random.RandomState(c.seed + 1000)
        self.G, self.D = (naive(net) for net in make_networks(c, data.resolution, data.channels))
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        adam = lambda net, lr, k: torch.optim.Adam(net.parameters(), lr=lr * k / (k + 1), betas=(0.0, 0.99 ** (k / (k + 1))), eps=1e-8)
        self.G_opt, self.D_opt = adam(self.G, c.g_lr, c.G_reg_interval), adam(self.D, c.d_lr, c.D_reg_interval)
        self.augment, self.signs, self.pl_mean, self.cur_nimg, self.batch_idx, self.rt = PlainAugment(), [], torch.zeros([]), 0, 0, float("nan")

    @property
    def p(self):
        return self.augment.p

    def ws(self, n):
        ws, other = self.G.mapping(torch.randn(n, self.c.z_dim)), self.G.mapping(torch.randn(n, self.c.z_dim), update_w_avg=False)
        cut = int(torch.randint(1, ws.shape[1], [])) if torch.rand([]) < self.c.style_mixing_prob else ws.shape[1]
        return torch.cat([ws[:, :cut], other[:, cut:]], dim=1)

    def step(self, net, opt, loss):
        for other in (self.G, self.D):
            other.requires_grad_(other is net)
        opt.zero_grad()
        loss().backward()
        for p in net.parameters():
            if p.grad is not None:
                torch.nan_to_num(p.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=p.grad)
        opt.step()

    def iterate(self):
        c, n = self.c, self.c.batch_size
        real = torch.from_numpy(self.data.images(self.order.randint(len(self.data), size=n))).float() / 127.5 - 1
        logits = lambda x: self.D(self.augment(x))

        def path_length():
            ws = self.ws(n // 2)
            images = self.G.synthesis(ws)
            slope = torch.autograd.grad((images * torch.randn_like(images) / images.shape[-1]).sum(), ws, create_graph=True)[0]
            lengths = slope.square().sum(2).mean(1).sqrt()
            mean = self.pl_mean.lerp(lengths.mean(), c.pl_decay)
            self.pl_mean = mean.detach()
            return (lengths - mean).square().mean() * c.pl_weight * c.G_reg_interval

        def on_real(x):
            y = logits(x)
            self.signs.append(y.detach().sign())
            return y

        def discriminate():
            with torch.no_grad():
                fake = self.G.synthesis(self.ws(n))
            return F.softplus(logits(fake)).mean() + F.softplus(-on_real(real)).mean()

        def r1():
            x = real.clone().requires_grad_()
            slope = torch.autograd.grad(on_real(x).sum(), x, create_graph=True)[0]
            return slope.square().sum([1, 2, 3]).mean() * (c.r1_gamma / 2) * c.D_reg_interval

        self.step(self.G, self.G_opt, lambda: F.softplus(-logits(self.G.synthesis(self.ws(n)))).mean())
        if self.batch_idx % c.G_reg_interval == 0:
            self.step(self.G, self.G_opt, path_length)
        self.step(self.D, self.D_opt, discriminate)
        if self.batch_idx % c.D_reg_interval == 0:
            self.step(self.D, self.D_opt, r1)
        beta = 0.5 ** (n / max(min(c.ema_kimg * 1000, self.cur_nimg * c.ema_rampup), 1e-8))
        with torch.no_grad():
            for average, now in zip(self.G_ema.parameters(), self.G.parameters()):
                average.copy_(now.lerp(average, beta))
            for average, now in zip(self.G_ema.buffers(), self.G.buffers()):
                average.copy_(now)
        self.cur_nimg, self.batch_idx = self.cur_nimg + n, self.batch_idx + 1
        if self.batch_idx % c.ada_interval == 0:
            self.rt, self.signs = float(torch.cat(self.signs).mean()), []
            self.augment.p = max(self.augment.p + np.sign(self.rt - c.ada_target) * n * c.ada_interval / (c.ada_kimg * 1000), 0.0)


class Ours(Trainer):
    @property
    def p(self):
        return float(self.ada.p)

    @property
    def rt(self):
        return self.ada.rt


def make(options):
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "runs.jsonl"
    done = {(r["way"], r["seed"]) for r in read(log) if r["kimg"] >= options.kimg} if log.exists() else set()
    data = Dataset(options.data, part="train")
    judge = Judge("lite0_fd500_holdout", options.data)
    for seed in options.seeds:
        for way in options.ways:
            if (way, seed) in done:
                continue
            base, most = options.width
            c = preset("laptop", data.resolution).replace(seed=seed, G_reg_interval=4, pl_weight=2.0, style_mixing_prob=0.9, channel_base=base, channel_max=most)
            if way == "bfloat16":
                c = c.replace(half_format="bfloat16", num_fp16_res=4)
            trainer, seconds, signs = (Plain if way == "plain" else Ours)(c, data), 0.0, []
            for stop in np.linspace(0, options.kimg, options.judged + 1)[1:]:
                start = time.process_time()
                while trainer.cur_nimg < 1000 * stop:
                    trainer.iterate()
                    signs.append(trainer.rt)
                seconds += time.process_time() - start
                value = judge.judge(random_images(trainer.G_ema, 500, seed=seed))["results"]
                record = dict(way=way, seed=seed, kimg=trainer.cur_nimg / 1000, p=round(trainer.p, 5), rt=round(float(np.nanmean(signs)), 4), seconds=round(seconds, 1), threads=torch.get_num_threads(), resolution=data.resolution, width=options.width, **value)
                append_line(log, record)
                print(json.dumps(record), flush=True)
                signs = []


def read(log):
    return [json.loads(line) for line in Path(log).read_text().splitlines()]


def show(out):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = read(out / "runs.jsonl")
    metric, ways = next(k for k in records[0] if k.startswith("lite0")), list(dict.fromkeys(r["way"] for r in records))
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.2), dpi=90)
    for ax, key, name in zip(axes, (metric, "rt", "p"), (metric, "r_t since the last point", "p")):
        for way, colour in zip(ways, ("tab:orange", "tab:blue", "tab:green")):
            for k, seed in enumerate(sorted({r["seed"] for r in records if r["way"] == way})):
                line = [(r["kimg"], r[key]) for r in records if (r["way"], r["seed"]) == (way, seed)]
                ax.plot(*zip(*line), "o-", ms=3, lw=1, color=colour, label=None if k else way)
        ax.set_xlabel("thousand images"), ax.set_title(name, fontsize=9)
    axes[0].set_yscale("log"), axes[0].legend()
    fig.tight_layout(), fig.savefig(out / "curves.png")
    print(f"{'kimg':>6} | " + " | ".join(f"{way}: {metric}, r_t, p of each seed" for way in ways))
    for kimg in sorted({r["kimg"] for r in records}):
        cell = lambda way: "; ".join(f"{r[metric]:.0f}, {r['rt']:.2f}, {r['p']:.3f}" for r in records if (r["way"], r["kimg"]) == (way, kimg))
        print(f"{kimg:6.1f} | " + " | ".join(map(cell, ways)))
    for way in ways:
        speed = np.median([r["kimg"] * 1000 / r["seconds"] for r in records if r["way"] == way])
        print(f"{way}: {speed:.1f} images per second of processor time, {records[0]['threads']} thread")


def check():
    "Plain resampling is ours."
    from semgan_nb.augment import warp

    x, plain = torch.randn(4, 1, 64, 64), PlainAugment()
    plain.p = 1.0
    m = plain.maps(4, 64)
    error = (plain(x, m) - warp(x, m.double().numpy())).abs().max().item()
    print(f"plain and ours resample alike to {error:.1e}")
    assert error < 1e-4


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="archive with a hold-out part")
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--ways", nargs="+", default=["plain", "ours"], choices=["plain", "ours", "bfloat16"])
    parser.add_argument("--width", type=int, nargs=2, default=[512, 64], help="channel_base and channel_max")
    parser.add_argument("--kimg", type=float, default=40)
    parser.add_argument("--judged", type=int, default=5, help="snapshots judged in each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    if options.show:
        show(options.show)
    else:
        torch.set_num_threads(options.threads)
        keep_memory()
        check()
        make(options)
