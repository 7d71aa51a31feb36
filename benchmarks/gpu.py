"""Seconds per thousand images (kimg) on one GPU at 128, 256 and 512 px, in float32, with TF32, in float16, with and
without the memory order channels_last; the share of each phase; beside the reference implementation where its
checkout is given.

    python benchmarks/gpu.py --out FILE [--reference DIR] [--budget 480]

One table in Markdown, written to FILE after every line of it and printed at the end. It keeps to its budget: what is
left over is shared among the lines to come, each takes at least one measured iteration, and lines for which no time
is left say so.
Networks, batch and intervals are those of the preset `auto`, one process, the weights fresh, the images noise,
augmentation `bg` at p = 0.3, without pictures, metrics and files. Float16 is what the preset takes: the four largest
resolutions, values limited to 256.
Measured are iterations that have all four phases, each phase to the end of its work on the GPU, the median; an
iteration of training is then Gmain + Dmain + Greg / 4 + Dreg / 16 + the rest (images to the GPU, running average),
and the shares are of that.
The two first iterations are not counted: cuDNN tries its convolutions in them. Without a GPU `--device cpu --quick`
rehearses it on tiny networks.

* channels_last is the package's own memory order. For NCHW weights and features are put into PyTorch's usual order
  where they enter.
* reference: NVIDIA's networks, losses and augmentation from a checkout of NVlabs/stylegan2-ada-pytorch that you have
  (its licence is not this project's; none of its code is here), in float32 and float16, as far as it runs with your
  PyTorch:
  its CUDA extensions are compiled where a compiler is found, else it says that it takes its slow way, and the table
  is of that. The loop around its losses is written here, as in curves.py.
"""

import argparse
import contextlib
import copy
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from semgan_nb.augment import PIPES
from semgan_nb.layers import Conv2dLayer, keep_memory
from semgan_nb.runs import preset
from semgan_nb.trainer import Trainer, ema_beta, lazy_adam, set_arithmetic

PHASES = ("Gmain", "Greg", "Dmain", "Dreg")
WAYS = {  # name -> (fields of the configuration, channels_last), the most wanted first
    "float32": (dict(num_fp16_res=0, conv_clamp=None), True),
    "float16": (dict(), True),
    "float32, TF32": (dict(num_fp16_res=0, conv_clamp=None, tf32=True), True),
    "float16, NCHW": (dict(), False),
    "float32, NCHW": (dict(num_fp16_res=0, conv_clamp=None), False),
    "bfloat16": (dict(half_format="bfloat16"), True),
}


class Noise:
    "Grey noise in place of a dataset."

    def __init__(self, resolution):
        self.resolution, self.channels = resolution, 1
        self.kept = np.random.RandomState(0).randint(0, 256, (64, 1, resolution, resolution), dtype=np.uint8)

    def __len__(self):
        return len(self.kept)

    def images(self, indices):
        return self.kept[np.asarray(indices)]


class OutOfTime(Exception):
    pass


@contextlib.contextmanager
def usual_order(trainer):
    "Weights and features in NCHW, as PyTorch has them unless told otherwise."
    for net in (trainer.G, trainer.D, trainer.G_ema):
        for p in net.parameters():
            p.data = p.data.contiguous()
        for m in net.modules():
            if isinstance(m, Conv2dLayer) and m.weight.shape[1] == 1:  # the layer from one channel makes NHWC of it
                m.register_forward_hook(lambda m, given, out: kept(out))
    kept = torch.Tensor.contiguous
    torch.Tensor.contiguous = lambda self, memory_format=torch.contiguous_format: kept(self)
    try:
        yield
    finally:
        torch.Tensor.contiguous = kept


class Ours:
    def __init__(self, config, data, device):
        self.trainer = Trainer(config, data, device)

    def iterate(self):
        "Seconds of each phase and of the whole, all four phases in it."
        t = self.trainer
        t.batch_idx = 0
        wait(t.device)
        began = time.perf_counter()
        t.iterate()
        wait(t.device)
        whole = time.perf_counter() - began
        found = {name: t.statistics.last[f"Timing/{name}"]["mean"] / 1000 for name in PHASES}
        return dict(found, rest=max(whole - sum(found.values()), 0.0))


class Theirs:
    "The reference's networks, losses and augmentation; the loop is this one."

    def __init__(self, checkout, config, data, device):
        c = self.c = config
        self.data, self.device = data, torch.device(device)
        self.G, self.D = (net.to(device) for net in checkout.make(c, data.resolution, data.channels))
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        pipe = checkout.augment.AugmentPipe(**dict.fromkeys(PIPES[c.augpipe], 1)).to(device)
        pipe.p.fill_(c.p)
        options = {
            k: getattr(c, k) for k in ("style_mixing_prob", "r1_gamma", "pl_batch_shrink", "pl_decay", "pl_weight")
        }
        self.loss = checkout.loss.StyleGAN2Loss(self.device, self.G.mapping, self.G.synthesis, self.D, pipe, **options)
        self.phases = [
            (name, net, opt, every)
            for net, opt, names in (
                (self.G, lazy_adam(self.G.parameters(), c.g_lr, c.G_reg_interval), PHASES[:2]),
                (self.D, lazy_adam(self.D.parameters(), c.d_lr, c.D_reg_interval), PHASES[2:]),
            )
            for name, every in zip(names, (1, c.G_reg_interval if net is self.G else c.D_reg_interval))
        ]

    def iterate(self):
        c, found = self.c, {}
        wait(self.device)
        began = time.perf_counter()
        real = (
            torch.from_numpy(self.data.images(np.arange(c.batch_size) % len(self.data))).to(self.device).float() / 127.5
            - 1
        )
        labels = torch.zeros(c.batch_size, 0, device=self.device)
        for name, net, opt, every in self.phases:
            start = time.perf_counter()
            for other in (self.G, self.D):
                other.requires_grad_(other is net)
            opt.zero_grad(set_to_none=True)
            z = torch.randn(c.batch_size, c.z_dim, device=self.device)
            for k in range(0, c.batch_size, c.batch_gpu):
                part = slice(k, k + c.batch_gpu)
                self.loss.accumulate_gradients(
                    name,
                    real[part],
                    labels[part],
                    z[part],
                    labels[part],
                    sync=True,
                    gain=every * c.batch_gpu / c.batch_size,
                )
            for p in net.parameters():
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                torch.nan_to_num_(p.grad, nan=0.0, posinf=1e5, neginf=-1e5)
            opt.step()
            wait(self.device)
            found[name] = time.perf_counter() - start
        with torch.no_grad():
            beta = ema_beta(c.batch_size, c.ema_kimg, c.ema_rampup, 10**6)
            torch._foreach_lerp_(list(self.G_ema.parameters()), list(self.G.parameters()), 1 - beta)
            for average, now in zip(self.G_ema.buffers(), self.G.buffers()):
                average.copy_(now)
        wait(self.device)
        return dict(found, rest=max(time.perf_counter() - began - sum(found.values()), 0.0))


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def measure(make, config, seconds, fewest, device):
    """Medians over as many iterations as fit, and the peak of memory in bytes (None on a CPU); with smaller parts of
    the batch where the memory is too small. The configuration that fitted comes with them."""
    cuda = torch.device(device).type == "cuda"
    while True:
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        try:
            one, times, began = make(config), [], time.perf_counter()
            for _ in range(2 if cuda else 1):
                one.iterate()
            while len(times) < fewest or len(times) < 30 and time.perf_counter() - began < seconds:
                times.append(one.iterate())
            return (
                {name: statistics.median(t[name] for t in times) for name in times[0]},
                torch.cuda.max_memory_allocated(device) if cuda else None,
                config,
                len(times),
            )
        except torch.OutOfMemoryError:
            if config.batch_gpu <= config.mbstd_group_size or config.batch_gpu % 2:
                raise
            config = config.replace(batch_gpu=config.batch_gpu // 2)
        finally:
            one = None


def line(size, name, config, found, peak, count):
    parts = {**found, "Greg": found["Greg"] / config.G_reg_interval, "Dreg": found["Dreg"] / config.D_reg_interval}
    whole = sum(parts.values())
    batch = (
        f"{config.batch_size}"
        if config.batch_gpu == config.batch_size
        else f"{config.batch_size} in parts of {config.batch_gpu}"
    )
    cells = [
        str(size),
        name,
        batch,
        f"{1000 * whole / config.batch_size:.3g}",
        *(f"{100 * parts[k] / whole:.0f} %" for k in (*PHASES, "rest")),
        "" if peak is None else f"{peak / 2**30:.2f}",
        str(count),
    ]
    return "| " + " | ".join(cells) + " |"


def about(device):
    words = [f"torch {torch.__version__}"]
    if torch.device(device).type == "cuda":
        p = torch.cuda.get_device_properties(device)
        words = [
            p.name,
            f"{p.total_memory / 2**30:.0f} GiB",
            *words,
            f"CUDA {torch.version.cuda}",
            f"cuDNN {torch.backends.cudnn.version()}",
        ]
    else:
        words = [f"CPU, {torch.get_num_threads()} threads", *words]
    return ", ".join(words)


def main():
    start = time.perf_counter()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="where the table is written")
    p.add_argument("--device", default="cuda", help="cuda, cuda:1 ..., or cpu for a rehearsal")
    p.add_argument("--budget", type=float, default=480, metavar="SECONDS", help="for everything (default 480)")
    p.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    p.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    p.add_argument("--reference", type=Path, metavar="DIR", help="your checkout of NVlabs/stylegan2-ada-pytorch")
    p.add_argument("--quick", action="store_true", help="tiny networks at 32 px and 64 px, one iteration each")
    a = p.parse_args()
    cuda = torch.device(a.device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --device cpu --quick rehearses this")
    if cuda:
        torch.cuda.set_device(torch.device(a.device).index or 0)
    else:
        keep_memory()
    checkout = None
    if a.reference:
        from curves import Checkout

        checkout = Checkout(a.reference)
    sizes = [32, 64] if a.quick else a.sizes
    jobs = [(size, name, None) for name in a.ways for size in sizes]
    if checkout is not None:
        jobs[2 * len(sizes) : 2 * len(sizes)] = [
            (size, f"reference, {name}", name) for name in ("float32", "float16") for size in sizes
        ]
    lines, deadline = {}, start + a.budget

    def table():
        head = [
            about(a.device)
            + f"; {len(jobs)} lines in {time.perf_counter() - start:.0f} s"
            + ("; a rehearsal with tiny networks, its figures mean nothing" if a.quick else ""),
            "",
            "| px | arithmetic | batch | s/kimg | Gmain | Greg | Dmain | Dreg | rest | memory, GiB | iterations |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        order = sorted(lines, key=lambda k: (k[0], [j[1] for j in jobs].index(k[1])))
        return "\n".join(head + [lines[k] for k in order]) + "\n"

    def alarm(*_):
        raise OutOfTime

    if hasattr(signal, "SIGALRM"):  # one iteration may take longer than was thought
        signal.signal(signal.SIGALRM, alarm)
    for k, (size, name, theirs) in enumerate(jobs):
        left = deadline - 5 - time.perf_counter()
        blank = lambda why: f"| {size} | {name} | {why} |" + " |" * 8
        if left < 1:
            lines[size, name] = blank("no time was left")
            continue
        options, last = WAYS[theirs or name]
        config = preset("auto", size).replace(aug="fixed", p=0.3, **options)
        if a.quick:
            config = config.replace(channel_base=512, channel_max=16, z_dim=32, w_dim=32, batch_size=8, batch_gpu=8)
        data, stack = Noise(size), contextlib.ExitStack()

        def make(c):
            set_arithmetic(c)
            stack.close()
            if theirs:
                return Theirs(checkout, c, data, a.device)
            one = Ours(c, data, a.device)
            if not last:
                stack.enter_context(usual_order(one.trainer))
            return one

        try:
            if hasattr(signal, "SIGALRM"):
                signal.setitimer(signal.ITIMER_REAL, left)
            found = measure(make, config, 0 if a.quick else left / (len(jobs) - k), 1, a.device)
            lines[size, name] = line(size, name, found[2], *found[:2], found[3])
        except OutOfTime:
            lines[size, name] = blank("was not ready in time")
        except torch.OutOfMemoryError:
            lines[size, name] = blank("more memory than there is")
        except Exception as e:
            if not theirs:
                raise
            lines[size, name] = blank(
                f"does not run here: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:100].replace(
                    "|", "/"
                )
            )
        finally:
            if hasattr(signal, "SIGALRM"):
                signal.setitimer(signal.ITIMER_REAL, 0)
            stack.close()
        print(f"{time.perf_counter() - start:6.1f} s  {lines[size, name]}", flush=True)
        if a.out:
            a.out.write_text(table(), encoding="utf-8")
    text = table()
    if a.out:
        a.out.write_text(text, encoding="utf-8")
    print("\n" + text, end="")


if __name__ == "__main__":
    main()
