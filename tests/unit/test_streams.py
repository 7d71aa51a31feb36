"""No two purposes get the same random numbers."""

import ast
from pathlib import Path

import numpy as np
import torch

from semgan_nb.foundation import STREAMS, stream, torch_stream
from semgan_nb.networks import Generator
from semgan_nb.latent import random_images
from semgan_nb.synthetic import specimens
from semgan_nb.trainer import iteration_generator

SEEDS = (0, 1, 2, 2**32 - 1)
PARTS = ((), (0,), (1,), (0, 0), (0, 1), (1, 0))


def doubled(drawn):
    "Pairs of purposes whose numbers are the same."
    first, found = {}, []
    for way, numbers in drawn:
        if (there := first.setdefault(tuple(np.ravel(numbers).tolist()), way)) != way:
            found.append((there, way))
    return found


def test_numbers_are_unique_and_stay():
    assert sorted(STREAMS.values()) == list(range(1, len(STREAMS) + 1))
    assert (
        stream(3, "rungs").integers(0, 1000, 4).tolist() == [605, 876, 453, 449]
        and torch_stream(3, "noise", 1).initial_seed() == 2510700654
    )
    assert (STREAMS["one specimen"], STREAMS["floor"], STREAMS["report halves"]) == (
        1,
        25,
        38,
    )  # new ones are added at the end


def test_no_two_streams_of_numpy_are_alike():
    ours = [
        ((seed, name, more), stream(seed, name, *more).random(3))
        for seed in SEEDS
        for name in STREAMS
        for more in PARTS
    ]
    bare = [((seed, "as it is"), np.random.default_rng(seed).random(3)) for seed in SEEDS]  # as chapters show things
    bare += [
        ((seed, k, "synthetic steel"), np.random.default_rng([seed, *k]).random(3))
        for seed in SEEDS
        for k in ([2], [3], [8], [30], *([1, image] for image in range(40)))
    ]
    assert not doubled(ours + bare)


def test_no_two_streams_of_torch_are_alike():
    draw = lambda generator: torch.randn(3, generator=generator)
    ours = [
        ((seed, name, more), draw(torch_stream(seed, name, *more)))
        for seed in SEEDS
        for name in STREAMS
        for more in PARTS
    ]
    training = [((seed, "weights"), draw(torch.Generator().manual_seed(seed))) for seed in SEEDS]
    training += [
        ((seed, part, n, "iteration"), draw(iteration_generator(seed, part, n)))
        for seed in SEEDS
        for part in (0, 1, 2)
        for n in (0, 8, 32, 64)
    ]
    assert not doubled(ours + training)


def test_the_old_twins_are_parted(monkeypatch):
    G = Generator(z_dim=8, w_dim=8, img_resolution=8, channel_base=32, channel_max=4)
    seen = []
    monkeypatch.setattr(
        G,
        "forward",
        lambda z, c=None, noise_mode="random", generator=None: (
            seen.append((z.clone(), torch.randn(4, 8, generator=generator))),
            torch.zeros(len(z), 1, 8, 8),
        )[1],
    )
    for seed in (0, 1):
        list(random_images(G, 4, seed=seed))
    assert not doubled([(k, numbers) for k, numbers in enumerate(x for pair in seen for x in pair)])
    one, two = specimens(1, 16, n_specimens=1)[0], specimens(1, 16, n_specimens=2, fractions=(0.37, 0.37))[0]
    assert one.shape == two.shape and not np.array_equal(one, two)


def test_nothing_in_the_package_seeds_past_the_table():
    "Where a generator is made: the table's own functions, and the streams that chapter 00 names as older than it."
    allowed = {
        "foundation": {"_seeds", "stream", "torch_stream"},
        "trainer": {"iteration_generator"},
        "transfer": {"make_networks"},
        "training": {"begin"},
        "dataset": {"subset_indices", "__init__"},
        "latent": {"latents", "noise_maps"},
        "distances": {"kernel_distance"},
        "projection": {"w_statistics"},  # the draws of the official projector
        "features": {"__init__"},
        "synthetic": {"_some"},
    }
    makes = {"default_rng", "SeedSequence", "manual_seed", "RandomState", "MT19937", "PCG64", "seed"}
    root, found = Path(__file__).parents[2] / "semgan_nb", []
    for path in [*root.glob("*.py"), *root.glob("dashboards/*.py")]:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                found += [
                    f"{path.stem}.{function.name}: {call.func.attr}"
                    for call in ast.walk(function)
                    if isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr in makes
                    and function.name not in allowed.get(path.stem, ())
                ]
    assert not found, f"give these a name in STREAMS: {found}"
