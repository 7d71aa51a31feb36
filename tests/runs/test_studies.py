"""Chapters 71 and 73: a study made, run, broken off, failing in places, shared by two processes, and read."""

import json
import subprocess
import sys

from made_up_sets import archive_of
import forked
import numpy as np
import pytest
from made_up_runs import fake_train, study_with_fake_training
from PIL import Image

import tiny
from semgan_nb.scores import higher_is_better, metric_name
from semgan_nb.foundation import BadInput
from semgan_nb.opening import choose_study_metrics
from semgan_nb.runs import read_config, read_stats, sem512
from semgan_nb.studies import Study, point_label, read_samples, run_name, table_text, value_text
from semgan_nb.run_leaks import leaks
from semgan_nb.study_run import run_study, settle_metrics

TINY = tiny.TINY.replace(batch_gpu=8, total_kimg=0.064, snap=1, G_reg_interval=None)
TARGETS = {"ada_target": [0.3, 0.5]}
NOAUG = [{"aug": "noaug"}]
QUIET = dict(progress=False)


@pytest.fixture(scope="module")
def finished(archive, tmp_path_factory):
    """A study that ran to its end; tests only read it."""
    study = Study.create(tmp_path_factory.mktemp("studies") / "sweep", TINY, TARGETS, [0, 1], NOAUG)
    run_study(study, archive, progress=False)
    return study


@pytest.fixture
def nothing_is_trained(monkeypatch):
    """The bookkeeping of a study does not ask for networks."""
    monkeypatch.setattr(sys.modules[run_study.__module__], "train", fake_train)


def states(study):
    return [point["state"] for point in study.status()]


# -- names and points
# -----------------------------------------------------------------------------------------------------


def test_names_of_runs():
    assert run_name({"ada_target": 0.5}, 0) == "ada_target=0.5-seed0"
    assert run_name({"subset": 100, "augpipe": "bg"}, 7) == "subset=100,augpipe=bg-seed7"
    assert run_name({}, 0) == "base-seed0"
    assert [value_text(v) for v in (0.1, 1e-5, 20.0, 20, None, True, ("a", "b"))] == [
        "0.1",
        "1e-05",
        "20",
        "20",
        "none",
        "true",
        "a+b",
    ]
    assert (
        point_label({"aug": "noaug"}) == "noaug"
        and point_label({"aug": "noaug", "subset": 10}) == "aug noaug, subset 10"
    )


def test_the_folder_is_the_layout(finished):
    about = json.loads((finished.path / "study.json").read_text())
    assert about["format"] == 1 and "seed" not in about["base"] and about["base"]["z_dim"] == 16
    assert about["points"] == [
        {"fields": {"ada_target": 0.3}, "seeds": [0, 1]},
        {"fields": {"ada_target": 0.5}, "seeds": [0, 1]},
        {"fields": {"aug": "noaug"}, "seeds": [0, 1]},
    ]
    names = {f"{p}-seed{s}" for p in ("ada_target=0.3", "ada_target=0.5", "aug=noaug") for s in (0, 1)}
    assert {p.name for p in finished.path.iterdir() if not p.name.startswith(".")} - {"control"} == {
        "study.json",
        *names,
    }
    for point in finished.points:
        settings = read_config(point["run"])["resolved"]
        assert settings["seed"] == point["seed"] and {k: settings[k] for k in point["fields"]} == point["fields"]


def test_several_axes_are_all_combinations(tmp_path):
    study = Study.create(tmp_path / "s", TINY, {"subset": [10, 20], "aug": ["noaug", "ada"]}, [3])
    assert [p["run"].name for p in study.points] == [
        "subset=10,aug=noaug-seed3",
        "subset=10,aug=ada-seed3",
        "subset=20,aug=noaug-seed3",
        "subset=20,aug=ada-seed3",
    ]
    assert study.axis is None and study.config(study.points[0]) == TINY.replace(subset=10, aug="noaug", seed=3)
    assert Study.create(tmp_path / "t", TINY, {"aug": ["noaug", "ada"]}, [0]).axis == "aug"
    assert Study.create(tmp_path / "u", TINY, {}, [0]).points[0]["run"].name == "base-seed0"


def test_what_cannot_be_a_study_is_refused_and_leaves_nothing(tmp_path, finished):
    for axes, seeds, words in (
        ({"ada_targte": [1]}, [0], "did you mean 'ada_target'"),
        ({"ada_target": [2.0]}, [0], "from 0 to 1"),
        ({"seed": [1]}, [0], "no axis"),
        (TARGETS, [], "needs a seed"),
    ):
        with pytest.raises(BadInput, match=words):
            Study.create(tmp_path / "s", TINY, axes, seeds)
    assert not (tmp_path / "s").exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").touch()
    for place, words in ((tmp_path / "foreign", "thesis.doc"), (finished.points[0]["run"], "is a run")):
        with pytest.raises(BadInput, match=words):
            Study.create(place, TINY, TARGETS)
    with pytest.raises(BadInput, match="z_dim is 16 there and 32 here"):
        Study.create(finished.path, TINY.replace(z_dim=32), TARGETS)
    for place, words in (
        (tmp_path, "holds no study"),
        (tmp_path / "nowhere", "holds no study"),
        (finished.points[0]["run"], "is a run"),
    ):
        with pytest.raises(BadInput, match=words):
            Study(place)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        Study(tmp_path)


def test_more_seeds_and_values_are_added_to_what_is_there(tmp_path, archive, nothing_is_trained):
    study = Study.create(tmp_path / "s", TINY, {"ada_target": [0.3]}, [0])
    run_study(study, archive, **QUIET)
    more = Study.create(tmp_path / "s", TINY.replace(total_kimg=0.096), {"ada_target": [0.5, 0.3]}, [1])
    assert [(p["fields"]["ada_target"], p["seed"]) for p in more.points] == [(0.3, 0), (0.3, 1), (0.5, 1)]
    trained = []
    run_study(more, archive, progress=lambda point, tick: trained.append((point["run"].name, tick.number)))
    assert trained[0] == ("ada_target=0.3-seed0", 3)  # goes on to the new length
    assert states(more) == ["done"] * 3 and {p["kimg"] for p in more.status()} == {0.096}


def test_all_runs_of_a_study_are_judged_by_the_same_metrics(tmp_path, archive, nothing_is_trained):
    """They follow from the archive, not from the subset, and stay what they are once they are written out."""
    base = TINY.replace(metrics=["auto"])
    study = Study.create(tmp_path / "s", base, {"subset": [8, 20, None]}, [0])
    run_study(study, archive, **QUIET)
    metrics = {tuple(read_config(p["run"])["resolved"]["metrics"]) for p in study.points}
    assert metrics == {("lite0_fd20_train", "lite0_pr203_train", "latent_share_train", "augment_leak20_train")}
    more = Study.create(tmp_path / "s", base, {"aug": ["noaug"]}, [0])
    assert {more.config(p).metrics for p in more.points} == metrics == {more.base.metrics}


def test_a_study_that_began_with_other_metrics_keeps_them(tmp_path, archive, nothing_is_trained):
    """As those of 0.1.0 did, whose runs each wrote `auto` out."""
    study = Study.create(tmp_path / "s", TINY.replace(metrics=["auto"]), TARGETS, [0])
    fake_run(study.points[0]["run"], 0, [1.0], metric="random_fd20_full", ada_target=0.3, metrics=["random_fd20_full"])
    assert settle_metrics(study, archive) == ("random_fd20_full",) == study.base.metrics


def test_what_defines_the_paper_s_numbers_is_measured_where_its_files_are(archive, monkeypatch):
    paper = sem512()
    assert choose_study_metrics([paper], archive)[:2] == ("lite0_fd20_train", "lite0_pr203_train")
    monkeypatch.setattr(sys.modules[choose_study_metrics.__module__], "check_metric", lambda name, weights: name)
    assert choose_study_metrics([paper], archive)[:2] == ("fid50k_full", "pr50k3_full")
    assert choose_study_metrics([paper, TINY], archive)[0] == "lite0_fd20_train"


# -- running
# --------------------------------------------------------------------------------------------------------------


def test_every_point_is_trained_and_its_setting_matters(finished):
    assert states(finished) == ["done"] * 6
    final = {p["run"].name: read_stats(p["run"])[-1]["Loss/scores/real"] for p in finished.points}
    assert len({json.dumps(v) for v in final.values()}) >= 3  # at least the seeds and the augmentation tell


def test_a_finished_study_trains_nothing(finished, archive):
    before = {p["run"]: (p["run"] / "stats.jsonl").read_bytes() for p in finished.points}
    assert run_study(finished, archive, progress=lambda *_: pytest.fail("trained")) == finished.status()
    assert all((run / "stats.jsonl").read_bytes() == text for run, text in before.items())


def test_interrupted_it_goes_on_exactly(tmp_path, archive, finished):
    study = Study.create(tmp_path / "s", TINY, TARGETS, [0, 1], NOAUG)

    def interrupt(point, tick):
        if point["run"].name == "ada_target=0.5-seed0" and tick.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, archive, progress=interrupt)
    assert states(study) == ["done", "done", "stopped", "waiting", "waiting", "waiting"]
    began = []
    run_study(study, archive, progress=lambda point, tick: began.append((point["run"].name, tick.number)))
    assert began[0] == ("ada_target=0.5-seed0", 2) and states(study) == ["done"] * 6
    strip = lambda run: [{k: v for k, v in s.items() if k.startswith(("Loss", "Progress"))} for s in read_stats(run)]
    for a, b in zip(study.points, finished.points):
        assert strip(a["run"]) == strip(b["run"])


def test_a_failed_point_is_recorded_and_the_rest_goes_on(tmp_path, archive, monkeypatch):
    from semgan_nb import trainer

    study = Study.create(tmp_path / "s", TINY, TARGETS, [0], NOAUG)
    iterate = trainer.Trainer.iterate

    def fails(self):
        if self.config.ada_target == 0.3 and self.config.aug == "ada" and self.cur_nimg >= 32:
            raise RuntimeError("out of memory")
        iterate(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "iterate", fails)
        result = run_study(study, archive, **QUIET)
    assert [p["state"] for p in result] == ["failed", "done", "done"]
    assert result[0]["message"] == "RuntimeError: out of memory"
    assert "Traceback" in (study.points[0]["run"] / "log.txt").read_text()
    run_study(study, archive, **QUIET)
    assert states(study) == ["done"] * 3


def test_a_refused_point_is_recorded_and_the_rest_goes_on(tmp_path, archive, nothing_is_trained):
    study = Study.create(tmp_path / "s", TINY, TARGETS, [0])
    run = study.points[0]["run"]
    run.mkdir()
    (run / "notes.txt").touch()
    result = run_study(study, archive, **QUIET)
    assert [p["state"] for p in result] == ["refused", "done"] and "not empty" in result[0]["message"]
    assert json.loads((study.path / "study.json").read_text())["points"][0]["refused"] == {"0": result[0]["message"]}
    (run / "notes.txt").unlink()
    run_study(study, archive, **QUIET)
    assert states(study) == ["done", "done"] and "refused" not in (study.path / "study.json").read_text()


def test_another_archive_is_refused_before_or_at_each_point(tmp_path, archive, finished, nothing_is_trained):
    with pytest.raises(BadInput):
        run_study(finished, tmp_path / "nothing.zip", **QUIET)
    study = Study.create(tmp_path / "s", TINY, TARGETS, [0])
    run_study(study, archive, **QUIET)
    other = archive_of(tmp_path / "other.zip", np.arange(16, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2))
    assert [p["state"] for p in run_study(study, other, **QUIET)] == ["refused", "refused"]
    assert "other content" in study.status()[0]["message"]


def test_a_point_in_other_hands_is_passed_over(tmp_path, archive, nothing_is_trained):
    study = Study.create(tmp_path / "s", TINY, TARGETS, [0])
    run = study.points[0]["run"]
    run.mkdir()
    code = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True);"
        " sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline().strip() == b"held"
        assert [p["state"] for p in run_study(study, archive, **QUIET)] == ["waiting", "done"]
        holder.stdin.close()
    run_study(study, archive, **QUIET)
    assert states(study) == ["done", "done"]


def test_two_processes_share_a_study(tmp_path, archive):
    study = Study.create(tmp_path / "s", TINY, {"ada_target": [0.3, 0.4, 0.5, 0.6]}, [0])
    both = [
        forked.start_call(study_with_fake_training, str(study.path), str(archive), stdout=forked.PIPE, text=True)
        for _ in range(2)
    ]
    lines = [line for p in both for line in p.communicate()[0].splitlines()]
    assert [p.returncode for p in both] == [0, 0] and states(study) == ["done"] * 4
    assert sorted(lines) == sorted({*lines}) and len(lines) == 4 * 3  # no tick was done twice


def test_a_stop_ends_the_study_and_a_later_run_goes_on(tmp_path, archive, nothing_is_trained):
    study = Study.create(tmp_path / "s", TINY, TARGETS, [0])

    def ask(point, tick):
        if tick.number == 1:
            study.request_stop()

    assert [p["state"] for p in run_study(study, archive, progress=ask)] == ["stopped", "waiting"]
    run_study(study, archive, **QUIET)
    assert states(study) == ["done", "done"]


def test_the_bar_names_points_and_failures(tmp_path, archive, capsys, nothing_is_trained):
    study = Study.create(tmp_path / "s", TINY, TARGETS, [0])
    study.points[1]["run"].mkdir()
    (study.points[1]["run"] / "notes.txt").touch()
    run_study(study, archive)
    run_study(study, archive)
    said = capsys.readouterr().err
    assert "1/2 ada_target 0.3, seed 0" in said and "ada_target=0.5-seed0 failed" in said and "done already" in said


# -- reading
# --------------------------------------------------------------------------------------------------------------

NAME = "random_fd50_full"


def fake_run(path, seed, values, aug="ada", metric=NAME, data="d", **fields):
    """A run directory as others leave it behind: configuration, records, statistics; nothing was trained."""
    path.mkdir(parents=True)
    config = TINY.replace(seed=seed, aug=aug, **fields)
    about = dict(
        format=1,
        version="0",
        requested={},
        resolved=config.to_dict(),
        data=dict(path=f"{data}.zip", fingerprint=data, count=40, resolution=16, channels=1, pixel_size_nm=None),
        environment={},
    )
    (path / "config.json").write_text(json.dumps(about))
    record = lambda k, v: dict(
        results={metric: v},
        metric=metric_name(metric),
        kimg=8.0 * k,
        cur_nimg=8000 * k,
        snapshot_pkl=f"snapshot-{8 * k:06d}.safetensors",
        extractor="random",
        extractor_sha256="x",
        num_real=50,
        num_gen=50,
        real="full",
        seed=0,
        data="d",
    )
    (path / f"metric-{metric_name(metric)}.jsonl").write_text(
        "".join(json.dumps(record(k, v)) + "\n" for k, v in enumerate(values))
    )
    tick = lambda k: {
        "Progress/kimg": dict(num=1, mean=8.0 * k, std=0),
        "Progress/augment": dict(num=1, mean=0.1 * k * seed, std=0),
    }
    (path / "stats.jsonl").write_text("".join(json.dumps(tick(k)) + "\n" for k in range(len(values))))
    return path


@pytest.fixture
def folder(tmp_path):
    fake_run(tmp_path / "a", 0, [9.0, 3.0, 4.0], ada_target=0.3)
    fake_run(tmp_path / "b", 1, [8.0, 5.0, 2.0], ada_target=0.3)
    fake_run(tmp_path / "c", 2, [7.0, 6.0], ada_target=0.3)  # not yet so far
    fake_run(tmp_path / "d", 0, [9.5, 2.5, float("nan")], ada_target=0.7)
    fake_run(tmp_path / "e", 0, [9.0, 4.0, 8.0], aug="noaug")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_any_folder_of_runs_is_a_study(folder):
    study = Study(folder)
    assert [(p["label"], p["seed"], p["run"].name) for p in study.points] == [
        ("ada_target 0.3", 0, "a"),
        ("ada_target 0.3", 1, "b"),
        ("ada_target 0.3", 2, "c"),
        ("ada_target 0.7", 0, "d"),
        ("noaug", 0, "e"),
    ]
    assert study.axis == "ada_target" and study.metrics() == [NAME] and study.base is None
    with pytest.raises(BadInput, match="no study.json"):
        run_study(study, "data.zip")


def test_without_its_file_a_study_has_the_same_points(finished, tmp_path):
    import shutil

    copy = shutil.copytree(
        finished.path, tmp_path / "copy", ignore=shutil.ignore_patterns("study.json", "state", "*.safetensors")
    )
    short = lambda study: [(p["fields"], p["seed"], p["run"].name, p["label"]) for p in study.points]
    assert short(Study(copy)) == short(finished)
    assert [p["state"] for p in Study(copy).status()] == ["done"] * 6
    Study.create(copy, TINY, TARGETS, [0, 1], NOAUG)  # becomes one again
    assert short(Study(copy)) == short(finished)


def test_fields_without_effect_set_no_points_apart(tmp_path):
    fake_run(tmp_path / "n", 0, [1.0], aug="noaug", augpipe="blit")
    fake_run(tmp_path / "a", 0, [1.0], ada_kimg=20.0)
    fake_run(tmp_path / "f", 0, [1.0], aug="fixed", p=0.2, total_kimg=1.0)
    assert {p["run"].name: p["fields"] for p in Study(tmp_path).points} == {
        "n": {"aug": "noaug"},
        "a": {"aug": "ada", "p": 0.0},
        "f": {"aug": "fixed", "p": 0.2},
    }


def test_other_data_is_a_field_too(tmp_path):
    fake_run(tmp_path / "a", 0, [1.0], data="steel")
    fake_run(tmp_path / "b", 0, [1.0], data="alloy")
    assert [p["label"] for p in Study(tmp_path).points] == ["data alloy", "data steel"]


def test_best_first_per_run_then_over_seeds(folder):
    rows = {row["value"]: row for row in Study(folder).best_table(NAME)}
    assert list(rows) == [0.3, 0.7, "noaug"]
    row = rows[0.3]
    assert (
        row["best"] == [3.0, 2.0, 6.0]
        and row["best_kimg"] == [8.0, 16.0, 8.0]
        and row["end"] == [4.0, 2.0, 6.0]
        and row["seeds"] == [0, 1, 2]
    )
    assert (row["best_lo"], row["best_med"], row["best_hi"]) == (2.0, 3.0, 6.0) and (
        row["end_lo"],
        row["end_med"],
        row["end_hi"],
    ) == (2.0, 4.0, 6.0)
    assert rows[0.7]["best_med"] == rows[0.7]["end_med"] == 2.5  # what is not a number is left out
    text = table_text(list(rows.values()), NAME)
    assert "ada_target 0.3" in text and "3 (2 to 6)" in text and len(text.splitlines()) == 4


def test_larger_values_of_recall_are_better(tmp_path):
    fake_run(tmp_path / "a", 0, [0.1, 0.5, 0.2], metric="inception_pr503_full_recall")
    assert Study(tmp_path).best_table("inception_pr503_full_recall")[0]["best"] == [0.5]
    assert [
        higher_is_better(m) is True
        for m in (
            "fid50k_full",
            "pr50k3_full_recall",
            "is50k",
            "lite0_fd500_holdout",
            "kid50k_full",
            "lite0_pr2k3_full",
        )
    ] == [False, True, True, False, False, True]


def test_bands_are_of_the_runs_that_have_got_there(folder):
    study = Study(folder)
    bands = study.bands(NAME)
    kimg, lo, med, hi = bands[0.3]
    assert (
        kimg.tolist() == [0, 8, 16]
        and lo.tolist() == [7, 3, 2]
        and med.tolist() == [8, 5, 3]
        and hi.tolist() == [9, 6, 4]
    )
    assert bands[0.7][0].tolist() == [0, 8] and list(bands) == [0.3, 0.7, "noaug"]
    assert list(study.bands(NAME, axis="aug")) == ["ada_target 0.3", "ada_target 0.7", "noaug"]
    kimg, lo, med, hi = study.stat_bands("Progress/augment")[0.3]
    assert kimg.tolist() == [0, 8, 16] and np.allclose(hi, [0, 0.2, 0.2]) and np.allclose(lo, 0)


def test_what_was_judged_differently_is_not_compared(folder):
    path = folder / "e" / f"metric-{NAME}.jsonl"
    path.write_text(path.read_text().replace('"num_real": 50', '"num_real": 40'))
    for read in (Study(folder).bands, Study(folder).best_table):
        with pytest.raises(BadInput, match="num_real is 40 and 50"):
            read(NAME)
    with pytest.raises(BadInput, match="no records of fid50k_full: it knows random_fd50_full"):
        Study(folder).bands("fid50k_full")


def test_a_study_is_read_while_it_grows(folder):
    study = Study(folder)
    fake_run(folder / "z", 1, [5.0], ada_target=0.7)
    assert len(study.points) == 6 and study.bands(NAME)[0.7][1].tolist() == [5.0, 2.5]


def test_samples_near_a_moment(finished, folder):
    run = finished.points[0]["run"]
    images, kimg = read_samples(run)
    assert images.shape == (16, 16, 16) and images.dtype == np.uint8 and kimg == 0.064
    first, early = read_samples(run, kimg=0.0, n=3)
    assert early == 0.008 and len(first) == 3 and not np.array_equal(first, images[:3])
    assert read_samples(folder / "a") is None
    strip = np.arange(16, dtype=np.uint8).repeat(16)[None].repeat(16, 0)  # one row, as shipped
    Image.fromarray(strip).save(folder / "a" / "fakes000008.png")
    images, kimg = read_samples(folder / "a", kimg=99, n=20)
    assert kimg == 8 and images[:, 0, 0].tolist() == list(range(16))


# -- what leaked
# ------------------------------------------------------------------------------------------------------------


def test_leaks_of_runs_stand_beside_their_p(finished, archive, tmp_path):
    runs = [point["run"] for point in finished.points]
    found = leaks([runs[0], runs[-1]], images=40)
    assert [one["run"] for one in found] == [str(runs[0]), str(runs[-1])] and all(one["kimg"] == 0.064 for one in found)
    for one in found:
        last = [s for s in read_stats(one["run"]) if s["Progress/kimg"]["mean"] == 0.064][-1]
        assert one["p"] == last["Progress/augment"]["mean"] and (one["num_real"], one["num_gen"]) == (40, 40)
        assert (
            abs(sum(one["real"]) - 1) < 1e-9
            and one["leaks"]["grey"]["value"] >= 0
            and one["verdict"] in ("leak", "none", "unlike", "collapsed")
            and one["text"]
        )
    assert found == leaks([runs[0], runs[-1]], images=40)  # its random numbers are its own
    every = leaks(runs[0], images=8, all_snapshots=True)
    assert [one["kimg"] for one in every] == sorted({one["kimg"] for one in every}) and len(every) > 1
    with pytest.raises(BadInput, match="no snapshot yet"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text((runs[0] / "config.json").read_text())
        leaks(tmp_path / "run")
