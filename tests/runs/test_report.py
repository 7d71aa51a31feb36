"""Chapters 90, 91 and 92: the report of a small demo is one file that opens offline and says what was found and what was
not."""

import base64
import hashlib
import io
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from made_up_sets import archive_of
from semgan_nb.launch import evaluate
from semgan_nb.cli import main
from semgan_nb.reference_sets import REFERENCE_SETS
from semgan_nb.foundation import BadInput
from semgan_nb.synthetic_sets import prepare_synthetic
from semgan_nb.report import RUNG_WORDS, write_report
from semgan_nb.demo_result import write_walk, read_demo
from semgan_nb.runs import Config, read_metrics
from semgan_nb.training import train

TINY = dict(total_kimg=0.128, kimg_per_tick=0.064, snap=1, z_dim=16, w_dim=16, channel_base=128, channel_max=16)
VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """What a page refers to, its headings, its ids, its pictures; refuses tags that are not closed in order."""

    def __init__(self, path):
        super().__init__()
        self.text, self.open, self.references, self.headings, self.ids, self.alts, self.words = (
            path.read_text(encoding="utf-8"),
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.feed(self.text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.references += [
            attributes[name] for name in ("src", "href", "srcset", "poster", "action", "data") if name in attributes
        ]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.alts += [attributes.get("alt", "")] if tag == "img" else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def plain(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def contents(page, kind):
    return [
        base64.b64decode(reference.partition(",")[2], validate=True)
        for reference in page.references
        if reference.startswith(f"data:{kind}")
    ]


@pytest.fixture(scope="module")
def finished(demo_run):
    """A demo on quarters of six shipped micrographs, and what it said."""
    return demo_run


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """The folder of a demo without a distance and without a film."""
    folder = tmp_path_factory.mktemp("synthetic")
    prepare_synthetic(folder / "data.zip", size=16, n_images=80, n_specimens=20)
    list(train(Config(**TINY, metrics=("none",), aug="noaug"), folder / "data.zip", folder / "run"))
    return folder


def test_the_demo_writes_a_report_and_a_film_and_says_where(finished):
    out, found, words = finished
    assert found["report"] == str(out / "report.html") and found["report"] in words and str(out / "walk.mp4") in words
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out / "walk.mp4"))
    assert frames == 1440 and seconds == pytest.approx(60, abs=0.1)


def test_one_file_that_fetches_nothing(finished):
    page = Page(finished[0] / "report.html")
    inside = [reference for reference in page.references if not reference.startswith("#")]
    assert inside and all(reference.startswith("data:") for reference in inside)
    assert not re.search(r"<script|@import|url\(|style=", page.text)
    style = re.search("<style>(.*?)</style>", page.text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert (
        re.search('http-equiv="Content-Security-Policy" content="(.*?)"', page.text)[1].replace("&#39;", "'")
        == f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'; base-uri 'none';"
        " form-action 'none'"
    )
    assert all(reference[1:] in page.ids for reference in page.references if reference.startswith("#"))
    assert len(page.ids) == len(set(page.ids))


def test_all_pictures_and_the_film_can_be_decoded(finished):
    out, *_ = finished
    page = Page(out / "report.html")
    pngs, svgs, (film,) = contents(page, "image/png"), contents(page, "image/svg+xml"), contents(page, "video/mp4")
    for png in pngs:
        picture = Image.open(io.BytesIO(png))
        assert np.ptp(np.asarray(picture.convert("L"))) > 50 and picture.width >= 900
    for svg in svgs:
        assert (
            ElementTree.fromstring(svg).tag.endswith("svg")
            and b"prefers-color-scheme:dark" in svg
            and b"http://" not in re.sub(rb'xmlns(:\w+)?="[^"]*"', b"", svg)
        )
    assert len(pngs) == 5 and len(svgs) == 10, "examples, real, generated, z or noise, walk; five charts in two widths"
    assert film == (out / "walk.mp4").read_bytes()
    assert len(page.alts) == 10 and all(len(alt) > 15 for alt in page.alts)


def test_it_says_in_words_what_was_found_and_what_not(finished):
    out, found, _ = finished
    page = Page(out / "report.html")
    assert (
        page.headings[0] == 1
        and page.headings.count(1) == 1
        and all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:]))
    )
    text = page.plain
    assert "What these results do not show" in text and "What it does not show" in text
    for words in (
        "Not the paper’s numbers",
        "Not FID",
        "One run",
        "Nothing about fractions of specimens",
        "No lengths",
        "held out",
        "In 2 walks of 24 frames between micrographs that are",
    ):
        assert words in text, words
    part = found["metrics"]["random_fd50_holdout"]
    assert f"{part['value']:.3g}" in text and all(rung["name"] in text for rung in part["ladder"]["rungs"])
    assert f"{found['physics']['fraction']['difference']:.3f}" in text
    for group in read_demo(out).archive.groups:
        assert group in text
    assert "0.256 thousand real images" in text and "torch" in text and "r1_gamma" in text


def test_every_rung_of_a_ladder_has_words():
    assert RUNG_WORDS.keys() == REFERENCE_SETS.keys() and all(len(words) > 20 for words in RUNG_WORDS.values())


def test_physics_and_copies_are_told_and_how_to_get_them_where_they_are_not(finished, tmp_path):
    text = Page(finished[0] / "report.html").plain
    for name in ("aligned_memory500_subset", "micro2k_full"):
        assert f"semgan metrics run --data data.zip --metrics {name}" in text
    assert "nobody looked for copies" in text and "were not measured" in text
    assert "It was not measured: semgan metrics run --data data.zip --metrics latent_share" in text
    out = tmp_path / "demo"
    shutil.copytree(finished[0], out)
    evaluate(
        out / "run",
        ["aligned_memory30_subset", "micro30_full", "random_pr303_full", "latent_share16", "augment_leak30_subset"],
        data=out / "data.zip",
        progress=False,
    )
    (out / "run" / "metric-lite9_fd500_full.jsonl").write_text("{")  # of a newer version
    asked = [
        "metrics",
        str(out / "run"),
        "--data",
        str(out / "data.zip"),
        "--pairs",
        str(tmp_path / "new" / "pairs.png"),
        "--metrics",
    ]
    assert main([*asked, "aligned_memory30_subset"]) == 0 and Image.open(tmp_path / "new" / "pairs.png").width > 800
    assert main([*asked, "random_fd50_holdout"]) == 2  # no pairs are known to it
    demo = read_demo(out)
    marked = demo.archive.manifest["sources"][0]
    marked["marks"] = 0.013
    page = Page(write_report(demo))
    assert (
        f"{marked['file']}1.3 %" in page.plain.replace(f"{marked['file']} 1.3 %", f"{marked['file']}1.3 %")
        and "In 1 file something was found that is not specimen" in page.plain
        and "were left out" in page.plain
    )
    text, records = page.plain, {name: found[-1] for name, found in read_metrics(out / "run").items()}
    assert (
        records["aligned_memory30_subset"]["text"].split(" are more like")[0] in text
        and records["micro30_full"]["worst"]
    )
    once = lambda words: len(re.findall(rf"(?<![\d.\w]){re.escape(words)}(?![\d\w])", text)) == 1
    assert "metric-lite9_fd500_full.jsonl: no metric that this version knows, so it is left out" in text
    assert (
        once(f"{records['micro30_full']['results']['micro30_full']:.3g} times as far from the real ones")
        and "farthest is the" in text
    )
    assert all(once(name) for name in records if name != "latent_share16"), "each metric's own name"
    assert records["augment_leak30_subset"]["text"] in text
    said = records["latent_share16"]["text"]
    assert (
        f"{said[0].upper()}{said[1:]}." in text
        and "who decides (explained below)" in text
        and "intraclass correlation" in text
    )
    assert "semgan metrics run" not in text and "nobody looked" not in text and "most alike pairs" in text
    assert "the distance begins at" in text and "recall of 30 images beside" in text and "no sign of them" in text
    physics = demo.physics
    assert once(f"{physics['fraction']['difference']:.3f}") and once(f"{10 ** physics['spectrum']['largest']:.2f}")
    assert (
        "distance of 30 images" not in text
        and "Distance to real images: " + f"{records['random_fd50_holdout']['results']['random_fd50_holdout']:.3g}"
        in text
    )


def test_it_can_be_written_again_from_the_folder_alone(finished, tmp_path, monkeypatch):
    out, *_ = finished
    before = (out / "report.html").read_bytes()
    shutil.copytree(out, tmp_path / "moved")
    (tmp_path / "moved" / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    assert write_report("moved").read_bytes() == before


def test_an_archive_with_pixel_size_and_a_run_without_distance(synthetic):
    page = Page(write_report(synthetic))
    text = page.plain
    assert "synthetic dual-phase steel" in text and page.text.count('class="scale"') == 5 and re.search(r"\d µm", text)
    assert "No distance was measured" in text and "aug=noaug" in text and "No real steel" in text
    assert "Not FID" not in text and "No lengths" not in text and "Phase fraction in each of the 20 groups" in text
    assert not contents(page, "video") and "walk.mp4" not in text


def test_a_large_film_is_linked_and_an_old_one_filmed_again(synthetic):
    import os

    film = write_walk(synthetic, progress=False, frames=48)
    with open(film, "ab") as more:
        more.write(bytes(3_000_000))
    page = Page(write_report(synthetic))
    assert "walk.mp4" in page.references and not contents(page, "video")
    os.utime(film, (1, 1))
    assert write_walk(synthetic, progress=False, frames=48).stat().st_size < 3_000_000


def test_a_run_that_was_stopped_and_colour_and_strange_names(tmp_path):
    """Words from outside are text, never HTML."""
    images = np.random.RandomState(0).randint(0, 256, (40, 16, 16), dtype=np.uint8)
    archive_of(
        tmp_path / "data.zip",
        images,
        dict(
            intensity="normalise",
            reference="<script>alert(1)</script>",
            synthetic="",
            odd="<img src=x onerror=alert(1)>\u202e",
            window=8,
            stride=4,
            median=3,
        ),
        source="<b>noise</b>",
        group="<i>g{}",
    )
    (tmp_path / "demo.json").write_text('{"data": "A<script>B"}')
    for _ in train(Config(**TINY, metrics=()), tmp_path / "data.zip", tmp_path / "run"):
        break
    page = Page(write_report(tmp_path))
    assert "It was not finished" in page.plain and "A<script>B" in page.plain and "Nothing was held out" in page.plain
    assert (
        "<script" not in page.text
        and "<i>g" not in page.text
        and "<img src=x" not in page.text
        and "\u202e" not in page.text
        and r"\u202e" in page.plain
    )


def test_faults_are_one_sentence(finished, synthetic, tmp_path):
    with pytest.raises(BadInput, match="no data.zip"):
        write_report(tmp_path)
    shutil.copy(synthetic / "data.zip", tmp_path / "data.zip")
    with pytest.raises(BadInput, match="no run"):
        write_report(tmp_path)
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    with pytest.raises(BadInput, match="not the archive"):
        write_report(tmp_path)
