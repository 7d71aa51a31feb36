"""Other people's folders: whatever is in their files ends in a sentence, takes no more memory than it has bytes, and
acts on no screen."""

import contextlib
import copy
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from made_up_runs import METRIC, made_up_run, random_snapshot
from command import said, say

from semgan_nb import plots, files
from semgan_nb.checkpoints import digest, load, load_state, save_state
from semgan_nb.dashboards.study import _study_html
from semgan_nb.archives import MANIFEST, png, write_archive
from semgan_nb.dataset import Dataset
from semgan_nb.foundation import BadInput, Rule, plain_label
from semgan_nb.latent import judged_images
from semgan_nb.official import file_lines
from semgan_nb.files import DAMAGED
from semgan_nb.opening import RunWriter
from semgan_nb.runs import STATS, Config, read_config, read_metrics, read_status
from semgan_nb.scores import alike_pairs
from semgan_nb.studies import Study, study_text
from semgan_nb.widgets import safe

MARKUP = "<img src=x onerror=alert(1)>"
HUGE = int("9" * 250)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("runs") / "run", kimgs=(0, 16))


@contextlib.contextmanager
def goes_on(run):
    about = read_config(run)
    writer = RunWriter(run, Config.from_dict(about["resolved"]), about["data"])
    yield writer
    writer.close("done")


def refused(rule, value):
    try:
        rule(value, "x")
    except files.Unfit as wrong:
        return f"{wrong.args[0]} is {files.in_words(wrong.args[1])}, it must be {wrong.args[2]}"


def test_a_rule_says_what_is_wrong():
    table = files.fields(
        dict(kimg=files.number(0), state=files.one_of("running", "done")),
        dict(pid=files.whole(), worst=files.list_of(files.TEXT), results=files.table_of(files.number(finite=False), 1)),
    )
    assert refused(table, dict(kimg=1, state="done", results=dict(fd=float("nan")), more=[])) is None
    assert refused(table, dict(kimg=float("nan"), state="done")) == "x.kimg is NaN, it must be a number of 0 or more"
    assert (
        refused(table, dict(kimg=True, state="done")).startswith("x.kimg is true")
        and refused(table, []) == "x is a list of 0, it must be an object"
    )
    assert refused(table, dict(kimg=1, state="<b>")) == "x.state is '<b>', it must be running or done"
    assert (
        refused(table, dict(kimg=1, state="done", worst=["a", "\ud800"]))
        == "x.worst[1] is '\\ud800', it must be a text without halves of characters"
    )
    assert refused(table, dict(kimg=1, state="done", results={})) and refused(
        table, dict(kimg=1, state="done", pid=10**250)
    ).startswith("x.pid is a number of 251 digits")
    assert (
        refused(files.optional(files.whole()), -1) == "x is -1, it must be a whole number of 0 or more, or null"
        and refused(files.PIXEL_SIZE, [1, 0])
        and not refused(files.PIXEL_SIZE, 20.5)
    )
    assert (
        refused(table, dict(kimg=1e300, state="done"))
        == "x.kimg is 1e+300, it must be a number of 0 or more, at most 1e+15"
        and refused(files.number(), -1e16).endswith("a number, at least -1e+15")
        and refused(files.number(0, 1), 2) == "x is 2, it must be a number from 0 to 1"
    )
    assert refused(files.number(finite=False), 10**301).endswith(
        "it must be a number, at most 9.22337e+18"
    ) and not refused(files.number(finite=False), float("inf"))
    assert (
        refused(files.text(3), "abcd").endswith("a text of at most 3 characters")
        and refused(files.table_of(files.TEXT), {"\ud800": ""})
        == "a name in x is '\\ud800', it must be a text without halves of characters"
    )
    assert (
        refused(files.either(files.TEXT, files.table_of(files.number())), dict(a="b"))
        == "x.a is 'b', it must be a number"
        and refused(files.either(files.TEXT, files.table_of(files.number())), 3)
        == "x is 3, it must be a text or an object"
    )
    side = files.of_rule(Rule(int, 8, 64, "px", only="power of two", also=(None,)))
    assert (
        not refused(side, 16)
        and not refused(side, None)
        and refused(side, 24)
        == "x is 24, it must be a power of two from 8 to 64 px, or none; the nearest are 16 and 32"
        and refused(side, 16.0)
    )
    deep = 1
    for _ in range(100):
        deep = [deep]
    assert "less deeply" in refused(files.PLAIN, deep) and refused(files.PLAIN, dict(a=[1, None, "b"])) is None


def put(value, path, new):
    "The value with another one at a path of keys; with new=... without it."
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if new is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return json.dumps(copy)


BROKEN = dict(
    empty="",
    cut='{"a": [1, 2',
    text="not JSON",
    null="null",
    number="3",
    list="[]",
    deep="[" * 100_000,
    deeper='{"a":' * 100_000,
    digits='{"kimg": ' + "1" * 5000 + "}",
    other="[[1]]",
    nothing="{}",
)
WRONG = {
    "config.json": (
        [((name,), new) for name in ("resolved", "data", "requested") for new in (..., None, [], "x", 3)]
        + [
            (("resolved", name), new)
            for name in ("aug", "total_kimg", "seed", "ada_target")
            for new in ([], {}, HUGE, "\ud800", float("nan"))
        ]
        + [
            (("resolved", "aug"), ...),
            (("resolved", "metrics"), "auto"),
            (("resolved", "metrics"), [3]),
            (("data", "path"), 3),
            (("data", "resolution"), 0),
            (("data", "count"), "many"),
        ]
    ),
    "status.json": (
        [(("state",), new) for new in (..., None, 3, [], MARKUP)]
        + [(("kimg",), new) for new in (..., None, "x", HUGE, -1, float("inf"))]
        + [(("heartbeat",), "now"), (("message",), ["a"]), (("total_kimg",), float("nan"))]
    ),
    "stats.jsonl": (
        [(("Progress/kimg",), new) for new in (..., None, 3, {}, {"mean": "x"}, {"mean": HUGE})]
        + [(("Loss/signs/real",), [1])]
    ),
    f"metric-{METRIC}.jsonl": (
        [
            ((name,), new)
            for name in ("results", "kimg", "snapshot_pkl", "metric")
            for new in (..., None, [], HUGE, "\ud800")
        ]
        + [
            (("results", METRIC), "low"),
            (("results",), {}),
            (("results",), {MARKUP: 1}),
            (("snapshot_pkl",), "../../other.safetensors"),
            (("floor",), 3),
        ]
    ),
    f"ladder-{METRIC}.json": (
        [((name,), new) for name in ("metric", "rungs", "num_gen", "num_real") for new in (..., None, HUGE, MARKUP)]
        + [(("rungs", 0), 3), (("rungs", 0, "value"), None), (("rungs", 0, "name"), ["a"]), (("rungs", 0, "key"), ...)]
    ),
}


def refusal(run, name):
    "Status and sentence of the first reader of a file: the statistics are read by the curves only."
    if name == "stats.jsonl":
        try:
            return 0, plots.curves(run)
        except BadInput as error:
            return 2, str(error)
    status, _, err = say("info", run)
    return status, err.rstrip("\n")


@pytest.mark.parametrize("name", WRONG)
def test_a_damaged_file_of_a_run_is_a_sentence_that_names_it(run, name):
    path, whole = run / name, (run / name).read_text(encoding="utf-8")
    first, lines = (
        json.loads(whole.splitlines()[0]) if name.endswith("l") else json.loads(whole),
        (whole.splitlines(True)[1:] if name.endswith("l") else []),
    )
    try:
        for label, text in [
            *BROKEN.items(),
            *((f"{at} {str(new)[:20]}", put(first, at, new)) for at, new in WRONG[name]),
        ]:
            path.write_text("".join([text, "\n", *lines]), encoding="utf-8")
            if label == "empty" and name.endswith("l"):
                continue  # an empty line between others is none
            status, err = refusal(run, name)
            assert status == 2 and f"{path}" in err and "damaged" in err and "\n" not in err and len(err) < 600, (
                label,
                status,
                err,
            )
            if name.endswith("l"):
                assert f"{path}, line 1" in err or "metric" in err, err
    finally:
        path.write_text(whole, encoding="utf-8")
    assert say("info", run)[0] == 0


def test_a_metric_that_nobody_knows_is_left_out_and_its_name_is_quoted(run, tmp_path):
    copy = tmp_path / "s" / "base-seed0"
    shutil.copytree(run, copy)
    before = say("info", copy)[1]
    for name, text in (
        (MARKUP, "{"),
        ("a\x1b[31m\u202eb", "x" * 100),
        ("lite1_fd500_full", (copy / f"metric-{METRIC}.jsonl").read_text(encoding="utf-8")),
    ):
        (copy / f"metric-{name}.jsonl").write_text(text, encoding="utf-8")
    assert list(read_metrics(copy)) == [METRIC]
    words = (
        f"note: metric-{MARKUP}.jsonl, metric-a\\x1b[31m\\u202eb.jsonl, metric-lite1_fd500_full.jsonl: no metric that"
        " this version knows, so they are left out; a newer version may know more"
    )
    assert say("info", copy) == (0, f"{before.rstrip()}\n  {words}\n", "")
    text = study_text(tmp_path / "s")
    assert f"  {words}" in text.splitlines() and METRIC in text and plots.curves(copy)
    with goes_on(copy) as writer:  # a run that goes on leaves them as they are
        writer.trim(lambda nimg: nimg < 16000)
    assert len(read_metrics(copy)[METRIC]) == 1 and (copy / f"metric-{MARKUP}.jsonl").read_text(encoding="utf-8") == "{"


def test_what_a_record_of_latent_share_lacks_is_not_missed(tmp_path):
    run = made_up_run(tmp_path / "run", kimgs=(0,))
    record = dict(
        metric="latent_share",
        results={"latent_share_diversity": 2**63, "latent_share_ends": 0.5},
        kimg=0,
        snapshot_pkl="snapshot-000000.safetensors",
    )
    (run / "metric-latent_share.jsonl").write_text(json.dumps(record) + "\n")
    status, out, err = say("info", run)
    assert status == 0 and "latent_share_diversity: 9.223e+18" in out
    for number in (2**63 + 1, 10**40, -(2**64)):  # which NumPy cannot hold
        (run / "metric-latent_share.jsonl").write_text(
            json.dumps(record | dict(results={"latent_share_diversity": number})) + "\n"
        )
        status, _, err = say("info", run)
        assert status == 2 and "line 1: results.latent_share_diversity is" in err and "it must be a number, at " in err


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("w_dim", 16.0, "resolved.w_dim is 16.0, it must be a whole number from 1 to 16384"),
        ("channel_base", 3, "a whole number from 4 to 1048576"),
        ("g_lr", 25, "a number, more than 0 and at most 1"),
        ("noise_from", 12, "a power of two from 4 to 8192 px, or 0; the nearest are 8 and 16"),
        ("init_adapt", ["size"], "resolved.init_adapt[0] is 'size', it must be channels, resolution or mapping"),
        ("g_channels", [128, -3], "resolved.g_channels[1] is -3, it must be a whole number from 1 to 16384"),
        ("batch_gpu", 7, "batch_gpu is 7: it must be a divisor of batch_size (16)"),
        ("p", 0.9, "p is 0.9: it must be at most p_max (0.5)"),
    ],
)
def test_settings_in_a_file_follow_the_rules_of_settings(run, tmp_path, field, value, words):
    """One table: what a call and the command refuse, no reader of a run or a study takes, and the file is named."""
    about = json.loads((run / "config.json").read_text(encoding="utf-8"))
    about["resolved"] |= {"p_max": 0.5, field: value}
    copy, study = tmp_path / "r", tmp_path / "s"
    for folder in (copy, study):
        folder.mkdir()
    (copy / "config.json").write_text(json.dumps(about))
    assert (
        words in said(read_config, copy)
        and said(read_config, copy).startswith(f"{copy / 'config.json'}: ")
        and said(read_config, copy).endswith(DAMAGED)
    )
    (study / "study.json").write_text(json.dumps(dict(format=1, base=about["resolved"], points=[])))
    assert words.replace("resolved.", "base.") in said(
        Study, study
    ) and "delete it, the runs beside it say the same" in said(Study, study)


def test_a_setting_of_a_newer_version_and_a_metric_that_is_not_known_hinder_no_reader(run, tmp_path):
    about = json.loads((run / "config.json").read_text(encoding="utf-8"))
    about["resolved"] |= dict(d_dropout=0.5, metrics=["lite1_fd500_full"])
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert read_config(tmp_path)["resolved"]["d_dropout"] == 0.5


def test_a_study_goes_on_past_a_run_that_is_damaged(tmp_path):
    for seed in (0, 1):
        made_up_run(tmp_path / "s" / f"base-seed{seed}", kimgs=(0, 16), seed=seed)
    (tmp_path / "s" / "base-seed1" / "status.json").write_text("[]")
    text = study_text(tmp_path / "s")
    assert "1 done, 1 unreadable" in text and "status.json: it is a list" in text and METRIC in text
    for number, study in enumerate(
        [
            "[]",
            '{"format": 1, "base": {}, "points": [3]}',
            '{"format": 1, "base": {"aug": 3}, "points": []}',
            '{"format": 1, "base": {}, "points": [{"fields": {"no_such": 1}, "seeds": [0]}]}',
            "[" * 100_000,
        ]
    ):
        (tmp_path / "s" / "study.json").write_text(study)
        status, _, err = say("info", tmp_path / "s")
        assert status == 2 and "study.json" in err and "the runs beside it say the same" in err, (number, err)


@pytest.mark.parametrize(
    "worst", [None, [], "perimeter", [dict(image=3, train="a")], [dict(image=20, train="a", likeness=0.5)]]
)
def test_pairs_that_a_record_does_not_name_are_a_sentence(worst):
    pair, record = (
        dict(image=19, train="a", likeness=0.5),
        dict(metric="aligned_memory20_subset", snapshot_pkl="snapshot-000001.safetensors", num_gen=20),
    )
    assert alike_pairs(record | dict(worst=[pair] * 9)) == [pair] * 8
    assert (
        said(alike_pairs, record if worst is None else record | dict(worst=worst))
        == "a record of aligned_memory20_subset (snapshot-000001.safetensors) does not name its most alike pairs: the"
        " run directory is damaged"
    )


def test_of_a_million_judged_images_only_those_are_made_that_are_shown(tmp_path):
    G = load(random_snapshot(tmp_path / "s.safetensors", img_resolution=8)).G
    assert np.array_equal(judged_images(G, 10**6, [3, 60, 3]), judged_images(G, 100)[[3, 60, 3]])


# -- archives
# --------------------------------------------------------------------------------------------------------------


def packed(path, files, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return path


def image(side=16):
    return png(np.arange(side * side, dtype=np.uint32).reshape(side, side).astype(np.uint8))


def test_what_becomes_too_long_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMGAN_JSON_MB", "1")
    read = []
    monkeypatch.setattr(
        zipfile.ZipExtFile,
        "read",
        lambda self, n=-1, old=zipfile.ZipExtFile.read: read.append(old(self, n)) or read[-1],
    )
    for name, members in {
        "manifest": {"a.png": image(), "manifest.json": b" " * 2_000_000 + b"{}"},
        "labels": {"a.png": image(), "dataset.json": b" " * 2_000_000 + b"{}"},
        "image": {"a.png": image() + bytes(2_000_000)},
        "huge": {"a.png": bytes(80_000_000)},
    }.items():
        read.clear()
        with pytest.raises(BadInput, match="more than|damaged"):
            Dataset(packed(tmp_path / f"{name}.zip", members))
        assert name == "image" or max(map(len, read), default=0) < 1_000_000, name
    with pytest.raises(BadInput, match="packed by a method|damaged"):
        Dataset(packed(tmp_path / "lzma.zip", {"a.png": image()}, zipfile.ZIP_LZMA))
    monkeypatch.setenv("SEMGAN_JSON_MB", "4")
    assert len(Dataset(tmp_path / "manifest.zip")) == 1


def test_a_tile_that_would_fill_the_memory_is_refused_by_its_head(tmp_path):
    head = bytearray(image(8))
    head[16:24] = (1 << 15).to_bytes(4, "big") * 2
    import zlib

    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    with pytest.raises(BadInput, match="4096|damaged"):
        Dataset(packed(tmp_path / "a.zip", {"a.png": bytes(head)}))


@pytest.mark.parametrize(
    "field, value",
    [
        ("settings", []),
        ("settings", {"window": MARKUP}),
        ("settings", {"stride": [1]}),
        ("settings", {"median": "3"}),
        ("settings", {"bar_rows": 3}),
        ("settings", {"a": "\ud800"}),
        ("settings", {"a": HUGE}),
        ("images", [{"file": "a.png", "source": 3}]),
        ("images", [{"file": "a.png", "pixel_size_nm": HUGE}]),
        ("images", [{"file": "a.png", "pixel_size_nm": [1, -1]}]),
        ("images", [{"file": "a.png", "group": {}}]),
        ("images", [{"file": "a.png", "crop": "all"}]),
        ("images", [3]),
        ("images", {"a": 1}),
        ("images", [{"file": "\ud800"}]),
        ("images", [{"file": "a.png", "fraction": float("nan")}]),
        ("sources", [1]),
        ("reference", 3),
    ],
)
def test_an_odd_manifest_is_a_sentence(tmp_path, field, value):
    about = {"format": "semgan_nb archive", "version": 1, field: value}
    path = packed(tmp_path / "a.zip", {"a.png": image(), "manifest.json": json.dumps(about)})
    for command in (("info", path), ("train", path, "--dry-run"), ("phases", path, tmp_path / "p")):
        status, _, err = say(*command)
        assert status == 2 and "manifest.json" in err and field in err and err.count("\n") == 1, (command, err)


def test_labels_are_held_against_their_table(tmp_path):
    for labels in (
        3,
        [3],
        [["a.png"]],
        [[3, 1]],
        [["a.png", "x"]],
        [["a.png", [1, "x"]]],
        [["a.png", HUGE]],
        [["\ud800", 1]],
    ):
        with pytest.raises(BadInput, match="dataset.json"):
            Dataset(packed(tmp_path / "a.zip", {"a.png": image(), "dataset.json": json.dumps({"labels": labels})}))


def test_a_snapshot_with_an_odd_pixel_size_is_refused_by_every_verb(tmp_path):
    for number, size in enumerate([[1], ["a", "b"], "x", [0, 1], -3, [float("inf"), 1], {}, HUGE, True, [[1, 2]]]):
        path = random_snapshot(
            tmp_path / f"{number}.safetensors", img_resolution=16, channel_base=64, channel_max=8, pixel_size_nm=size
        )
        for command in (
            ("info", path),
            ("walk", path, "--out", tmp_path / "w.gif", "--frames", 2),
            ("phases", path, tmp_path / "p"),
        ):
            status, _, err = say(*command)
            assert status == 2 and "pixel_size_nm" in err and err.count("\n") == 1, (size, command, err)


# -- states
# ----------------------------------------------------------------------------------------------------------------


def odd_states():
    yield "stride 0", torch.zeros(1).expand(10**12)
    yield "overlaps", torch.zeros(5).as_strided((3, 3), (1, 1))
    yield "sparse", torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (2, 2), check_invariants=False)
    yield "meta", torch.empty(3, device="meta")
    yield "complex", torch.ones(2, dtype=torch.complex64)
    itself = []
    itself.append(itself)
    yield "itself", itself
    yield "a set", {1, 2}
    yield "a number of 300 digits", 10**300
    yield "bytes", bytearray(3)


@pytest.mark.parametrize("name, odd", list(odd_states()), ids=lambda value: value if isinstance(value, str) else "")
def test_odd_tensors_and_lists_are_refused_and_the_state_before_is_taken(tmp_path, name, odd):
    save_state(tmp_path / "state", dict(trainer=dict(cur_nimg=8), pending=False), 8)
    path = tmp_path / "state" / "state-000000000016.pt"
    torch.save(dict(sha256="0" * 64, state=dict(trainer=dict(cur_nimg=16, odd=odd), pending=False)), path)
    with pytest.raises(BadInput, match=str(path)):
        file_lines(path)
    told = []
    assert load_state(tmp_path / "state", say=told.append)["trainer"]["cur_nimg"] == 8
    assert len(told) == 1 and path.name in told[0] and "going on from state-000000000008.pt" in told[0]


def test_a_packed_state_is_refused_before_it_is_unpacked(tmp_path):
    torch.save(dict(a=torch.zeros(500_000)), tmp_path / "a.pt")
    assert "500,000 numbers" in "\n".join(file_lines(tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "a.pt") as z:
        packed(tmp_path / "b.pt", {i.filename: z.read(i) for i in z.infolist()})
    with pytest.raises(BadInput, match="packed"):
        file_lines(tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as z:  # a file that says of a number that it is half a million
        packed(
            tmp_path / "c.pt",
            {i.filename: z.read(i)[:4] if "/data/" in i.filename else z.read(i) for i in z.infolist()},
            zipfile.ZIP_STORED,
        )
    with pytest.raises(BadInput):
        file_lines(tmp_path / "c.pt")


def test_a_state_that_the_trainer_refuses_falls_back_too(tmp_path):
    for nimg in (8, 16):
        save_state(tmp_path, dict(trainer=dict(cur_nimg=nimg), pending=False), nimg)
    told = []

    def use(state):
        assert state["trainer"]["cur_nimg"] == 8, "it does not fit"

    assert load_state(tmp_path, use, told.append)["trainer"]["cur_nimg"] == 8 and "it does not fit" in told[0]
    with pytest.raises(BadInput, match="--init-from"):
        load_state(tmp_path, lambda state: {}["G"])
    assert len(digest({})) == 64


# -- what is shown
# ---------------------------------------------------------------------------------------------------------


def moved(value, path, change):
    "A copy of a nest with what lies at a path changed by a function; the rest is shared."
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = change(copy[path[0]]) if len(path) == 1 else moved(copy[path[0]], path[1:], change)
    return copy


@pytest.mark.parametrize(
    "path, change, words",
    [
        (("G_opt", "state", 0, "exp_avg"), lambda t: t[:1].clone(), "G_opt.state[0].exp_avg"),
        (("D_opt", "state", 1, "exp_avg_sq"), lambda t: t.reshape(-1)[:1].clone(), "D_opt.state[1].exp_avg_sq"),
        (("G_opt", "state", 0, "step"), lambda t: t.expand(3), "G_opt.state[0].step"),
        (("G_opt", "state", 0, "exp_avg"), lambda t: t.long(), "numbers of the shape"),
        (("G_opt", "state"), lambda d: {**d, 10**6: d[0]}, "state[1000000]"),
        (("G_opt", "state", 0), lambda d: {"step": d["step"]}, "G_opt.state[0].exp_avg"),
        (("sampler", "order"), lambda x: [0] * len(x), "does not name every image once"),
        (("sampler", "order", 0), lambda x: 10**12, "sampler.order[0]"),
        (("sampler", "random", 2), lambda x: 10**9, "sampler.random[2]"),
        (("sampler", "random", 1), lambda x: x[:3], "sampler.random[1]"),
        (("statistics", "moments"), lambda d: {**d, "Loss/x": [1, "a", 2]}, "statistics.moments.Loss/x[1]"),
        (("statistics", "last"), lambda d: {"Loss/x": 3}, "statistics.last.Loss/x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_state_says_is_held_against_the_networks(trained, path, change, words):
    """PyTorch's fused Adam writes beyond moments that are too small, and NumPy reads beyond its words: neither gets
    to see them."""
    trainer, state = trained
    text = said(trainer.load_state_dict, moved(state, path, change))
    assert words in text and text.endswith("the state is damaged")


def test_moments_are_laid_out_as_the_parameters(trained):
    trainer, state = trained
    spread = lambda t: torch.zeros(*t.shape, 2)[..., 0].copy_(t)  # the same numbers, with gaps between them
    odd = moved(
        state,
        ("G_opt", "state"),
        lambda d: {k: {n: spread(t) if n != "step" else t for n, t in one.items()} for k, one in d.items()},
    )
    odd = moved(
        odd, ("G_opt", "param_groups"), lambda groups: [{**groups[0], "lr": 1e30, "betas": "x"}]
    )  # settings are those of the configuration
    trainer.load_state_dict(odd)
    assert (
        digest(trainer.state_dict()) == digest(state)
        and trainer.G_opt.state_dict()["param_groups"] == state["G_opt"]["param_groups"]
    )


@pytest.fixture(scope="module")
def trained(archive):
    "A trainer after an iteration, and its state."
    from semgan_nb.runs import Config
    from semgan_nb.trainer import Trainer

    trainer = Trainer(
        Config(z_dim=8, w_dim=8, channel_base=64, channel_max=4, batch_size=4, batch_gpu=4), Dataset(archive)
    )
    trainer.iterate()
    return trainer, copy.deepcopy(trainer.state_dict())


def test_info_goes_on_past_what_it_refuses(tmp_path, run):
    from semgan_nb.micrographs import embedded, list_images

    shutil.copy(list_images(embedded())[0], tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    status, out, _ = say("info", tmp_path)
    assert status == 0 and "2 images" in out and out.count("refused: ") == 1 and "512" in out
    status, out, err = say("info", tmp_path / "b.png", run)
    assert status == 2 and "kimg" in out and "b.png" in err


def test_a_named_pipe_is_no_file(tmp_path, run):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    for name in ("a.png", "a.zip", "a.pt", "a.safetensors", "a.pkl", "pipe"):
        os.mkfifo(tmp_path / name)
        status, _, err = say("info", tmp_path / name)
        assert status == 2 and "Traceback" not in err, name
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "status.json").unlink()
    os.mkfifo(copy / "status.json")
    with pytest.raises(BadInput, match="named pipe"):
        read_status(copy)


def test_head_ends_the_output_quietly(run, monkeypatch):
    import sys

    from semgan_nb import cli

    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            raise OSError

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli.main(["info", str(run)]) == 0


def test_names_act_on_no_screen(tmp_path, capsys):
    folder = tmp_path / "a\x1b[31m\u202eb"
    folder.mkdir()
    for path in (folder, folder / "none", made_up_run(folder / "run", kimgs=(0,))):
        status, out, err = say("info", path)
        assert not {"\x1b", "\u202e"} & set(out + err) and r"a\x1b[31m\u202eb" in out + err, (path, status)


def test_a_dollar_in_a_name_is_no_formula(run, tmp_path):
    copy = tmp_path / "a$_{b$\x07"
    shutil.copytree(run, copy)
    assert (
        plots.as_png(plots.curves([run, copy]))
        and plots.as_png(plots.samples([run, copy]))
        and plots.as_png(plots.image_grid(np.zeros((2, 8, 8), np.uint8), title="$_{"))
    )
    assert plain_label("$x") == r"\$x" and "\x07" not in plain_label("\x07")


def test_texts_of_panels_are_texts():
    now = dict(state=f"lost{MARKUP}", kimg=1.0, total_kimg=2.0, speed=None, left=None, text=MARKUP)
    assert "<img" not in _study_html([dict(label=MARKUP, seed=0)], [now]) and safe("a\u202e<") == r"a\u202e&lt;"


def test_a_sheet_of_samples_that_is_none_is_a_sentence(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for make in (
        lambda p: p.write_bytes(b"x"),
        lambda p: Image.new("L", (8, 8)).save(p),
        lambda p: Image.new("CMYK", (64, 64)).save(p, "JPEG"),
    ):
        make(copy / "fakes000099.png")
        with pytest.raises(BadInput, match="fakes000099.png"):
            plots.samples(copy)


def test_an_archive_that_is_right_stays_right(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    write_archive(
        tmp_path / "a.zip",
        [
            dict(image=x, group=f"g{i}", source="m.tif", pixel_size_nm=(5, 5), crop=(0, 0, 16, 16), fraction=0.5)
            for i, x in enumerate(images)
        ],
        dict(intensity="none", note="free text", window=None),
    )
    data = Dataset(tmp_path / "a.zip")
    assert (
        len(data) == 4
        and data.pixel_size_nm == (5.0, 5.0)
        and not data.warnings
        and say("info", tmp_path / "a.zip")[0] == 0
    )


def test_every_rule_says_what_it_asks_for():
    "The rules of manifest.json and of stats.jsonl had no words: in a list they would have raised AttributeError."
    for rule in (MANIFEST, STATS):
        assert files.list_of(rule).words == "a list, of each: an object"
