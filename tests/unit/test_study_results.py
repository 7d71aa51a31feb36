"""Chapters 76, 81 and 96: tables, figures and the page of studies whose truth is known."""

import csv
import html
import io
import re
import shutil
import sys
import types

import numpy as np
import pytest
from command import said, say
from markupsafe import Markup
from made_up_runs import DISTANCE, DIVERSITY, PAPER_STUDIES, PHYSICS, made_up_study

from semgan_nb import study_plots, study_report
from semgan_nb.plots import as_png
from semgan_nb.runs import read_metrics
from semgan_nb.studies import _own_folder
from semgan_nb.study_report import write_study
from semgan_nb.texts import csv_text
from semgan_nb.study_results import (
    StudyPart,
    curve_rows,
    difference_rows,
    differences,
    frame,
    paired_values,
    results_of,
    run_rows,
    setting_order,
    setting_rows,
    size_fit,
    step_of,
    tradeoff,
)

RECALL = f"{DIVERSITY}_recall"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    "The paper's three studies as made-up records: axis -> folder."
    place = tmp_path_factory.mktemp("studies")
    return {axis: made_up_study(place / axis, axis) for axis in PAPER_STUDIES}


@pytest.fixture
def no_charts(monkeypatch):
    "Pages whose charts are made and not drawn, which takes most of the time of a page."
    monkeypatch.setattr(study_report, "chart_html", lambda figure, alt, **_: Markup("<figure>{}</figure>").format(alt))


def best(folder, run, result):
    values = [record["results"][result] for record in read_metrics(folder / run)[result.removesuffix("_recall")]]
    return max(values) if result.endswith("_recall") else min(values)


def test_tables_are_what_the_records_say(studies):
    folder = studies["ada_target"]
    rows = {(row["run"], row["result"]): row for row in run_rows(folder)}
    for result in (DISTANCE, RECALL, PHYSICS):
        for run in ("ada_target=0.3-seed0", "ada_target=0.9-seed2"):
            row = rows[run, result]
            assert row["best"] == best(folder, run, result) and row["images"] == 3000
    of = [row for row in setting_rows(folder) if row["setting"] == "0.5" and row["result"] == RECALL]
    values = [best(folder, f"ada_target=0.5-seed{seed}", RECALL) for seed in range(3)]
    assert (of[0]["best_min"], of[0]["best_median"], of[0]["best_max"]) == (min(values), np.median(values), max(values))
    assert len(curve_rows(StudyPart(folder, settings=[0.5]))) == 7 * 4  # moments and results
    assert len(difference_rows(StudyPart(folder, settings=[0.3, 0.5, 0.9]))) == 3 * 4


def test_recall_at_the_best_distance_is_of_that_snapshot(studies):
    folder, run = studies["ada_target"], "ada_target=0.6-seed1"
    metrics = read_metrics(folder / run)
    snapshot = min(metrics[DISTANCE], key=lambda record: record["results"][DISTANCE])["snapshot_pkl"]
    by_hand = next(r["results"][RECALL] for r in metrics[DIVERSITY] if r["snapshot_pkl"] == snapshot)
    assert paired_values(folder, RECALL, at=DISTANCE)[0.6][1,] == by_hand
    row = next(row for row in run_rows(folder) if row["run"] == run and row["result"] == RECALL)
    assert row["at_best_distance"] == by_hand <= row["best"] and step_of(folder, RECALL) == 1 / 500


def test_a_table_comes_back_from_csv_and_is_a_frame_where_pandas_is(studies, monkeypatch):
    rows = setting_rows(studies["subset"])
    back = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [float(row["best_median"]) for row in back] == [row["best_median"] for row in rows]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert "pip install pandas" in said(frame, rows)
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert frame(rows) == ("frame", rows)


def test_lines_through_sizes_find_the_papers(studies):
    for of in ("medians", "runs"):
        distance, recall = size_fit(studies["subset"], of=of), size_fit(studies["subset"], RECALL, of=of)
        assert (
            distance.scale == "log10"
            and recall.scale == "sqrt"
            and len(distance.sizes) == (6 if of == "medians" else 18)
        )
        assert distance.line.slope_low < -13.96 < distance.line.slope_high
        assert recall.line.slope == pytest.approx(0.005615, rel=0.15)
    of_e, of_2 = (size_fit(studies["subset"], scale=scale).line.slope for scale in ("ln", "log2"))
    assert of_2 == pytest.approx(of_e * np.log(2)) and of_e * np.log(10) == pytest.approx(
        size_fit(studies["subset"]).line.slope
    )
    assert "two different sizes" in said(size_fit, studies["ada_target"])
    assert "medians or runs" in said(size_fit, studies["subset"], None, None, "means")


def test_settings_are_paired_by_seed_and_by_further_fields(tmp_path):
    for target in (0.3, 0.5):
        made_up_study(tmp_path, "subset", {size: (30 - 9 * target, 0.4) for size in (50, 100)}, seeds=2)
        for run in list(tmp_path.glob("subset=*")):
            text = (run / "config.json").read_text()
            (run / "config.json").write_text(re.sub(r'"ada_target": [\d.]+', f'"ada_target": {target}', text))
            run.rename(tmp_path / f"ada_target={target},{run.name}")
    values = paired_values(StudyPart(tmp_path, axis="ada_target"), DISTANCE)
    assert list(values) == [0.3, 0.5] and sorted(values[0.3]) == sorted(values[0.5])
    assert len(values[0.3]) == 4 and (1, ("subset", "100")) in values[0.3]
    assert differences(StudyPart(tmp_path, axis="ada_target"), DISTANCE)[0].seeds == 4
    held = paired_values(StudyPart(tmp_path, axis="ada_target", where=dict(subset=50)), DISTANCE)
    assert sorted(held[0.5]) == [(0, ("subset", "50")), (1, ("subset", "50"))]


def test_the_best_target_is_found_where_it_is_and_not_where_it_is_not(tmp_path):
    truth = {0.3: (30, 0.3), 0.5: (10, 0.6), 0.7: (30, 0.3)}
    clear = made_up_study(tmp_path / "clear", "ada_target", truth, seeds=4, scatter=0.01)
    measures, advice = tradeoff(clear)
    assert list(measures) == [DISTANCE, RECALL, PHYSICS] and advice.remain == advice.front == [0.5]
    assert advice.text.startswith("Take target 0.5: target 0.5 is shown to be better than target 0.3 and target 0.7")
    equal = made_up_study(tmp_path / "equal", "ada_target", dict.fromkeys(truth, (30, 0.3)), seeds=2)
    assert tradeoff(equal)[1].text.startswith("Not distinguishable with these seeds")


def test_noaug_comes_first_among_augmentations_and_medians_are_black(studies):
    assert setting_order(["cutout", "bright", "noaug", "blit"], "augpipe") == ["noaug", "blit", "bright", "cutout"]
    axes = study_plots.best_values(studies["augpipe"]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(PAPER_STUDIES["augpipe"])
    assert [line.get_color() for line in axes.lines[::2]] == [
        f"tab:{c}" for c in "blue orange green red purple brown pink".split()
    ]
    assert {line.get_color() for line in axes.lines[1::2]} == {"black"}


@pytest.mark.parametrize("name", [RECALL, DIVERSITY])
def test_recall_has_a_linear_axis_and_its_name(studies, name):
    top = study_plots.bands(studies["subset"], name).axes[0]
    assert top.get_yscale() == "linear" and top.get_ylabel().startswith("recall\n") and len(top.lines) == 6
    axes = study_plots.best_values(studies["subset"], name, log=True).axes[0]
    medians = [line.get_ydata()[0] for line in axes.lines[1:12:2]]
    assert medians == [np.median(list(v.values())) for v in paired_values(studies["subset"], RECALL).values()]
    assert axes.get_yscale() == "linear" and "at the best distance" in axes.get_legend().get_texts()[0].get_text()
    assert "no records of fid50k" in said(study_plots.bands, studies["subset"], "fid50k_full")


def test_samples_are_of_the_median_run_at_its_best(studies):
    folder = studies["subset"]
    rows = study_plots.sample_rows(StudyPart(folder, settings=[10]))
    values = {seed: best(folder, f"subset=10-seed{seed}", DISTANCE) for seed in range(3)}
    seed = sorted(values, key=values.get)[1]
    assert f"10 images: best distance {values[seed]:.3g}, best recall" in rows[0][1] and f"seed {seed} at" in rows[0][1]
    assert rows[0][0].shape == (8, 1, 32, 32)


def test_figures_are_the_same_from_a_copy_elsewhere(studies, tmp_path):
    chosen = dict(settings=[100, 3000])
    figures = (study_plots.bands, study_plots.best_values, study_plots.best_samples, study_plots.size_lines)
    copy = shutil.copytree(studies["subset"], tmp_path / "other" / "subset")
    for draw in (*figures, study_plots.tradeoff_figure):
        assert as_png(draw(copy, **chosen)) == as_png(draw(studies["subset"], **chosen)), draw.__name__


def words(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


def test_a_page_has_the_papers_values_beside_the_studys(tmp_path, no_charts):
    truth = {name: PAPER_STUDIES["augpipe"][name] for name in ("noaug", "blit", "geom")}
    folder = made_up_study(tmp_path / "a", "augpipe", truth, seeds=2, kimgs=(0, 96), skip=(PHYSICS,))
    page, medians = write_study(folder), {row["setting"]: row["best_median"] for row in setting_rows(folder)[::3]}
    below = [100 * (1 - medians[name] / medians["noaug"]) for name in ("blit", "geom")]
    rows = re.findall(
        r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", page.read_text()
    )
    here = {what: (paper, ours, where) for what, paper, ours, where in rows}
    paper, ours, where = here["blit and geom below no augmentation"]
    assert paper == "about 77 %" and ours == f"{below[0]:.0f} %, {below[1]:.0f} %" and "Which augmentations" in where
    assert here["electricity of all runs"][:2] == ("about 17 MWh", "0.576 kWh")
    assert [here[f"best FID of {n} images"][:2] for n in (1000, 3000)] == [("13.25", "–"), ("6.59", "–")]
    for text in (
        "InceptionV3, 50000 generated",
        "lite0, 500 generated against 500",
        "512 px",
        "32 px",
        "25000 kimg",
        "96 kimg",
    ):
        assert text in words(page)
    assert sorted(p.name for p in page.parent.glob("report*")) == sorted(
        ["report.html", *(f"report-{name}.csv" for name in ("runs", "settings", "curves", "differences"))]
    )


def test_the_page_of_a_study_that_is_not_done_says_so(tmp_path, no_charts):
    folder = made_up_study(tmp_path / "<b>&", "ada_target", {0.5: (9, 0.4)}, seeds=1, kimgs=(), state="failed")
    text = write_study(folder).read_text(encoding="utf-8")
    assert "Nothing was evaluated yet" in text and "<b>&" not in text and "&lt;b&gt;&amp;" in text


def test_what_was_judged_differently_is_a_sentence_on_the_page(tmp_path, no_charts):
    folder = made_up_study(
        tmp_path / "s", "ada_target", {0.3: (9, 0.4), 0.5: (9, 0.4)}, seeds=1, kimgs=(0, 96), skip=(PHYSICS, DIVERSITY)
    )
    file = folder / "ada_target=0.5-seed0" / f"metric-{DISTANCE}.jsonl"
    file.write_text(file.read_text().replace('"num_real": 500', '"num_real": 100'))
    page = write_study(folder)
    assert "were judged differently" in words(page) and (folder / "report-curves.csv").read_text() == "empty\n"


def test_the_report_from_the_command_line(tmp_path, monkeypatch, no_charts):
    monkeypatch.chdir(tmp_path)
    made_up_study(tmp_path / "s", "ada_target", {0.3: (9, 0.4)}, seeds=1, kimgs=(0, 96), skip=(PHYSICS,))
    status, out, _ = say("study", "report", "s")
    assert status == 0 and "1 runs, 1 done" in out and f"{DIVERSITY}_recall" in out and "report.html: the page" in out
    assert say("study", "report", "s")[0] == 0  # its own page is replaced
    _own_folder(tmp_path / "s")  # and does not keep these runs from being made a study
    (tmp_path / "mine.html").write_text("mine")
    (tmp_path / "new-runs.csv").write_text("mine")
    for out in ("mine.html", "new.html"):
        status, _, err = say("study", "report", "s", "--out", out)
        assert status == 2 and "is there already" in err and not (tmp_path / "mine-runs.csv").exists()
    assert say("study", "report", "s", "--out", "mine.html", "--overwrite")[0] == 0
    assert say("study", "report", "s", "--out", "f.html", "--figures", "svg")[0] == 0
    names = ["best", "curves"]
    assert sorted(p.name for p in tmp_path.glob("f-*.svg")) == sorted(
        [f"f-{name}-{result}.svg" for name in names for result in (DISTANCE, RECALL)] + ["f-samples.svg"]
    )
    assert "ends in .html" in say("study", "report", "s", "--out", "page.pdf")[2]
    assert "study report FOLDER" in say("study", "table", "s")[2]
    assert "holds no study" in say("study", "report", str(tmp_path / "nothing"))[2]


def test_a_study_with_one_setting_or_one_seed_has_a_page(tmp_path, no_charts):
    folder = made_up_study(
        tmp_path / "s", "subset", {100: (9, 0.4), 500: (5, 0.5)}, seeds=1, kimgs=(0, 96), skip=(PHYSICS,)
    )
    text = words(write_study(folder))
    assert "No two settings share two seeds" in text and "If the line went on, 1000 images instead of 500" in text
    assert results_of(folder) == [DISTANCE, RECALL, f"{DIVERSITY}_precision"]


def test_a_study_of_several_fields_is_read_along_one_of_them(tmp_path, monkeypatch, no_charts):
    made_up_study(tmp_path, "subset", {50: (30, 0.4), 100: (20, 0.4)}, seeds=1, kimgs=(0, 96), skip=(PHYSICS,))
    for target, run in zip((0.3, 0.5), sorted(tmp_path.glob("subset=*"))):
        text = (run / "config.json").read_text()
        (run / "config.json").write_text(re.sub(r'"ada_target": [\d.]+', f'"ada_target": {target}', text))
    monkeypatch.chdir(tmp_path)
    assert "subset 100, ada_target 0.3" in words(write_study(tmp_path))
    status, _, err = say("study", "report", ".", "--axis", "p")
    assert status == 2 and "no runs differ in 'p', only in ada_target, subset" in err
    assert say("study", "report", ".", "--axis", "subset")[0] == 0
    assert "50 images, 100 images" in words(tmp_path / "report.html")
    assert "--axis is for the page" in say("study", "sweep", "no.zip", "--axis", "subset")[2]
