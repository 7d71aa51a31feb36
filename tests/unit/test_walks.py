"""Chapter 68: films of any network, an official pickle too; the film of the paper; and what a sequence through a latent
space must get right, with the numbers that others can check."""

import gzip
import inspect
from pathlib import Path

import numpy as np
import official_files
import pytest
import torch
from command import said, say
from PIL import Image

from semgan_nb import films, walks
from semgan_nb.baselines import networks_beside
from semgan_nb.checkpoints import find_snapshot, save_snapshot
from semgan_nb.dataset import Dataset
from semgan_nb.films import walk_figure, walk_frames
from semgan_nb.foundation import file_hash
from semgan_nb.generate import open_generator, phases
from semgan_nb.latent import latents, sample, slerp
from semgan_nb.launch import evaluate
from semgan_nb.origin import read_origin
from semgan_nb.walks import PAPER_FILM, PAPER_SEEDS, walk

DATA = Path(__file__).resolve().parents[1] / "data"
A, B = (np.random.RandomState(seed).randn(512) for seed in (0, 1))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def networks():
    "G_ema, G and D, all different."
    G, D = official_files.networks()
    return official_files.networks(1)[0], G, D


@pytest.fixture
def pickle_file(networks):
    path = Path("network.pkl")
    path.write_bytes(official_files.dump(official_files.content_of(*networks)))
    return path


# -- official pickles as they are
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["official_p3", "official_p4", "official_2021"])
def test_the_reference_pickles_are_walked_through(name):
    Path(f"{name}.pkl").write_bytes(gzip.decompress((DATA / f"{name}.pkl.gz").read_bytes()))
    status, out, _ = say("walk", f"{name}.pkl", "--frames", 2, "--out", "frames")
    assert status == 0 and f"from {name}.pkl" in out
    assert {Image.open(path).size for path in Path("frames").iterdir()} == {(32, 32)}


def test_the_averaged_generator_of_a_pickle_walks(pickle_file, networks):
    status, *_ = say("walk", pickle_file, "--seeds", "3,5", "--frames", 2, "--out", "frames")
    ends = [np.asarray(Image.open(path)) for path in sorted(Path("frames").iterdir())]
    assert status == 0 and np.array_equal(ends, sample(networks[0], [3, 5])[:, 0])
    assert not np.array_equal(ends, sample(networks[1], [3, 5])[:, 0])
    origin = read_origin("frames.png")
    assert (origin.network, origin.network_name) == (file_hash(pickle_file)[:16], "network.pkl")
    (found,) = phases(pickle_file, "maps", ("png",), seeds="3")
    assert read_origin(found["files"][0]).network == origin.network


def test_metrics_judge_a_pickle_as_its_conversion(pickle_file, archive):
    names = ["random_fd20_full"]
    status, out, err = say("metrics", pickle_file, "--data", archive, "--metrics", ",".join(names), "--device", "cpu")
    assert status == 0 and out.count("network.pkl  random_fd20_full") == 1, err
    assert say("convert", pickle_file, "network.safetensors")[0] == 0
    records = [
        evaluate(path, names, data=archive, progress=False, device="cpu")
        for path in (pickle_file, "network.safetensors")
    ]
    results = [[record["results"] for record in each] for each in records]
    assert results[0] == results[1] and records[0][0]["snapshot_pkl"] == "network.pkl"
    assert list(networks_beside([pickle_file], Dataset(archive))) == ["network.pkl"]


def test_what_a_pickle_cannot_do_is_one_sentence(pickle_file, archive):
    assert "lies in no run" in said(evaluate, pickle_file, progress=False)
    G, D = official_files.networks(c_dim=3)
    save_snapshot("classes.safetensors", G, D, cur_nimg=0)
    assert "3 classes" in said(evaluate, "classes.safetensors", ["random_fd20_full"], data=archive, progress=False)
    assert "3 classes" in said(walk, "classes.safetensors", progress=False)
    Path("torn.pkl").write_bytes(pickle_file.read_bytes()[:300])
    for verb in (["walk"], ["metrics", "--data", archive, "--metrics", "random_fd20_full"]):
        status, _, err = say(verb[0], "torn.pkl", *verb[1:])
        assert status == 2 and len(err.splitlines()) == 1 and "torn.pkl" in err


# -- the film of the paper
# ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_film(monkeypatch):
    "Frames are drawn and counted, and not encoded; panels are kept."
    seen = {}

    def write_film(frames, path, fps, **more):
        seen.update(frames=list(frames), fps=fps, origin=more["origin"])
        return len(seen["frames"])

    def figure(images, **more):
        seen["panels"] = list(images)
        return walk_figure(seen["panels"], **more)

    monkeypatch.setattr(films, "write_film", write_film)
    monkeypatch.setattr(films, "walk_figure", figure)
    return seen


def test_the_film_of_the_paper_has_1440_frames_in_a_minute_and_its_figure_the_first_arc(pickle_file, networks, no_film):
    status, out, _ = say("walk", pickle_file, "--paper")
    assert status == 0 and "1440 frames, 60 s" in out and "six stations of its first arc" in out
    assert len(no_film["frames"]) == 1440 and no_film["fps"] == 24
    wanted = [sample(networks[0], [seed])[0, 0] for seed in (0, 1)]
    assert np.array_equal(no_film["frames"][0], wanted[0]) and np.array_equal(no_film["frames"][-1], wanted[0])
    arc = list(walk_frames(networks[0], [0, 1], 6))
    assert np.array_equal(no_film["panels"], arc) and np.array_equal(arc[-1], wanted[1])
    assert no_film["origin"].seeds == PAPER_SEEDS and no_film["origin"].settings["truncation_psi"] == 1
    assert read_origin("walk.png").seeds == "0-1" and read_origin("walk.png").settings["frames"] == 6


def test_the_seeds_of_the_papers_film_may_be_others_and_nothing_else(pickle_file, no_film):
    assert say("walk", pickle_file, "--paper", "--seeds", "7,8", "--fps", 24)[0] == 0
    assert no_film["origin"].seeds == "7,8" and read_origin("walk.png").seeds == "7-8"
    for options in (["--frames", 100], ["--fps", 12], ["--psi", 0.7], ["--space", "w"], ["--noise", "none"]):
        status, _, err = say("walk", pickle_file, "--paper", "--out", "no.mp4", *options)
        assert status == 2 and "paper's film" in err and len(err.splitlines()) == 1 and not Path("no.png").exists()
    assert "files of styles" in said(walk, pickle_file, through=["a.npz"], paper=True)


def test_the_table_of_the_papers_film_is_in_the_order_of_its_reader():
    given = inspect.signature(walk).parameters
    assert list(PAPER_FILM) == [name for name in given if name in PAPER_FILM]
    assert walks._as_the_paper("0,1", None, **PAPER_FILM) == (PAPER_SEEDS, *PAPER_FILM.values())


# -- check values and traps of sequences
# ------------------------------------------------------------------------------------------------------


def test_the_angle_between_two_seeds_and_how_far_a_straight_line_would_cut_the_corner():
    cosine = A @ B / np.linalg.norm(A) / np.linalg.norm(B)
    assert cosine == pytest.approx(-0.0171788, abs=1e-7)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(90.98432, abs=1e-5)
    assert np.linalg.norm((A + B) / 2) == pytest.approx(15.744108, abs=1e-6)
    assert np.linalg.norm(slerp(A, B, 0.5)) == pytest.approx(22.459278, abs=1e-6)


def test_unequal_lengths_do_not_turn_evenly_unless_they_are_made_to():
    a, b = np.array([3.0, 0, 0]), np.array([0, 1.0, 0])
    turned = lambda v: np.degrees(np.arctan2(v[1], v[0])) / 90
    assert turned(slerp(a, b, 0.5)) == pytest.approx(0.2, abs=0.01)  # a fifth of the way
    assert turned(slerp(a, b, 0.5, normalize=True)) == pytest.approx(0.5)
    assert np.linalg.norm(slerp(a, b, 0.25, normalize=True)) == pytest.approx(0.75 * 3 + 0.25)


def test_nearly_parallel_ends_are_joined_by_a_line_and_opposite_ones_turn_at_full_length():
    near = A + 1e-3 * B
    assert np.allclose(slerp(A, near, 0.3), 0.7 * A + 0.3 * near, rtol=0, atol=1e-12)
    assert np.allclose(slerp(A, A, [0, 0.3, 1]), A)
    half = slerp(A, -A, 0.5)
    assert abs(half @ A) < 1e-9 * (A @ A) and np.linalg.norm(half) == pytest.approx(np.linalg.norm(A))


def test_styles_turn_layer_by_layer_or_as_one_which_is_equal_where_all_layers_are():
    a, b = np.stack([A[:8]] * 4), np.stack([B[:8]] * 4)
    assert np.allclose(slerp(a, b, 0.3), slerp(a, b, 0.3, per_row=False))
    b[2] *= -1
    assert not np.allclose(slerp(a, b, 0.3), slerp(a, b, 0.3, per_row=False))


def test_only_the_direction_of_a_latent_vector_matters(networks):
    z = latents([0, 1], networks[0].z_dim)
    assert torch.allclose(networks[0].mapping(z, None), networks[0].mapping(3 * z, None), atol=1e-5)


def test_positions_are_k_over_n_minus_one_and_no_running_sum(networks, monkeypatch):
    asked = []
    monkeypatch.setattr(films, "slerp", lambda a, b, t, **more: asked.append(t) or slerp(a, b, t, **more))
    assert len(list(walk_frames(networks[0], [0, 1], 1440, batch=64))) == 1440
    assert asked == [k / 1439 for k in range(1, 1439)]  # both ends are the seeds themselves


def test_truncation_is_1_unless_asked_for_and_takes_the_first_layers_or_all(networks):
    for function in (sample, walk, walk_frames, phases):
        assert inspect.signature(function).parameters["truncation_psi"].default == 1
    G = networks[0]
    full, cut, half = (
        G.mapping(latents([4], G.z_dim), None, truncation_psi=psi, truncation_cutoff=cutoff)[0]
        for psi, cutoff in ((1, None), (0.5, 2), (0.5, None))
    )
    mean = G.mapping.w_avg
    assert torch.allclose(half, mean + 0.5 * (full - mean), atol=1e-6)
    assert torch.equal(cut[2:], full[2:]) and torch.allclose(cut[:2], half[:2], atol=1e-6)


def test_noise_stays_in_place_through_a_film_or_the_texture_would_flicker(networks):
    for mode in ("const", "none"):
        frames = list(walk_frames(networks[0], [2, 2], 4, noise_mode=mode))
        assert all(np.array_equal(frame, frames[0]) for frame in frames)
    frames = list(walk_frames(networks[0], [2, 2], 4, noise_mode="random"))
    assert not np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_grey_networks_write_grey_files(channels, mode):
    save_snapshot("n.safetensors", *official_files.networks(img_channels=channels), cur_nimg=0)
    walk("n.safetensors", "frames", frames=2, progress=False)
    assert {Image.open(path).mode for path in Path("frames").iterdir()} == {mode}
    assert sorted(path.name for path in Path("frames").iterdir()) == ["frame000000.png", "frame000001.png"]


def test_a_seed_means_the_same_image_in_every_tool():
    wanted = sample(open_generator("superalloy").G_ema, [5])[0, 0]
    assert say("generate", "superalloy", "--seeds", "5", "--out", "images")[0] == 0
    walk("superalloy", "frames", "5,6", frames=2, progress=False)
    for path in ("images/seed0005.png", "frames/frame000000.png"):
        assert np.array_equal(np.asarray(Image.open(path)), wanted), path
    assert find_snapshot("superalloy").is_file()
