"""Files of weights of the genuine layout, with random numbers."""

from pathlib import Path

import numpy as np
import torch

from semgan_nb.extractors import VGG16_CONVOLUTIONS

LAYOUT = Path(__file__).parent / "data" / "inception_keys.tsv"  # keys, types and shapes of the genuine state dict


def made_up_state():
    "Random weights under the keys and shapes of the genuine file."
    draw, state = torch.Generator().manual_seed(0), {}
    for line in LAYOUT.read_text().splitlines():
        key, kind, shape = line.split("\t")
        shape = tuple(int(n) for n in shape.strip("()").split(",") if n.strip())
        if kind == "int64":
            state[key] = torch.zeros(shape, dtype=torch.int64)
        elif key.endswith("conv.weight"):
            state[key] = torch.randn(shape, generator=draw) * (2 / np.prod(shape[1:])) ** 0.5
        elif key.endswith(("running_var", "bn.weight")):
            state[key] = torch.rand(shape, generator=draw) * 0.5 + 0.75
        else:
            state[key] = torch.randn(shape, generator=draw) * (0.05 if key == "fc.weight" else 0.1)
    return state


def made_up_vgg(path):
    "A file of torchvision's layout whose large layers take no room: their rows are views of one."
    draw, state = torch.Generator().manual_seed(0), {}
    for i, into, out in VGG16_CONVOLUTIONS:
        state[f"features.{i}.weight"] = torch.randn(out, into, 3, 3, generator=draw) * (2 / 9 / into) ** 0.5
        state[f"features.{i}.bias"] = torch.randn(out, generator=draw) * 0.1
    for name, into in (("classifier.0", 25088), ("classifier.3", 4096)):
        state[f"{name}.weight"] = (torch.randn(1, into, generator=draw) * (2 / into) ** 0.5).expand(4096, into)
        state[f"{name}.bias"] = torch.randn(4096, generator=draw)
    torch.save(state, path)
    return state
