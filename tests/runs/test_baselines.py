"""What a network has to beat: blended pairs, and Gaussian random fields fitted to a material."""

import json
import shutil

import numpy as np
import pytest
from made_up_sets import steel_archive
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal, norm

from semgan_nb.dataset import Dataset
from semgan_nb.same_material import compare
from semgan_nb.memorisation import best_alignment, aligned_ncc
from semgan_nb.random_field import (
    RandomField,
    boundary_distance,
    sample_gaussian_field,
    field_correlation,
    joint_exceedance,
    nearest_valid_spectrum,
    segmented,
)
from semgan_nb.reference_sets import blend
from semgan_nb.evaluation import Judge
from semgan_nb.baselines import PLAIN_RUNGS, baseline_table, baselines
from semgan_nb.foundation import BadInput
from semgan_nb.descriptors import radial_spectrum, two_point, two_point_map
from semgan_nb.synthetic import grf, specimens


@pytest.mark.parametrize("fraction", (0.05, 0.37, 0.5, 0.9))
def test_pair_probability_is_that_of_the_bivariate_normal(fraction):
    rho = np.array([-0.99, -0.6, -0.1, 0, 0.3, 0.8, 0.99, 1])
    t = norm.isf(fraction)
    exact = [multivariate_normal([0, 0], [[1, r], [r, 1]], allow_singular=True).cdf([-t, -t]) for r in rho]
    assert np.abs(joint_exceedance(rho, fraction) - exact).max() < 1e-5
    assert joint_exceedance(np.array([0.0, 1.0]), fraction) == pytest.approx([fraction**2, fraction], abs=1e-4)


def test_arcsine_law_and_inverse():
    rho = np.linspace(-0.9, 1, 25)
    assert np.abs(joint_exceedance(rho, 0.5) - 0.25 - np.arcsin(rho) / (2 * np.pi)).max() < 1e-12
    assert np.abs(field_correlation(joint_exceedance(rho, 0.5), 0.5) - rho).max() < 1e-6
    mixed = np.linspace(0.2, 0.8, 300)
    assert np.abs(field_correlation(joint_exceedance(rho, mixed), mixed) - rho).max() < 2e-3
    assert field_correlation(np.array([0.2, 0.7]), 0.5).tolist() == [
        pytest.approx(np.sin(2 * np.pi * -0.05), abs=1e-6),
        1.0,
    ]  # more than can be: cut off


def test_a_possible_covariance_is_kept():
    lag = np.hypot(*np.mgrid[-31:32, -31:32])
    for wanted in (np.exp(-((lag / 5) ** 2)), np.exp(-lag / 4), 0.7 * np.exp(-((lag / 6) ** 2)) + 0.3 * (lag == 0)):
        power = nearest_valid_spectrum(wanted)
        assert power.min() >= 0 and power.sum() == pytest.approx(1)
        kept = np.fft.ifft2(power).real * power.size
        assert (
            np.abs(kept[0, :16] - wanted[31, 31:47]).max() < 0.01
            and np.abs(kept[:16, 0] - wanted[31:47, 31]).max() < 0.01
        )


def test_an_impossible_covariance_gets_the_nearest_spectrum():
    box = (np.hypot(*np.mgrid[-31:32, -31:32]) < 6).astype(float)  # its spectrum is negative in rings
    power = nearest_valid_spectrum(box)
    assert power.min() >= 0 and power.sum() == pytest.approx(1)
    kept = np.fft.ifft2(power).real * power.size
    assert kept[0, 3] > 0.6 and abs(kept[0, 12]) < 0.15
    assert np.isfinite(nearest_valid_spectrum(np.full((63, 63), np.nan))).all()


def test_drawn_fields_have_the_covariance():
    lag = np.hypot(*np.mgrid[-31:32, -31:32])
    power = nearest_valid_spectrum(np.exp(-((lag / 4) ** 2)))
    fields = np.stack([sample_gaussian_field(power, np.random.default_rng(k), (32, 32)) for k in range(300)])
    assert abs(fields.mean()) < 0.05 and fields.std() == pytest.approx(1, abs=0.03)
    assert (fields[:, :, :-4] * fields[:, :, 4:]).mean() == pytest.approx(np.exp(-1), abs=0.03)


@pytest.fixture(scope="module")
def floods():
    """Real random fields as images: 300 of two groups, stretched along the rows; the fit must give their statistics
    back."""
    rng, images, groups = np.random.default_rng(0), [], []
    for k in range(300):
        fraction = rng.uniform(0.25, 0.35) if k % 2 else rng.uniform(0.55, 0.65)
        height = grf(rng, (64, 64), 4.0, 16.0)
        land = height > np.quantile(height, 1 - fraction)
        images.append(
            np.rint(gaussian_filter(np.where(land, 170.0, 70.0), 0.7) + 5 * rng.standard_normal((64, 64)))
            .clip(0, 255)
            .astype(np.uint8)
        )
        groups.append("few" if k % 2 else "many")
    return np.stack(images), groups


def test_the_fit_gives_two_point_correlation_and_fraction_back(floods):
    images, groups = floods
    field = RandomField(images, groups)
    painted, maps = field.render(200, np.random.default_rng(1))
    kept = field.check(maps)
    assert abs(kept["fraction"]) < 0.01 and kept["s2"] < 0.01
    real = segmented(images)
    for group in ("few", "many"):  # the direction is kept, and the groups are
        wanted = two_point_map(real[np.array(groups) == group]).mean(0)[63]
        assert set(field.groups) == {"few", "many"} and np.allclose(wanted, field.models[group]["s2"][63])
    found = two_point_map(maps).mean(0)
    wanted = two_point_map(real).mean(0)
    assert (
        np.abs(found[63, 63:95] - wanted[63, 63:95]).max() < 0.012
        and np.abs(found[63:95, 63] - wanted[63:95, 63]).max() < 0.012
    )
    assert found[63, 69] > found[69, 63] + 0.03  # stretched along the rows


def test_the_paint_is_the_datas(floods):
    images, groups = floods
    painted, maps = RandomField(images, groups).render(200, np.random.default_rng(1))
    assert painted.shape == (200, 1, 64, 64) and painted.dtype == np.uint8
    levels = [np.quantile(x, (0.02, 0.25, 0.5, 0.75, 0.98)) for x in (images, painted)]
    assert np.abs(levels[0] - levels[1]).max() < 6
    assert np.abs(radial_spectrum(painted)[1] - radial_spectrum(images)[1]).max() < 0.12
    drawn = segmented(painted)
    assert abs(drawn.mean() - maps.mean()) < 0.02 and (drawn == maps).mean() > 0.97
    result = compare(images, painted, descriptors=False)
    assert result["fraction"]["difference"] < 0.03 and result["spectrum"]["reached"]


def test_synthetic_steel_is_met_but_for_its_lamellae():
    images, _, groups = specimens(600, 32, seed=0, n_specimens=10)
    field = RandomField(images, groups)
    painted, maps = field.render(300, np.random.default_rng(0))
    kept = field.check(maps)
    assert abs(kept["fraction"]) < 0.01 and kept["s2"] < 0.02
    s2 = [two_point(segmented(x)).mean(0) for x in (images, painted)]
    assert np.abs(s2[0] - s2[1]).max() < 0.03


def test_same_seed_same_field(floods):
    images, groups = floods
    a, b = (RandomField(images[:60], groups[:60]).render(3, np.random.default_rng(2)) for _ in range(2))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_odd_data():
    flat = np.full((4, 16, 16), 90, np.uint8)
    painted, maps = RandomField(flat).render(5, np.random.default_rng(0))
    assert painted.shape == (5, 1, 16, 16) and not maps.any() and abs(float(painted.mean()) - 90) < 3
    noise = np.random.default_rng(0).integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)
    painted, maps = RandomField(noise, list("aabbccddeeff")).render(7, np.random.default_rng(0))
    assert abs(maps.mean() - segmented(noise).mean()) < 0.05 and abs(float(painted.std()) - noise.std()) < 12
    one_is_flat = np.concatenate([flat[:1], noise[:3, 0]])
    assert RandomField(one_is_flat).render(4, np.random.default_rng(0))[0].shape == (4, 1, 16, 16)
    with pytest.raises(BadInput, match="at least 2"):
        RandomField(flat[:1])
    with pytest.raises(BadInput, match="at least 2"):
        blend(flat[:1, None], np.random.default_rng(0))


def test_groups_too_small_for_a_fit_share_one(floods):
    images, _ = floods
    field = RandomField(images[:60], ["large"] * 30 + ["s1"] * 10 + ["s2"] * 10 + ["s3"] * 10)
    assert set(field.models) == {"large", ""} and (field.groups == "").sum() == 30
    assert set(RandomField(images[:40], ["large"] * 35 + ["small"] * 5).models) == {"large"}
    assert set(RandomField(images[:6], list("aabbcc")).models) == {""}


def test_depth():
    m = np.zeros((1, 9, 9), bool)
    m[0, :, 4:] = True
    assert boundary_distance(m)[0, 4].tolist() == [-4, -3, -2, -1, 1, 2, 3, 4, 4]
    assert (boundary_distance(np.ones((1, 5, 5), bool)) == 4).all() and (
        boundary_distance(np.zeros((1, 5, 5), bool)) == -4
    ).all()


def test_blended_pairs_are_halves_of_two_real_images_of_one_group():
    images, _, groups = specimens(60, 32, seed=2, n_specimens=6)
    rng = np.random.default_rng(0)
    mixed = blend(images[:, None], rng, groups)
    assert mixed.shape == (60, 1, 32, 32) and mixed.dtype == np.uint8
    near = aligned_ncc(mixed, images)
    assert (near[np.arange(60), np.arange(60)] > np.median(near)).mean() > 0.95  # its own image is in it
    partner = [
        int(
            np.argmin(
                [
                    np.abs(2.0 * mixed[i, 0] - images[i] - best_alignment(images[i], other)["image"]).max()
                    for other in images
                ]
            )
        )
        for i in range(6)
    ]
    assert all(groups[partner[i]] == groups[i] and partner[i] != i for i in range(6))
    alone = blend(images[:3, None], np.random.default_rng(0), ["a", "b", "c"])  # no partner in the group: any
    assert not any(np.array_equal(a, b) for a, b in zip(alone[:, 0], images))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return steel_archive(tmp_path_factory.mktemp("baselines") / "steel.zip", 240)


def test_ladders_have_the_baselines(archive):
    ladder = {rung["key"]: rung for rung in Judge("random_fd40_holdout", archive).ladder()["rungs"]}
    assert ladder["field"]["name"] == "random field" and ladder["blend"]["name"] == "blended pairs"
    assert np.isfinite([ladder[key]["value"] for key in ("field", "blend")]).all()
    assert Judge("random_fd40_holdout", archive).ladder()["rungs"] == list(ladder.values())


METRICS = ["random_fd40_holdout", "random_pr403_holdout"]


@pytest.fixture(scope="module")
def judged(archive, tmp_path_factory):
    """A table of the known sets, of images of the same specimens and of copies: its folder, what was returned, and
    the progress that was told. Read only."""
    out, told = tmp_path_factory.mktemp("judged") / "out", []
    fresh = specimens(300, 32, seed=4, n_specimens=8)[0][240:280, None]
    copies = Dataset(archive, part="train").images()[:40]
    return (
        out,
        baselines(
            archive,
            dict(honest=fresh, copier=[copies[:25], copies[25:]]),
            METRICS,
            out=out,
            progress=lambda *a: told.append(a),
        ),
        told,
    )


def test_one_table(archive, judged, tmp_path, monkeypatch):
    folder, result, told = judged
    shutil.copytree(folder, tmp_path / "out")
    rows = {row["key"]: row for row in result["rows"]}
    assert list(rows) == [*PLAIN_RUNGS, "honest", "copier"] and rows["copier"]["kind"] == "network"
    assert rows["copier"]["copies"] == 1 > 0.1 > rows["honest"]["copies"] and rows["blur1"]["copies"] == 1
    ladder = {rung["key"]: rung["value"] for rung in Judge(METRICS[0], archive).ladder()["rungs"]}
    assert all(
        rows[key]["values"][METRICS[0]] == pytest.approx(ladder[key]) for key in PLAIN_RUNGS
    )  # the lines of the curves
    assert all(
        set(row["values"]) == set(result["columns"]) and len(row["physics"]["ratios"]) > 20 for row in rows.values()
    )
    assert "honest" in result["text"] and "random field" in result["text"]
    assert told and all(done <= total for done, total, _ in told) and told[-1][0] == told[-1][1]
    table = baseline_table(result)
    assert (
        table.count("\n|") >= 10
        and "**copier**" in table
        and "| other real images |" in table
        and "random recall" in table
    )
    written = json.loads((tmp_path / "out" / "baselines.json").read_text())
    assert (
        written["rows"] == json.loads(json.dumps(result["rows"]))
        and table in (tmp_path / "out" / "baselines.md").read_text()
    )
    monkeypatch.setattr("semgan_nb.baselines.compare", None)  # known sets are not judged again
    again = baselines(archive, None, METRICS, out=tmp_path / "out")
    assert again["rows"] == written["rows"][: len(PLAIN_RUNGS)] and "Without any learning" in again["text"]


def test_refusals_of_the_table(archive, judged, tmp_path):
    shutil.copytree(judged[0], tmp_path / "out")  # with the known sets judged
    with pytest.raises(BadInput, match="is no distance of features"):
        baselines(archive, metrics=["micro40_full"])
    for count in (0, 1, -3):
        with pytest.raises(BadInput, match=f"count is {count}: it must be a whole number from 2"):
            baselines(archive, count=count)
    with pytest.raises(BadInput, match="40 and 50 images"):
        baselines(archive, metrics=["random_fd40_holdout", "random_fd50_holdout"])
    with pytest.raises(BadInput, match="there were 3"):
        baselines(archive, dict(few=np.zeros((3, 1, 32, 32), np.uint8)), METRICS, out=tmp_path / "out")


def test_the_verb(archive, tmp_path, capsys, monkeypatch):
    from made_up_runs import random_snapshot

    from semgan_nb.cli import main

    monkeypatch.chdir(tmp_path)
    random_snapshot(tmp_path / "net.safetensors")
    assert (
        main(
            [
                "baselines",
                str(archive),
                "--metrics",
                "random_fd40_holdout",
                "--out",
                "table",
                "--with",
                "net.safetensors",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "random field" in said
        and "**net.safetensors**" in said
        and (tmp_path / "table" / "baselines.png").stat().st_size > 5000
    )
    random_snapshot(tmp_path / "small.safetensors", img_resolution=16)
    assert main(["baselines", str(archive), "--metrics", "random_fd40_holdout", "--with", "small.safetensors"]) == 2
    assert "makes images of 16 px" in capsys.readouterr().err and not (tmp_path / "steel-baselines").exists()
    assert main(["baselines", str(archive), "--metrics", "micro40_full"]) == 2


def test_a_stack_of_oblique_fields_has_the_spectra_of_each():
    "An oblique texture has another spectrum mirrored: the half that is not computed must come from the right side."
    y, x = np.mgrid[-15:16, -15:16]
    oblique = np.exp(-(((x + y) / 8) ** 2) - ((x - y) / 3) ** 2)
    one, other = nearest_valid_spectrum(oblique, 60), nearest_valid_spectrum(oblique[:, ::-1], 60)
    together = nearest_valid_spectrum(np.stack([oblique, oblique[:, ::-1]]), 60)
    assert np.allclose(together, [one, other], atol=1e-12) and abs(one - other).max() > 1e-4
