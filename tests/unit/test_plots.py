"""Chapters 80 to 82: figures show the numbers that runs wrote, for one run, several, and a study."""

import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from command import said
from made_up_runs import METRIC, MadeUpRun, made_up_run, made_up_sweep
from matplotlib.figure import Figure
from PIL import Image

from semgan_nb import plots, study_plots, material_plots
from semgan_nb.foundation import BadInput
from semgan_nb.runs import read_metrics
from semgan_nb.studies import Study


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return made_up_sweep(tmp_path_factory.mktemp("study") / "sweep")


@pytest.fixture(autouse=True)
def pyplot_is_left_alone():
    yield
    assert not plt.get_fignums()


def values(run):
    return [plots.value_of(record) for record in read_metrics(run)[METRIC]]


def test_curves_show_every_record(tmp_path):
    one, two = made_up_run(tmp_path / "a" / "run"), made_up_run(tmp_path / "b" / "run", aug="noaug")
    for runs in (one, [one, one], {"mine": one}):
        top = plots.curves(runs).axes[0]
        np.testing.assert_allclose(top.lines[0].get_ydata(), values(one))
    figure = plots.curves([one, two])  # of the same name: told apart by their folders
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [str(one), str(two)]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), values(two))
    mine = Figure()
    assert plots.curves(one, figure=mine) is mine


def test_records_of_different_kinds_share_no_curve(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    run.tick(16)
    run.tick(32, metric="random_fd100_full")
    run.end()
    assert len(plots.curves(run.dir).axes) == 4 and len(plots.curves(run.dir, ["random_fd100_full"]).axes) == 3


def with_p(run, factor):
    """The same run, with p so many times as large."""
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    for line in lines:
        line["Progress/augment"]["mean"] *= factor
    (run / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.mark.parametrize("factor, words", [(1, []), (30, ["always"])])
def test_where_p_rose_above_1_every_figure_of_it_marks_1(tmp_path, factor, words):
    run = with_p(made_up_run(tmp_path / "s" / "base-seed0", kimgs=(0, 16, 48)), factor)  # p ends at 0.096, or at 2.88
    for figure, which in (
        (plots.curves(run), -1),
        (study_plots.bands(tmp_path / "s"), -1),
        (material_plots.controller_figure(run, 0.6, 500.0), 1),
    ):
        axes = figure.axes[which]
        assert axes.get_ylabel() == "$p$" and [text.get_text() for text in axes.texts] == words
        marks = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_ydata()) for line in marks] == [[1, 1]] * len(words) and axes.get_ylim()[0] == 0


def test_a_controller_without_a_tick_is_a_sentence(tmp_path):
    run = made_up_run(tmp_path / "run", kimgs=())
    assert "holds no r_t yet: train it longer" in said(material_plots.controller_figure, run, 0.6, 500.0)


def test_bands_are_minimum_median_and_maximum(sweep):
    figure = study_plots.bands(sweep, at=16)
    by_label = {line.get_label(): line for line in figure.axes[0].lines}
    of_seeds = np.array([values(sweep / f"ada_target=0.5-seed{seed}") for seed in range(3)])
    np.testing.assert_allclose(by_label["0.5"].get_ydata(), np.median(of_seeds, 0))
    band = figure.axes[0].collections[1].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(of_seeds.min()) and band.max() == pytest.approx(of_seeds.max())
    assert [by_label[name].get_color() for name in ("0.3", "0.5", "noaug")] == ["tab:blue", "tab:green", "0.5"]
    assert figure.axes[0].get_yscale() == "log" and study_plots.bands(sweep, log=False).axes[0].get_yscale() == "linear"


def test_colours_stay_when_settings_are_left_out(sweep):
    some = study_plots.bands(sweep, settings=[0.5]).axes[0]
    assert [text.get_text() for text in some.get_legend().get_texts()] == ["0.5"] and some.lines[
        0
    ].get_color() == "tab:green"


def test_best_values_are_the_best_of_each_run(sweep):
    axes = study_plots.best_values(Study(sweep)).axes[0]
    best = [min(values(sweep / f"aug=noaug-seed{seed}")) for seed in range(3)]
    caps, dot = axes.lines[4:6]
    np.testing.assert_allclose(caps.get_ydata(), (min(best), max(best)))
    np.testing.assert_allclose(dot.get_ydata(), np.median(best))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.3", "0.5", "noaug"]


def test_a_study_that_has_just_begun(tmp_path):
    run = MadeUpRun(tmp_path / "sweep" / "ada_target=0.5-seed0", ada_target=0.5)
    for figure in (
        study_plots.bands(tmp_path / "sweep"),
        study_plots.best_values(tmp_path / "sweep"),
        plots.curves(run.dir),
    ):
        assert "not evaluated yet" in [text.get_text() for axes in figure.axes for text in axes.texts]
        plots.as_png(figure)
    assert plots.samples(run.dir).texts[0].get_text() == "no samples yet"
    run.tick(8, snapshot=False)
    assert len(study_plots.bands(tmp_path / "sweep").axes[1].lines) >= 1
    run.end()
    with pytest.raises(BadInput, match="no study"):
        study_plots.bands(tmp_path)


def test_samples_are_those_of_the_sheet(tmp_path):
    run = made_up_run(tmp_path / "run")
    sheet = np.asarray(Image.open(run / "fakes000032.png"))
    shown = plots.samples({"x": run}, kimg=30, n=4, zoom=1).axes[0]
    np.testing.assert_array_equal(shown.images[0].get_array()[:32, :32], sheet[:32, :32])
    np.testing.assert_array_equal(shown.images[0].get_array()[:32, 33:65], sheet[:32, 32:64])
    assert shown.get_title() == "x\n32 kimg"


def test_large_samples_are_reduced_by_whole_factors():
    images = np.random.default_rng(0).integers(0, 256, (2, 300, 300), dtype=np.uint8)
    small = plots._reduced(images)
    assert small.shape == (2, 100, 100) and small[0, 0, 0] == round(images[0, :3, :3].mean())
    assert plots._reduced(np.zeros((1, 256, 256, 3), np.uint8)).shape == (1, 128, 128, 3)


def test_a_png_is_small_and_true(sweep):
    figure = study_plots.bands(sweep)
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=figure.dpi)
    small = plots.as_png(figure)
    a, b = (np.asarray(Image.open(f).convert("RGB"), float) for f in (whole, io.BytesIO(small)))
    assert len(small) < len(whole.getvalue()) / 2 and a.shape == b.shape and abs(a - b).mean() < 1
    assert Image.open(io.BytesIO(plots.as_png(figure, 2))).width == 2 * Image.open(io.BytesIO(small)).width
    assert Image.open(io.BytesIO(plots.as_png(plots.image_grid(np.zeros((4, 32, 32), np.uint8))))).mode == "L"


def test_two_points_begin_at_the_phase_fraction_and_level_off_at_its_square():
    rng = np.random.default_rng(0)
    images = np.where(rng.random((40, 64, 64)) < 0.3, 200, 50).astype(np.uint8)
    line = material_plots.two_points(images, images[:, None], pixel_size_nm=(20.0, 20.0)).axes[0].lines[0]
    fraction = (images > 100).mean()
    assert line.get_ydata()[0] == pytest.approx(fraction) and line.get_ydata()[5] == pytest.approx(
        fraction**2, rel=0.03
    )
    assert line.get_xdata()[1] == pytest.approx(0.02)  # in micrometres
    material_plots.two_points(np.zeros((2, 32, 32), np.uint8), images[:1])  # nothing light at all


def test_a_walk_is_marked():
    axes = plots.walk_curve([0, 0.5, 1], [0.2, 0.4, 0.3], at=0.25).axes[0]
    assert axes.lines[-1].get_xdata()[0] == 0.25 and axes.lines[-1].get_ydata()[0] == pytest.approx(0.3)
    assert len(plots.walk_curve([], [], at=0.3).axes[0].lines) == 2


def test_what_leaked_over_p():
    angle = [5.0 + 10 * k for k in range(18)]
    one = lambda p, share: dict(
        run="r",
        kimg=1.0,
        p=p,
        angle=angle,
        real=[1 / 18] * 18,
        generated=share,
        leaks={
            name: dict(value=0.2 * p * (k + 1), floor=0.05, leaks=p > 0.5)
            for k, name in enumerate(("direction", "length", "grey"))
        },
    )
    tilted = [2 / 18] * 9 + [0.0] * 9
    figure = study_plots.leak_figure([one(1.0, tilted), one(0.1, [1 / 18] * 18)])
    changed, shares = figure.axes
    lines = {line.get_label(): line for line in changed.lines}
    assert list(lines["length"].get_xdata()) == [0.1, 1.0] and np.allclose(lines["length"].get_ydata(), [0.04, 0.4])
    faces = [dots.get_facecolors()[:, :3].tolist() for dots in changed.collections]  # full where it leaks
    assert len(faces) == 3 and all(low == [1, 1, 1] and high != [1, 1, 1] for low, high in faces)
    assert np.allclose(shares.lines[-1].get_ydata(), tilted) and "p = 1" in shares.lines[-1].get_label()
    figure.canvas.draw()
