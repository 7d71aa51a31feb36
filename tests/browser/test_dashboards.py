"""Chapters 83 to 89 without a browser: values are set, buttons clicked, and what is shown is what one call of
`plots` draws."""

import gc
import io
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import forked
import ipywidgets
import numpy as np
import pytest
import tifffile
from made_up_runs import METRIC, MadeUpRun, made_up_run, made_up_sweep, random_snapshot
from PIL import Image

import semgan_nb.dashboards.explorer as explorer
from semgan_nb import checkpoints, plots, study_plots, material_plots
from semgan_nb.widgets import close_dashboards
from semgan_nb.dashboards.data import data_steps, file_steps
from semgan_nb.preprocess import Recipe, median_filter
from semgan_nb.dashboards.live import live_run, run_state
from semgan_nb.dashboards.study import target_sweep
from semgan_nb.dashboards.explorer import latent_walk, walk_image
from semgan_nb.blind_test import score_class
from semgan_nb.checkpoints import load
from semgan_nb.synthetic_sets import prepare_synthetic
from semgan_nb.dashboards.augmentation import augment_gallery, controller_panel, gan_panel
from semgan_nb.dashboards.compare import blind_panel, material_images, material_panel
from semgan_nb.archives import write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.films import walk_frames
from semgan_nb.foundation import BadInput
from semgan_nb.descriptors import phase_fractions
from semgan_nb.microstructure import measure
from semgan_nb.same_material import compare_microstructures
from semgan_nb.preparation import prepare
from semgan_nb.synthetic import dual_phase, specimens

FAST = dict(every=0.1)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Every test ends with as many threads and widgets as it began with."""
    before = count()
    yield
    close_dashboards()
    assert count() == before


def count():
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("semgan")), len(
        ipywidgets.widgets.widget._instances
    )


def pixels(widget):
    return np.asarray(Image.open(io.BytesIO(widget.value)).convert("L"), int)


def same(widget, figure):
    """Whether an image widget shows the figure; what a palette does to colours is left out of account."""
    drawn = np.asarray(Image.open(io.BytesIO(plots.as_png(figure, 2))).convert("L"), int)
    shown = pixels(widget)
    return shown.shape == drawn.shape and abs(shown - drawn).max() <= 2


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


# -- a run as it goes on
# ------------------------------------------------------------------------------------------------


def test_live_run_shows_what_plots_draws(tmp_path):
    run = made_up_run(tmp_path / "run")
    box, w = live_run(run)
    assert isinstance(box, ipywidgets.VBox) and box.wait()
    assert same(w["curves"], plots.curves(run)) and same(w["samples"], plots.samples(run))
    w["kimg"].value = 16
    assert box.wait() and same(w["samples"], plots.samples(run, 16))
    shown = {}
    exec(box.code, shown)
    assert shown["runs"] == str(run) and "16" in box.code and not w["notice"].value


def test_live_run_follows_a_run_that_goes_on(tmp_path):
    run = MadeUpRun(tmp_path / "run")
    run.tick(0)
    box, w = live_run(run.dir, **FAST)
    assert "running" in w["state"].value and "0 of 96 kimg" in w["state"].value and not w["stop"].disabled
    before = w["curves"].value, w["samples"].value
    run.tick(16)
    until(lambda: "16 of 96 kimg · 40 images/s · 33 min 20 s left" in w["state"].value)
    until(lambda: w["curves"].value != before[0] and w["samples"].value != before[1])
    run.writer.set_status(message="evaluating the metric")
    until(lambda: "evaluating the metric" in w["state"].value)
    run.tick(24, metric="random_fd100_full")
    until(lambda: [value for _, value in w["metric"].options] == ["", METRIC, "random_fd100_full"])
    w["metric"].value = METRIC
    assert box.wait() and same(w["curves"], plots.curves(run.dir, [METRIC]))
    run.end()
    until(lambda: "done" in w["state"].value and w["stop"].disabled)


def test_the_stop_button_asks_the_run_to_stop(tmp_path):
    one, two = MadeUpRun(tmp_path / "one"), MadeUpRun(tmp_path / "two")
    box, w = live_run(one.dir, two.dir, **FAST)
    w["stop_1"].click()
    until(lambda: "stopping" in w["state_1"].value)
    assert two.writer.stop_requested() and not one.writer.stop_requested()
    assert w["stop_1"].disabled and w["stop_1"].description == "Stopping" and not w["stop_0"].disabled
    two.end("stopped", "asked to stop")
    until(lambda: "asked to stop; the same command goes on from here" in w["state_1"].value)
    one.end()


@pytest.mark.parametrize(
    "state, message, words",
    [
        ("failed", "OSError: no space left on <device>", "no space left on &lt;device&gt;; more in log.txt"),
        ("stopped", "interrupted", "interrupted; the same command goes on"),
        ("done", "", "48 of 96 kimg"),
    ],
)
def test_how_a_run_ended_is_said(tmp_path, state, message, words):
    box, w = live_run(made_up_run(tmp_path / "run", state=state, message=message))
    assert f"semgan-{state}" in w["state"].value and words in w["state"].value and w["stop"].disabled


def test_a_run_whose_process_died_is_lost(tmp_path, monkeypatch):
    code = (
        f"import sys, os; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from made_up_runs import MadeUpRun; r"
        f" = MadeUpRun({str(tmp_path / 'run')!r}); r.tick(16); os._exit(1)"
    )
    forked.run([sys.executable, "-c", code])
    assert run_state(tmp_path / "run")["state"] == "lost"  # at once: nobody of its number lives on this machine
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 300)
    box, w = live_run(tmp_path / "run")
    assert "lost" in w["state"].value and "died without a word, 5 min" in w["state"].value and w["stop"].disabled


def test_a_run_that_is_not_there_yet_is_waited_for(tmp_path):
    box, w = live_run(tmp_path / "run", **FAST)
    assert "no run yet" in w["state"].value and w["stop"].disabled
    made_up_run(tmp_path / "run")
    until(lambda: "done" in w["state"].value and same(w["curves"], plots.curves(tmp_path / "run")))
    with pytest.raises(BadInput, match="give a run"):
        live_run()


def test_damage_is_said_and_mended(tmp_path):
    run = made_up_run(tmp_path / "run")
    whole = (run / "config.json").read_text()
    box, w = live_run(run, **FAST)
    (run / "config.json").write_text("{")
    until(lambda: "unreadable" in w["state"].value and "damaged" in w["notice"].value)
    (run / "config.json").write_text(whole)
    until(lambda: "done" in w["state"].value and not w["notice"].value)


def test_what_was_kept_without_status_is_a_record(tmp_path):
    record = shutil.copytree(made_up_run(tmp_path / "run"), tmp_path / "record")
    (record / "status.json").unlink()
    assert run_state(record)["state"] == "kept" and run_state(record)["kimg"] == 48


# -- micrographs on their way into an archive
# -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Eight micrographs in two groups with a scale of 20 or 40 nm, brought to 40; two nearly empty corners; a text
    file that is none."""
    folder = tmp_path_factory.mktemp("micrographs")
    for k in range(8):
        image, _ = dual_phase(np.random.default_rng(k), 128, 0.4 + 0.05 * k, field_um=12.8)
        image[:64, :64] = 90 if k < 2 else image[:64, :64]
        (folder / "ab"[k % 2]).mkdir(exist_ok=True)
        nm = 20 if k < 4 else 40
        tifffile.imwrite(
            folder / "ab"[k % 2] / f"m{k}.tif",
            image,
            imagej=True,
            resolution=(1000 / nm, 1000 / nm),
            metadata={"unit": "um"},
        )
    (folder / "a" / "notes.png").write_text("etched 10 s")
    prepare(folder, folder / "data.zip", 16, window=32, stride=32, pixel_size=40, strict=False, progress=False)
    return folder


def test_steps_are_those_of_the_archive(prepared):
    manifest, data = Dataset(prepared / "data.zip").manifest, Dataset(prepared / "data.zip")
    k = next(k for k, image in enumerate(manifest["images"]) if image["source"] == "a/m0.tif")
    found = file_steps(manifest, prepared, "a/m0.tif")
    assert list(found) == ["8-bit grey", "bar off", "median", "one scale", "intensity", "crop"]
    np.testing.assert_array_equal(found["crop"]["image"], data.images([k])[0, 0])
    assert found["8-bit grey"]["pixel_size_nm"] == pytest.approx([20, 20]) and found["intensity"][
        "pixel_size_nm"
    ] == pytest.approx([40, 40])
    assert found["crop"]["pixel_size_nm"] == pytest.approx(manifest["images"][k]["pixel_size_nm"])
    np.testing.assert_array_equal(
        found["median"]["detail"], median_filter(found["bar off"]["detail"], Recipe.of(manifest).median)
    )
    assert (
        found["bar off"]["detail"].shape == (128, 128)
        and found["median"]["detail_nm"] == pytest.approx([20, 20])
        and "without" in set(found["crop"])
    )
    assert found["median"]["levels"].sum() == 128 * 128 and found["intensity"]["levels"].sum() == 64 * 64


def test_the_scale_of_a_crop_is_that_of_the_archive(prepared, tmp_path):
    prepare(
        prepared,
        tmp_path / "whole.zip",
        16,
        resize=True,
        pixel_size=40,
        mixed_scales=True,
        strict=False,
        progress=False,
    )  # 128 px of 20 nm become 64 of 40, then 16
    manifest = Dataset(tmp_path / "whole.zip").manifest
    for image in manifest["images"]:
        assert file_steps(manifest, prepared, image["source"])["crop"]["pixel_size_nm"] == pytest.approx(
            image["pixel_size_nm"]
        )


def test_data_dashboard_shows_steps_groups_and_what_was_left_out(prepared):
    box, w = data_steps(prepared / "data.zip", prepared)
    assert (
        not w["notice"].value
        and "a/m0.tif" in w["table"].value
        and "20 nm" in w["table"].value
        and "marks burnt in" in w["table"].value
        and "light phase before" in w["table"].value
        and w["table"].value.count("25.0%") == 2
    )
    assert (
        "notes.png" in w["state"].value
        and "is a text file" in w["state"].value
        and "nearly constant" in w["state"].value
        and "standard deviation" in w["state"].value
    )
    assert [text for text in w["step"].options] == [
        "all steps",
        "bar off",
        "median",
        "one scale",
        "intensity",
        "crop",
        "left out",
    ] and w["page"].max == 2
    seen = {w["sheet"].value}
    for name in w["step"].options[1:]:
        w["step"].value = name
        assert box.wait() and not w["notice"].value, name
        seen.add(w["sheet"].value)
    assert len(seen) == 7 and not w["table"].value  # the images left out have no table
    w["step"].value = "median"
    assert box.wait()  # there are two pages again
    w["page"].value = 2
    assert box.wait() and "a/m0.tif" not in w["table"].value and "b/m7.tif" in w["table"].value
    names = {}
    exec(box.code, names)
    assert list(names["found"])[0] == "8-bit grey"


def test_data_dashboard_flags_a_threshold_that_fell_on_a_particle(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        image = rng.normal(np.where(np.arange(160)[:, None] % 20 < 10, 40, 60) * np.ones(160), 3)
        image[:8, : 20 * (k == 0)] = 255
        Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(tmp_path / f"m{k}.png")
    prepare(
        tmp_path, tmp_path / "data.zip", 32, window=64, stride=64, bar=0, intensity="none", marks="keep", progress=False
    )
    box, w = data_steps(tmp_path / "data.zip", tmp_path)
    assert box.wait() and w["table"].value.count("the threshold failed, 0.") == 2, (
        "before and after, of the first alone"
    )


def test_data_dashboard_names_files_that_are_gone_or_changed(prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    (other / "b" / "m1.tif").unlink()
    with pytest.raises(BadInput, match="m1.tif: there is no such file"):
        file_steps(Dataset(other / "data.zip").manifest, other, "b/m1.tif")
    (other / "a" / "m0.tif").write_bytes((other / "a" / "m2.tif").read_bytes())
    box, w = data_steps(other / "data.zip", other)
    assert "m0.tif: is not the file that was prepared" in w["notice"].value


# -- augmentation
# --------------------------------------------------------------------------------------------------------------


def test_augment_gallery_shows_what_plots_draws():
    images = np.stack([dual_phase(np.random.default_rng(k), 48, 0.5)[0] for k in range(3)])
    box, w = augment_gallery(images)
    for name in [value for _, value in w["transform"].options]:
        w["transform"].value = name
        assert box.wait() and not w["notice"].value and w["sense"].value, name
    w["transform"].value, w["strength"].value, w["p"].value, w["seed"].value = "scale", 2.0, 0.5, 7
    assert box.wait() and same(w["effect"], material_plots.augmentation_effect(images, "scale", 2.0, 0.5, 7))
    names = dict(images=images)
    exec(box.code, names)


def test_controller_panel_replays(tmp_path):
    run = made_up_run(tmp_path / "run")
    box, w = controller_panel(run)
    assert not w["notice"].value and w["target"].value == 0.6
    before, said = w["figure"].value, w["caption"].value
    w["target"].value, w["ada_kimg"].value = 0.1, 10
    assert box.wait() and w["figure"].value != before and w["caption"].value != said
    w["window"].value = (0, 8)
    assert box.wait() and not w["notice"].value
    exec(box.code, {})


def test_a_gan_is_moved_by_hand():
    box, w = gan_panel()
    before = w["plane"].value
    for name, word in (("step_d", "D learned"), ("step_g", "G learned")):
        w[name].click()
        assert box.wait() and word in w["caption"].value and w["plane"].value != before
        before = w["plane"].value
    w["points"].value, w["ada"].value = 200, True
    assert box.wait() and "new networks" in w["caption"].value and w["p"].disabled
    w["run"].value = True
    until(lambda: "nearness" in w["caption"].value and w["plane"].value != before)
    w["run"].value = False
    assert box.wait() and not w["notice"].value and "ToyGAN(200, 0.1)" in box.code
    w["ada"].value, w["p"].value = False, 0.4
    assert box.wait() and not w["p"].disabled
    names = {}
    exec(box.code.replace("toy_figure(ToyGAN", "toy = (ToyGAN"), names)
    assert names["toy"].iteration > 0 and len(names["toy"].data) == 200
    w["again"].click()
    assert box.wait() and "new networks" in w["caption"].value


# -- two sets of micrographs
# ----------------------------------------------------------------------------------------------------


def steel_archive(path, seed=0, intensity="none", size=32, field_um=4.8):
    images, _, specimen = specimens(60, size, seed=seed, n_specimens=6, field_um=field_um)
    write_archive(
        path,
        [dict(image=image, group=f"s{s}", pixel_size_nm=(150, 150)) for image, s in zip(images, specimen)],
        dict(intensity=intensity),
    )
    return path


@pytest.fixture(scope="module")
def steel(tmp_path_factory):
    root = tmp_path_factory.mktemp("steel")
    random_snapshot(root / "snapshot-000000.safetensors", pixel_size_nm=[150, 150])
    return dict(
        archive=steel_archive(root / "real.zip"),
        other=steel_archive(root / "other.zip", seed=7),
        matched=steel_archive(root / "matched.zip", intensity="match"),
        snapshot=root / "snapshot-000000.safetensors",
    )


def test_material_images_of_every_source(steel):
    real, made = material_images(steel["archive"], 40), material_images(steel["snapshot"], 12)
    assert (
        real["images"].shape == (40, 1, 32, 32)
        and real["pixel_size_nm"] == (150, 150)
        and real["matched"] is False
        and len(set(real["groups"])) == 6
        and real["name"] == "real"
    )
    assert (
        made["images"].shape == (12, 1, 32, 32)
        and list(made["pixel_size_nm"]) == [150, 150]
        and made["matched"] is None
        and made["groups"] is None
    )
    assert (
        material_images(steel["matched"])["matched"] is True
        and len(material_images(steel["archive"], 500)["images"]) == 60
    )
    assert (material_images(steel["snapshot"], 12)["images"] == made["images"]).all()


def test_material_panel_shows_what_plots_draws(steel):
    box, w = material_panel(steel["archive"], steel["snapshot"], count=40)
    sides = [material_images(source, 40) for source in (steel["archive"], steel["snapshot"])]
    two = [measure(side["images"], 150) for side in sides]
    found, labels = compare_microstructures(*two, False), ("real", "snapshot-000000")
    assert same(w["overview"], material_plots.material_figure(found)) and len(w["descriptor"].options) == len(
        found["descriptors"]
    )
    for key in ("fraction", "chord_rest_rows", "orientation", "spectrum", "sc1"):
        w["descriptor"].value = key
        assert box.wait() and not w["notice"].value
        assert same(w["distributions"], material_plots.descriptor_figure(found, key, labels)) and same(
            w["extremes"], material_plots.extremes(*(side["images"] for side in sides), two, key, labels=labels)
        )
        assert found["descriptors"][key]["sentence"] in w["sentence"].value.replace("&#x27;", "'")
    assert "150 nm" in w["state"].value and "µm" in w["sentences"].value
    names = {}
    exec(box.code, names)
    assert names["found"] == found


def test_material_panel_follows_its_controls(steel):
    box, w = material_panel(steel["archive"], steel["other"], count=40)
    said = w["sentence"].value
    w["floor"].value = "whole groups"
    assert (
        box.wait()
        and "real groups" in w["sentence"].value
        and ", other " in said
        and "groups=real['groups']" in box.code
    )
    w["phase"].value, w["method"].value = "dark", "kmeans"
    assert box.wait() and not w["notice"].value and "Segmentation('kmeans', 2, 'dark')" in box.code
    w["method"].value = "multiotsu, 3 phases"
    assert box.wait() and not w["notice"].value and "Segmentation('multiotsu', 3, 'dark')" in box.code


def test_a_blind_test_is_answered_and_scored(steel, snapshot, tmp_path):
    prepare_synthetic(data := tmp_path / "data.zip", load(snapshot).G.img_resolution, n_images=300, n_specimens=10)
    box, w = blind_panel(data, snapshot, n=30, save=tmp_path / "class")
    first = w["trial"].value
    assert "1 of 30" in w["question"].value and w["key"].layout.display == "none" and b"semgan" not in first
    w["generated"].click(), w["real"].click(), w["back"].click()
    assert box.wait() and "2 of 30" in w["question"].value and w["trial"].value != first
    w["back"].click()
    assert box.wait() and w["trial"].value == first and not w["result"].value
    w["person"].value = "Ada L."
    for _ in range(31):
        w["generated"].click()
    assert box.wait() and w["real"].disabled and "Right in 12 of 24" in w["result"].value and w["key"].value
    assert "The descriptors of the same images" in w["result"].value and not w["notice"].value
    assert score_class(tmp_path / "class")[1][0]["person"] == "Ada L." and (tmp_path / "class" / "Ada-L-.json").exists()
    box, w = blind_panel(data, snapshot, n=30, pairs=True)
    for _ in range(30):
        w["left"].click()
    assert box.wait() and "of 18" in w["result"].value and "semgan-key-l" in w["left"]._dom_classes
    with pytest.raises(BadInput, match="held-out images"):
        blind_panel(data, snapshot, n=300)
    with pytest.raises(BadInput, match="nothing is held out"):
        blind_panel(steel["archive"], snapshot)


def test_material_panel_and_persistence(steel, monkeypatch):
    box, w = material_panel(steel["archive"], steel["other"], count=6)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "gudhi", None)
        w["persistence"].value = True
        assert box.wait() and "pip install gudhi" in w["notice"].value
    pytest.importorskip("gudhi", reason="gudhi is not installed (pip install gudhi)")
    box.ask()
    assert box.wait() and not w["notice"].value
    w["descriptor"].value = "persistence0"
    assert box.wait() and "persistence of pieces" in w["sentence"].value
    w["persistence"].value = False
    assert box.wait() and w["descriptor"].value == "fraction" and not w["notice"].value


def test_material_panel_of_matched_data_leaves_fractions_out(steel):
    box, w = material_panel(steel["matched"], steel["snapshot"], count=20)
    assert w["descriptor"].value == "fraction" and "cannot be read" in w["sentence"].value


def test_material_panel_of_a_run_finds_its_archive(steel, tmp_path):
    from semgan_nb.runs import laptop
    from semgan_nb.launch import run_training

    run = tmp_path / "run"
    run_training(
        laptop(32).replace(
            total_kimg=0.064,
            kimg_per_tick=0.064,
            snap=1,
            metrics=("none",),
            channel_base=512,
            channel_max=16,
            g_channels=(),
        ),
        steel["archive"],
        run,
    )
    box, w = material_panel(run, count=20)
    assert "<b>real</b>" in w["state"].value and "<b>run</b>" in w["state"].value and not w["notice"].value


def test_what_cannot_be_put_beside_each_other_is_said(steel, tmp_path):
    with pytest.raises(BadInput, match="nothing to compare"):
        material_panel(steel["archive"])
    with pytest.raises(BadInput, match="one size"):
        material_panel(steel["archive"], steel_archive(tmp_path / "large.zip", size=64))
    with pytest.raises(BadInput, match="gone"):
        material_panel(steel["archive"], tmp_path / "gone.safetensors")


# -- a sweep
# --------------------------------------------------------------------------------------------------------------


def test_sweep_shows_what_plots_draws(tmp_path):
    sweep = made_up_sweep(tmp_path / "sweep")
    box, w = target_sweep(sweep)
    assert "<b>9 runs</b>" in w["state"].value and "9 done" in w["state"].value and w["stop"].disabled
    assert (
        [text for text, _ in w["settings"].options] == ["0.3", "0.5", "noaug"]
        and w["axis"].value == "ada_target"
        and w["kimg"].value == 48
    )
    assert same(w["bands"], study_plots.bands(sweep, at=48)) and same(
        w["best"], study_plots.best_values(sweep, log=True)
    )
    assert same(
        w["samples"],
        plots.samples(
            {
                "0.3": sweep / "ada_target=0.3-seed0",
                "0.5": sweep / "ada_target=0.5-seed0",
                "noaug": sweep / "aug=noaug-seed0",
            }
        ),
    )

    w["kimg"].value, w["seed"].value, w["log"].value, w["settings"].value = 16, 2, False, ("noaug", 0.3)
    assert box.wait() and not w["notice"].value
    chosen = dict(axis="ada_target", settings=[0.3, "noaug"])
    assert same(w["bands"], study_plots.bands(sweep, METRIC, **chosen, log=False, at=16)) and same(
        w["best"], study_plots.best_values(sweep, METRIC, **chosen)
    )
    assert same(w["samples"], plots.samples(study_plots.study_runs(sweep, 2, **chosen), 16))
    shown = {}
    exec(box.code, shown)
    assert shown["chosen"]["settings"] == [0.3, "noaug"]

    swatches, boxes = w["settings"].children[::2], w["settings"].children[1::2]
    assert [(box.description, box.value) for box in boxes] == [("0.3", True), ("0.5", False), ("noaug", True)]
    assert ["#1f77b4" in swatches[0].value, "#2ca02c" in swatches[1].value] == [
        True,
        True,
    ]  # the paper's blue and green
    boxes[1].value = True
    assert w["settings"].value == (0.3, 0.5, "noaug") and box.wait()


def test_sweep_over_two_fields_holds_one_fixed(tmp_path):
    sweep = tmp_path / "sweep"
    for subset in (50, 100):
        made_up_sweep(tmp_path / str(subset), seeds=(0, 1), noaug=False, subset=subset)
        for run in (tmp_path / str(subset)).iterdir():
            sweep.mkdir(exist_ok=True)
            run.rename(sweep / f"subset={subset},{run.name}")
    box, w = target_sweep(sweep)
    assert {text for text, _ in w["axis"].options} == {"ada_target", "subset", "each setting"} and w[
        "hold_subset"
    ].value == ""
    w["axis"].value = "ada_target"
    w["hold_subset"].value = "100"
    assert box.wait() and w["hold_ada_target"].disabled and not w["hold_subset"].disabled
    assert same(w["bands"], study_plots.bands(sweep, axis="ada_target", where={"subset": 100}, at=48))
    w["axis"].value = "subset"
    assert (
        box.wait()
        and [text for text, _ in w["settings"].options] == ["50", "100"]
        and same(w["best"], study_plots.best_values(sweep, axis="subset", log=True))
    )
    w["axis"].value = ""
    assert box.wait() and len(w["settings"].options) == 2  # subset is still held at 100
    w["hold_subset"].value = ""
    assert box.wait() and len(w["settings"].options) == 4


def test_sweep_follows_while_it_is_made(tmp_path):
    sweep = made_up_sweep(tmp_path / "sweep", targets=(0.3,), seeds=(0,), noaug=False, kimgs=(0, 16))
    box, w = target_sweep(sweep, **FAST)
    before = w["bands"].value
    run = MadeUpRun(sweep / "ada_target=0.7-seed0", ada_target=0.7)
    run.tick(16)
    until(
        lambda: (
            "1 running" in w["state"].value
            and "ada_target 0.7, seed 0" in w["state"].value
            and w["bands"].value != before
        )
    )
    assert [text for text, _ in w["settings"].options] == ["0.3", "0.7"] and len(w["settings"].value) == 2
    # 80 kimg of this run and none of the one that is done, at the 40 images/s of this one
    assert "about 33 min left for all" in w["state"].value
    run.tick(32)
    until(lambda: w["kimg"].value == 32)  # who stood at the newest stays at the newest
    w["stop"].click()
    until(lambda: "stopping" in w["state"].value)
    assert (run.dir / "control" / "stop").exists()
    run.end("failed", "FloatingPointError: the generator's loss is nan")
    until(lambda: "1 failed" in w["state"].value and "loss is nan" in w["state"].value)


def test_what_cannot_be_compared_is_said(tmp_path):
    sweep = made_up_sweep(tmp_path / "sweep", seeds=(0,), noaug=False)
    path = sweep / "ada_target=0.3-seed0" / f"metric-{METRIC}.jsonl"
    path.write_text(path.read_text().replace('"num_gen": 500', '"num_gen": 100'))
    box, w = target_sweep(sweep)
    assert "must not be compared" in w["notice"].value
    with pytest.raises(BadInput, match="no study"):
        target_sweep(tmp_path)


# -- a walk
# ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return random_snapshot(
        tmp_path_factory.mktemp("snapshots") / "snapshot-000000.safetensors", pixel_size_nm=[20.0, 10.0]
    )


@pytest.mark.parametrize("noise", ["fixed", "walks"])
def test_walk_shows_the_frames_of_the_film(tmp_path, snapshot, noise):
    box, w = latent_walk(snapshot, folder=tmp_path)
    G, mode = checkpoints.load(snapshot).G, explorer.NOISE[noise]
    w["noise"].value = noise
    frames = list(walk_frames(G, (0, 1), 241, noise_mode=mode))
    for k in (0, 100, 240):
        w["position"].value = k
        assert (
            box.wait() and abs(pixels(w["image"]) - frames[k]).max() <= 1 and f"frame {k} of 240" in w["caption"].value
        )
    assert f"{phase_fractions(frames[240])[0]:.3f}" in w["caption"].value and "0.32 µm wide" in w["caption"].value
    w["position"].value = 120
    measured = [phase_fractions(frame)[0] for frame in walk_frames(G, (0, 1), 61, noise_mode=mode, batch=4)]
    assert box.wait() and same(w["curve"], plots.walk_curve(np.linspace(0, 1, 61), measured, at=0.5))
    assert not w["notice"].value


def test_noise_walks_only_where_there_is_noise(snapshot, tmp_path):
    G = checkpoints.load(snapshot).G
    moved, still = (walk_image(G, (0, 1), 0.5, noise_mode=mode).astype(int) for mode in ("walk", "const"))
    assert abs(moved - still).max() > 20
    box, w = latent_walk(random_snapshot(tmp_path / "quiet-000000.safetensors", use_noise=False), points=3)
    assert w["noise"].options == ("off",) and box.wait() and not w["notice"].value


def test_walk_follows_its_controls(snapshot):
    box, w = latent_walk(snapshot)
    G = checkpoints.load(snapshot).G
    w["position"].value, w["seed_a"].value, w["seed_b"].value, w["psi"].value = 60, 7, 8, 0.5
    for noise in ("off", "random", "fixed", "walks"):
        w["noise"].value = noise
        expected = walk_image(G, (7, 8), 0.25, 0.5, explorer.NOISE[noise], noise_seed=60)
        assert box.wait() and np.array_equal(pixels(w["image"]), expected)
    assert w["name"].value == "walk-7-8"
    shown = {}
    exec(box.code, shown)
    assert np.array_equal(shown["image"], expected) and len(shown["fractions"]) == 61
    w["name"].value = "mine"
    w["seed_a"].value = 9
    assert box.wait() and w["name"].value == "mine"


def test_stale_frames_are_dropped(snapshot, monkeypatch):
    asked = []

    def slow(G, seeds, t, *args, **kwargs):
        asked.append(t)
        time.sleep(0.2)
        return walk_image(G, seeds, t, *args, **kwargs)

    monkeypatch.setattr(explorer, "walk_image", slow)
    box, w = latent_walk(snapshot)
    began = time.monotonic()
    for k in range(1, 101):
        w["position"].value = k
        time.sleep(0.005)
    assert box.wait() and asked[-1] == 100 / 240 and "frame 100" in w["caption"].value
    assert len(asked) - 1 <= (time.monotonic() - began) / 0.2 + 1 < 50


def test_play_moves_to_the_end_and_pauses(snapshot):
    box, w = latent_walk(snapshot, frames=21, points=5)
    w["play"].value = True
    until(lambda: w["position"].value > 2)
    w["play"].value = False
    assert box.wait()
    at = w["position"].value
    assert 2 < at < 20 or at == 20
    w["play"].value = True
    until(lambda: w["position"].value == 20 and not w["play"].value)
    assert w["play"].description == "Play"
    w["play"].value = True  # from the end it begins anew
    until(lambda: 0 < w["position"].value < 20)
    w["play"].value = False


def test_image_and_film_are_written(tmp_path, snapshot):
    box, w = latent_walk(snapshot, frames=11, points=5, folder=tmp_path)
    w["position"].value = 5
    w["save_image"].click()
    w["save_image"].click()  # writes nothing over
    picture = Image.open(tmp_path / "walk-0-1-0005.png")
    assert np.array_equal(np.asarray(picture), pixels(w["image"])) and (tmp_path / "walk-0-1-0005-2.png").exists()
    np.testing.assert_allclose(picture.info["dpi"], (25.4e6 / 10, 25.4e6 / 20), rtol=1e-3)
    for kind in (".gif", ".mp4", ""):
        w["film_kind"].value = kind
        w["save_film"].click()
        until(lambda: "11 frames" in w["message"].value and f"walk-0-1{kind}," in w["message"].value)
        w["message"].value = ""
    assert Image.open(tmp_path / "walk-0-1.gif").n_frames == 11 and len(list((tmp_path / "walk-0-1").iterdir())) == 11
    assert not w["progress"].value and w["save_film"].description == "Save film"


def test_a_film_can_be_called_off(tmp_path, snapshot):
    box, w = latent_walk(snapshot, frames=20001, points=5, folder=tmp_path)
    w["save_film"].click()
    until(lambda: "of 20001 frames" in w["progress"].value)
    assert w["save_film"].description == "Cancel film"
    w["save_film"].click()
    until(lambda: "called off" in w["message"].value)
    assert not list(tmp_path.iterdir())


def test_walk_in_colour_of_a_run_and_of_nothing(tmp_path, snapshot):
    run = made_up_run(tmp_path / "run", kimgs=(0,))
    random_snapshot(run / "snapshot-000000.safetensors", img_channels=3, img_resolution=16)
    box, w = latent_walk(run, points=3)
    assert Image.open(io.BytesIO(w["image"].value)).mode == "RGB" and w["image"].width == "320"
    with pytest.raises(BadInput, match="does not exist"):
        latent_walk(tmp_path / "nothing")


def test_the_shipped_network_is_the_one_without_a_path(monkeypatch, tmp_path):
    box, w = latent_walk(points=3)
    assert pixels(w["image"]).shape == (32, 32) and "snapshot-superalloy32.safetensors" in box.code
    monkeypatch.setattr("semgan_nb.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(BadInput, match="superalloy does not exist: give a snapshot"):
        latent_walk()


# -- all three
# ------------------------------------------------------------------------------------------------------------


def test_a_cell_run_again_closes_the_former(tmp_path, snapshot):
    run, sweep = made_up_run(tmp_path / "run"), made_up_sweep(tmp_path / "sweep", seeds=(0,), noaug=False)
    makers = [lambda: live_run(run), lambda: target_sweep(sweep), lambda: latent_walk(snapshot)]
    first = [make() for make in makers]
    before = count()
    second = [make() for make in makers]
    gc.collect()
    assert count() == before and len(before[0]) == 3
    assert all(box.comm is None for box, _ in first) and all(box.comm is not None for box, _ in second)
    with pytest.raises(BadInput):
        target_sweep(tmp_path / "nowhere")
    assert count() == before  # a refusal leaves the open one alone


def test_every_control_has_a_name_and_every_picture_words(tmp_path, snapshot, steel):
    run, sweep = made_up_run(tmp_path / "run"), made_up_sweep(tmp_path / "sweep", seeds=(0,), noaug=False)
    for box, w in (
        live_run(run),
        target_sweep(sweep),
        latent_walk(snapshot),
        material_panel(steel["archive"], steel["other"], count=8),
        gan_panel(),
    ):
        aids = box.children[-1].value
        for name, widget in w.items():
            if isinstance(widget, ipywidgets.Image):
                assert f"semgan-{name}" in widget._dom_classes and f"semgan-{name}" in aids
            elif not isinstance(widget, ipywidgets.HTML):
                boxes = [one for one in getattr(widget, "children", ()) if isinstance(one, ipywidgets.Checkbox)]
                for one in boxes if isinstance(widget, ipywidgets.Box) else [widget]:
                    assert one.description and one.tooltip, name
                assert boxes or not isinstance(widget, ipywidgets.Box), name


def test_a_stored_notebook_shows_a_picture(tmp_path, snapshot):
    import base64

    for box, _w in (live_run(made_up_run(tmp_path / "run")), latent_walk(snapshot)):
        assert box.wait()
        bundle = box._repr_mimebundle_()
        bundle = bundle[0] if isinstance(bundle, tuple) else bundle
        picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/jpeg"])))
        assert picture.width >= 300 and "application/vnd.jupyter.widget-view+json" in bundle


def test_training_imports_no_widgets():
    code = (
        "import sys, semgan_nb.training, semgan_nb.plots, semgan_nb.studies; assert not [m for m in sys.modules if"
        " m.split('.')[0] in ('ipywidgets', 'IPython')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stored_notebooks_hold_pictures_not_widgets():
    root = Path(__file__).resolve().parents[2]
    done = forked.run(
        [sys.executable, root / "tools" / "pictures.py", "--check", *(root / "nbs").rglob("[0-9]*.ipynb")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    large = {path.name: path.stat().st_size for path in (root / "nbs").glob("*.ipynb") if path.stat().st_size > 600_000}
    assert not large, f"{large}: python tools/pictures.py --shrink makes them smaller"
