"""Chapter 45: distances of large sets, against independent programs and within bounded memory. The numbers
themselves: tests/unit/test_metrics.py."""

import numpy as np
import pytest
import torch

from made_up_sets import crops
from reference_tools import prepare_torchvision

from semgan_nb.extractors import get_extractor
from semgan_nb.distances import (
    FeatureSet,
    blur,
    in_manifold,
    feature_statistics,
    frechet_distance,
    kernel_distance,
    knn_radii_squared,
)


def test_distances_of_textures_from_independent_code():
    """60 and 60 crops of photographs of gravel, grass and brick, in lite0 features: 5.03, 299.2, 468.8 where
    covariances are divided by N - 1."""
    from skimage import data

    features = lambda texture, seed: FeatureSet(get_extractor("lite0")(crops(texture, seed, 224)))
    gravel = features(data.gravel(), 1)
    for texture, seed, expected in ((data.gravel(), 2, 5.03), (data.grass(), 3, 299.2), (data.brick(), 4, 468.8)):
        other = features(texture, seed)
        means = ((gravel.mu - other.mu) ** 2).sum()
        assert means + (gravel.distance(other) - means) * 60 / 59 == pytest.approx(expected, rel=1e-3)


def blobs(n, seed):
    """Smooth random images with a texture that blur removes."""
    rng = np.random.default_rng(seed)
    coarse = blur(rng.integers(0, 256, (n, 1, 32, 32), dtype=np.uint8), 2).astype(float)
    return np.clip((coarse - 128) * 4 + 128 + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


# Kernel distance, precision and recall, inception score.


def test_memory_of_the_distances_is_bounded():
    import tracemalloc

    points = torch.randn(12_000, 4, generator=torch.Generator().manual_seed(0))
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if torch.is_tensor(out):
                seen.append(out.numel())
            return out

    tracemalloc.start()
    with Watch():
        radii = knn_radii_squared(points, tile=512)
        in_manifold(points, points, radii, tile=512)
    assert max(seen) <= 512 * 5 * 512 + 1 and tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


# Against torchmetrics, with our extractor as its feature network.


class Features(torch.nn.Module):
    num_features = 512

    def forward(self, images):
        return torch.from_numpy(get_extractor("random")(images.expand(-1, 3, -1, -1))).double()


def test_torchmetrics_gives_the_same():
    prepare_torchvision()
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    real, gen = blobs(600, 0), blur(blobs(600, 1), 0.5)
    f = [get_extractor("random")(x) for x in (real, gen)]
    rgb = [torch.from_numpy(x).expand(-1, 3, -1, -1) for x in (real, gen)]
    fid, kid = (
        FrechetInceptionDistance(feature=Features()),
        KernelInceptionDistance(feature=Features(), subsets=1, subset_size=600),
    )
    fid.set_dtype(torch.float64)
    for metric in (fid, kid):
        metric.update(rgb[0], real=True)
        metric.update(rgb[1], real=False)
    (mu1, sigma1), (mu2, sigma2) = (feature_statistics(x) for x in f)
    ours = frechet_distance(mu1, sigma1 * 600 / 599, mu2, sigma2 * 600 / 599)  # torchmetrics divides by N - 1
    assert float(fid.compute()) == pytest.approx(ours, rel=1e-4) and FeatureSet(f[0]).distance(
        FeatureSet(f[1])
    ) == pytest.approx(ours, rel=5e-3)
    assert float(kid.compute()[0]) == pytest.approx(kernel_distance(f[0], f[1])[0], rel=1e-4)


# Floors, extrapolation, warnings.


# Names, the best of several, two sources.


# The judge, for all statistics.


# The path length.


# A run, afterwards.
