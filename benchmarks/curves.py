"""Do the learning curves of two ways of training overlap within their spread over seeds, and at what multiple of the
speed? Same data, same architecture, in turn.

`python benchmarks/curves.py DATA.zip OUT [--ways plain ours] [--reference DIR] [--kimg 40] [--seeds 0 1 2] [--width
512 64] [--threads 1]`, then `python benchmarks/curves.py --show OUT`. Ways:

* reference: NVIDIA's own networks, losses, augmentation and statistics, run from a checkout of
  NVlabs/stylegan2-ada-pytorch that you have (`--reference DIR`; its licence is not this project's), on a CPU with
  its own plain PyTorch operations.
  The loop around them is written here, and the order of images comes from the package, since their loop wants a GPU
  and their sampler an older PyTorch. Nothing about the networks has to be made equal but what the configuration
  says:
  filter, gains, initialisation and the learning rate of the mapping are the same by default. First it is shown that
  with our weights in their networks images and logits are the same, and that with equal draws both go the same way.
* plain: for those without that checkout, StyleGAN2-ADA as its papers and its published facts describe it, written
  down here in the plainest formulation, with nothing of the package's training, augmentation or layers: each image
  its own kernels in one grouped convolution,
  zeros really inserted before a low-pass, the whole batch padded and resampled by zero insertion and `grid_sample`,
  PyTorch's memory order as it comes, random numbers from one global stream. Initial weights are drawn by the
  package's networks.
* ours: the package's trainer in float32.
* bfloat16: the package's trainer with the four largest resolutions in bfloat16.

Each way draws its own random numbers, so no two curves can be equal. Freed memory is kept (`keep_memory`, chapter
20) for all of them. All are judged by the same metric, and all include what the narrow `laptop` preset leaves out:
path length regularisation and style mixing.
Written: OUT/runs.jsonl, one line per judged snapshot, with the processor time of training alone; a run that is there
is not made again.
"""

import argparse
import copy
import importlib
import inspect
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from networks import naive, zero_insertion

from semgan_nb.resampling import SYM6
from semgan_nb.augment import PIPES
from semgan_nb.dataset import Dataset, InfiniteSampler
from semgan_nb.latent import random_images
from semgan_nb.layers import keep_memory
from semgan_nb.evaluation import Judge
from semgan_nb.foundation import append_line
from semgan_nb.runs import preset
from semgan_nb.trainer import Trainer
from semgan_nb.transfer import make_networks


class PlainAugment:
    """`bg` at probability p: mirror, quarter turns, whole shifts, scale, rotation, stretch, rotation, shift; one
    resampling of the whole padded batch."""

    def __init__(self):
        f = torch.tensor(SYM6) / sum(SYM6)
        self.f, self.p = torch.outer(f, f), torch.zeros([])

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
        p_rot = 1 - math.sqrt(1 - min(float(self.p), 1))
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
        at = (
            torch.arange(k) - (k - 1) / 2
        ) / 2 + 0.25  # of the finer output grid, in pixels about the centre; the filter's taps are a quarter off
        gy, gx = torch.meshgrid(at, at, indexing="ij")
        g = torch.einsum("nij,jhw->nhwi", m[:, :2], torch.stack([gx, gy, torch.ones_like(gx)]))
        g = torch.stack([(2 * (g[..., 0] + c + left) + 0.5) / w - 1, (2 * (g[..., 1] + c + top) + 0.5) / h - 1], dim=-1)
        y = F.grid_sample(y, g, mode="bilinear", padding_mode="zeros", align_corners=False)
        return zero_insertion(y, self.f.flip([0, 1]), down=2, pad=(-1, -1))[:, :, :size, :size]


PHASES = ("Gmain", "Greg", "Dmain", "Dreg")


class Loop:
    """What surrounds the losses, as published: when which phase runs, Adam corrected for that, the running average,
    the controller.

    A way adds `backward(phase, real images, factor)` and `mean_sign()`, the r_t since it was last asked for."""

    def __init__(self, c, data, G, D, augment, take):  # take: how many -> indexes of images
        self.c, self.data, self.G, self.D, self.augment, self.take = c, data, G, D, augment, take
        self.G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        adam = lambda net, lr, k: torch.optim.Adam(
            net.parameters(), lr=lr * k / (k + 1), betas=(0.0, 0.99 ** (k / (k + 1))), eps=1e-8
        )
        G_opt, D_opt = adam(G, c.g_lr, c.G_reg_interval), adam(D, c.d_lr, c.D_reg_interval)
        self.phases = list(
            zip(PHASES, (G, G, D, D), (G_opt, G_opt, D_opt, D_opt), (1, c.G_reg_interval, 1, c.D_reg_interval))
        )
        self.cur_nimg, self.batch_idx, self.rt = 0, 0, float("nan")

    @property
    def p(self):
        return float(self.augment.p)

    def iterate(self):
        c, n = self.c, self.c.batch_size
        real = torch.from_numpy(self.data.images(self.take(n))).float() / 127.5 - 1
        for phase, net, opt, every in self.phases:
            if self.batch_idx % every:
                continue
            for other in (self.G, self.D):
                other.requires_grad_(other is net)
            opt.zero_grad()
            self.backward(phase, real, every)
            for p in net.parameters():
                if p.grad is not None:
                    torch.nan_to_num(p.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=p.grad)
            opt.step()
        beta = 0.5 ** (n / max(min(c.ema_kimg * 1000, self.cur_nimg * c.ema_rampup), 1e-8))
        with torch.no_grad():
            for average, now in zip(self.G_ema.parameters(), self.G.parameters()):
                average.copy_(now.lerp(average, beta))
            for average, now in zip(self.G_ema.buffers(), self.G.buffers()):
                average.copy_(now)
        self.cur_nimg, self.batch_idx = self.cur_nimg + n, self.batch_idx + 1
        if self.batch_idx % c.ada_interval == 0:
            self.rt = self.mean_sign()
            self.augment.p.add_(np.sign(self.rt - c.ada_target) * n * c.ada_interval / (c.ada_kimg * 1000)).clamp_(
                min=0
            )


class Plain(Loop):
    def __init__(self, c, data):
        torch.manual_seed(c.seed + 1000)
        G, D = (naive(net) for net in make_networks(c, data.resolution, data.channels))
        order = np.random.RandomState(c.seed + 1000)
        super().__init__(c, data, G, D, PlainAugment(), lambda n: order.randint(len(data), size=n))
        self.signs, self.pl_mean = [], torch.zeros([])

    def backward(self, phase, real, factor):
        (getattr(self, phase)(real) * factor).backward()

    def mean_sign(self):
        signs, self.signs = self.signs, []
        return float(torch.cat(signs).mean())

    def ws(self, n):
        ws, other = (
            self.G.mapping(torch.randn(n, self.c.z_dim)),
            self.G.mapping(torch.randn(n, self.c.z_dim), update_w_avg=False),
        )
        cut = int(torch.randint(1, ws.shape[1], [])) if torch.rand([]) < self.c.style_mixing_prob else ws.shape[1]
        return torch.cat([ws[:, :cut], other[:, cut:]], dim=1)

    def on_real(self, x):
        logits = self.D(self.augment(x))
        self.signs.append(logits.detach().sign())
        return logits

    def Gmain(self, real):
        return F.softplus(-self.D(self.augment(self.G.synthesis(self.ws(len(real)))))).mean()

    def Greg(self, real):
        ws = self.ws(len(real) // self.c.pl_batch_shrink)
        images = self.G.synthesis(ws)
        slope = torch.autograd.grad(
            (images * torch.randn_like(images) / images.shape[-1]).sum(), ws, create_graph=True
        )[0]
        lengths = slope.square().sum(2).mean(1).sqrt()
        mean = self.pl_mean.lerp(lengths.mean(), self.c.pl_decay)
        self.pl_mean = mean.detach()
        return (lengths - mean).square().mean() * self.c.pl_weight

    def Dmain(self, real):
        with torch.no_grad():
            fake = self.G.synthesis(self.ws(len(real)))
        return F.softplus(self.D(self.augment(fake))).mean() + F.softplus(-self.on_real(real)).mean()

    def Dreg(self, real):
        x = real.clone().requires_grad_()
        slope = torch.autograd.grad(self.on_real(x).sum(), x, create_graph=True)[0]
        return slope.square().sum([1, 2, 3]).mean() * (self.c.r1_gamma / 2)


class Checkout:
    "The modules of a checkout of stylegan2-ada-pytorch; ends the program where the folder is none."

    def __init__(self, folder):
        names = dict(
            networks="training.networks",
            loss="training.loss",
            augment="training.augment",
            stats="torch_utils.training_stats",
        )
        for name in names.values():
            file = name.replace(".", "/") + ".py"
            if not (folder / file).is_file():
                raise SystemExit(
                    f"--reference {folder}: there is no {file} in it; give the folder of a checkout of"
                    " NVlabs/stylegan2-ada-pytorch"
                )
        sys.path.insert(0, str(folder.resolve()))
        try:
            for key, name in names.items():
                setattr(self, key, importlib.import_module(name))
        except ImportError as e:
            raise SystemExit(
                f"--reference {folder}: it cannot be imported ({e}); install what it needs, or give a whole checkout"
            ) from None
        if "G_mapping" not in inspect.signature(self.loss.StyleGAN2Loss).parameters:
            raise SystemExit(
                f"--reference {folder}: its training/loss.py is of another program; give the folder of a checkout of"
                " NVlabs/stylegan2-ada-pytorch"
            )

    def make(self, c, resolution, channels):
        size = dict(img_resolution=resolution, img_channels=channels)
        width = dict(
            channel_base=c.channel_base, channel_max=c.channel_max, conv_clamp=c.conv_clamp, num_fp16_res=c.num_fp16_res
        )
        G = self.networks.Generator(
            c.z_dim,
            0,
            c.w_dim,
            **size,
            mapping_kwargs=dict(num_layers=c.mapping_layers),
            synthesis_kwargs=dict(architecture=c.g_architecture, **width),
        )
        return G, self.networks.Discriminator(
            0, **size, **width, architecture=c.d_architecture, epilogue_kwargs=dict(mbstd_group_size=c.mbstd_group_size)
        )


class Called(torch.nn.Module):
    "Their generator, called as ours is."

    def __init__(self, net):
        super().__init__()
        self.net, self.z_dim = net, net.z_dim

    def forward(self, z, c=None, noise_mode="random", generator=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, [], generator=generator)))
            return self.net(z, torch.zeros(len(z), 0), noise_mode=noise_mode)


class Reference(Loop):
    def __init__(self, c, data, theirs):
        torch.manual_seed(c.seed + 1000)
        G, D = theirs.make(c, data.resolution, data.channels)
        pipe = theirs.augment.AugmentPipe(**dict.fromkeys(PIPES[c.augpipe], 1))
        pipe.p.zero_()
        super().__init__(c, data, G, D, pipe, InfiniteSampler(len(data), seed=c.seed + 1000).take)
        self.G_ema = Called(self.G_ema)
        options = {
            k: getattr(c, k) for k in ("style_mixing_prob", "r1_gamma", "pl_batch_shrink", "pl_decay", "pl_weight")
        }
        self.loss = theirs.loss.StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D, pipe, **options)
        self.counted = theirs.stats.Collector("Loss/signs/real")

    def latents(self, phase, n):
        return torch.randn(n, self.c.z_dim)

    def backward(self, phase, real, factor):
        labels = torch.zeros(len(real), 0)
        self.loss.accumulate_gradients(
            phase, real, labels, self.latents(phase, len(real)), labels, sync=True, gain=factor
        )

    def mean_sign(self):
        self.counted.update()
        return self.counted["Loss/signs/real"]


class Ours(Trainer):
    @property
    def p(self):
        return float(self.ada.p)

    @property
    def rt(self):
        return self.ada.rt


def narrow(resolution, seed, width):
    return preset("laptop", resolution).replace(
        seed=seed, G_reg_interval=4, pl_weight=2.0, style_mixing_prob=0.9, channel_base=width[0], channel_max=width[1]
    )


def make(options, theirs, data):
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "runs.jsonl"
    done = {(r["way"], r["seed"]) for r in read(log) if r["kimg"] >= options.kimg} if log.exists() else set()
    judge = Judge("lite0_fd500_holdout", options.data)
    for seed in options.seeds:
        for way in options.ways:
            if (way, seed) in done:
                continue
            c = narrow(data.resolution, seed, options.width)
            if way == "bfloat16":
                c = c.replace(half_format="bfloat16", num_fp16_res=4)
            trainer = Reference(c, data, theirs) if way == "reference" else (Plain if way == "plain" else Ours)(c, data)
            seconds, signs = 0.0, []
            for stop in np.linspace(0, options.kimg, options.judged + 1)[1:]:
                start = time.process_time()
                while trainer.cur_nimg < 1000 * stop:
                    trainer.iterate()
                    signs.append(trainer.rt)
                seconds += time.process_time() - start
                value = judge.judge(random_images(trainer.G_ema, 500, seed=seed))["results"]
                record = dict(
                    way=way,
                    seed=seed,
                    kimg=trainer.cur_nimg / 1000,
                    p=round(trainer.p, 5),
                    rt=round(float(np.nanmean(signs)), 4),
                    seconds=round(seconds, 1),
                    threads=torch.get_num_threads(),
                    resolution=data.resolution,
                    width=options.width,
                    **value,
                )
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
    print(
        f"{'kimg':>6} | "
        + " | ".join(
            f"{way}: {metric}, r_t, p of each seed (mean ± standard deviation of the distance)" for way in ways
        )
    )
    for kimg in sorted({r["kimg"] for r in records}):
        cells = []
        for way in ways:
            found = [r for r in records if (r["way"], r["kimg"]) == (way, kimg)]
            values = [r[metric] for r in found]
            spread = f" ({np.mean(values):.0f} ± {np.std(values, ddof=1):.0f})" if len(values) > 1 else ""
            cells.append("; ".join(f"{r[metric]:.0f}, {r['rt']:.2f}, {r['p']:.3f}" for r in found) + spread)
        print(f"{kimg:6.1f} | " + " | ".join(cells))
    speed = {way: np.median([r["kimg"] * 1000 / r["seconds"] for r in records if r["way"] == way]) for way in ways}
    for way in ways:
        print(
            f"{way}: {speed[way]:.1f} images per second of processor time, {records[0]['threads']} thread,"
            f" {speed[way] / speed[ways[0]]:.2f} times {ways[0]}"
        )


class OursInStep(Ours):
    "Ours, with draws that begin anew in each phase."

    def _phase(self, name, network, optimizer, batches, loss, interval, rngs):
        rngs[0].manual_seed(10 * self.batch_idx + PHASES.index(name))
        super()._phase(name, network, optimizer, batches, loss, interval, rngs)


class ReferenceInStep(Reference):
    "The reference, from given networks, without augmentation, on the images and the draws of `OursInStep`."

    def __init__(self, c, data, theirs, networks):
        super().__init__(c, data, theirs)
        for net, given in zip((self.G, self.D, self.G_ema.net), networks):
            net.load_state_dict(given.state_dict())
        self.take, self.loss.augment_pipe = InfiniteSampler(len(data), seed=c.seed).take, None

    def latents(self, phase, n):
        torch.manual_seed(10 * self.batch_idx + PHASES.index(phase))
        used = n // self.c.pl_batch_shrink if phase == "Greg" else n  # ours draws no more
        return torch.cat([torch.randn(used, self.c.z_dim), torch.zeros(n - used, self.c.z_dim)])


def check(theirs, width, data):
    """Plain resampling is ours; with equal weights, the reference's networks are ours, and with equal draws its
    training is."""
    from semgan_nb.resampling import warp

    x, plain = torch.randn(4, 1, 64, 64), PlainAugment()
    plain.p.fill_(1.0)
    m = plain.maps(4, 64)
    error = (plain(x, m) - warp(x, m.double().numpy())).abs().max().item()
    print(f"plain and ours resample alike to {error:.1e}")
    assert error < 1e-4
    if theirs is None:
        return
    c = narrow(data.resolution, 0, width).replace(aug="noaug")
    ours, other = make_networks(c, data.resolution, data.channels), theirs.make(c, data.resolution, data.channels)
    with torch.no_grad():
        for net, same in zip(ours, other):
            for p in net.parameters():
                if p.ndim < 2:  # biases and noise strengths begin at zero or one, where much goes unseen
                    p.add_(torch.randn_like(p))
            same.load_state_dict(net.state_dict())  # same names and shapes, or it raises
        z, labels = torch.randn(8, c.z_dim), torch.zeros(8, 0)
        for mode in ("eval", "train"):  # their generator takes another path in each
            images = [getattr(G, mode)()(z, labels, noise_mode="const") for G in (ours[0], other[0])]
            logits = [D(images[0], labels) for D in (ours[1], other[1])]
            error = [((a - b).abs().max() / a.abs().max()).item() for a, b in (images, logits)]
            print(
                f"reference and ours, equal weights, {mode} mode: images alike to {error[0]:.1e} of the largest, logits"
                f" to {error[1]:.1e}"
            )
            assert max(error) < 1e-4
    mine = OursInStep(c, data)
    other = ReferenceInStep(c, data, theirs, (mine.G, mine.D, mine.G_ema))
    flat = lambda net: torch.cat([p.detach().flatten() for p in net.parameters()])
    start = [flat(net) for net in (mine.G, mine.D)]
    for iteration in range(1, 9):
        mine.iterate(), other.iterate()
        error = [
            ((flat(a) - flat(b)).norm() / (flat(a) - s).norm()).item()
            for a, b, s in zip((mine.G, mine.D), (other.G, other.D), start)
        ]
        if iteration in (1, 8):
            print(
                f"reference and ours, equal weights, images and draws, after iteration {iteration}: the way the weights"
                f" went differs by {error[0]:.1e} (G) and {error[1]:.1e} (D) of its length; path length mean"
                f" {mine.pl_mean:.5f} and {other.loss.pl_mean:.5f}"
            )
        assert max(error) < (
            1e-3 if iteration == 1 else 0.3
        )  # all four phases are in the first; after it, rounding grows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="archive with a hold-out part")
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument(
        "--ways", nargs="+", default=["plain", "ours"], choices=["reference", "plain", "ours", "bfloat16"]
    )
    parser.add_argument("--reference", type=Path, metavar="DIR", help="your checkout of NVlabs/stylegan2-ada-pytorch")
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
        if "reference" in options.ways and not options.reference:
            raise SystemExit(
                "--ways reference: give the folder of a checkout of NVlabs/stylegan2-ada-pytorch by --reference DIR"
            )
        theirs = Checkout(options.reference) if options.reference else None
        torch.set_num_threads(options.threads)
        keep_memory()
        data = Dataset(options.data, part="train")
        check(theirs, options.width, data)
        make(options, theirs, data)
