"""Chapter 00: bounds of parameters, what is there is kept, and what the system says against writing. Chapter 50:
every setting, from Python, from a file and from the command line."""

import argparse
import dataclasses
import errno
import json
import math
import os

import pytest

from semgan_nb.foundation import (
    BadInput,
    CannotWrite,
    Rule,
    append_line,
    atomic,
    claim,
    mark,
    room_for,
    RunFailed,
    try_folder,
)
from semgan_nb.options import _fields_of, _reader
from semgan_nb.runs import Config, config_rules, idle_fields

NUMBERS = [name for name, rule in config_rules().items() if rule.kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_the_settings_has_bounds_and_is_finite(name):
    rule, field = config_rules()[name], next(f for f in dataclasses.fields(Config) if f.name == name)
    assert math.isfinite(rule.low) and math.isfinite(rule.high), "both bounds"
    rule.check(name, field.default)
    wrong = [
        math.nan,
        math.inf,
        -math.inf,
        10**20,
        -1,
        "16",
        [1],
        {},
        True,
        *([] if None in rule.also else [None]),
        *([1.5] if rule.kind is int else []),
    ]
    for value in wrong:
        with pytest.raises(BadInput, match=f"^{name} is .*: it must be "):
            Config().replace(**{name: value})
    for text in ("nan", "inf", "-1", "100000000000000000000"):  # the command says the same
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            _reader(rule)(text)


@pytest.mark.parametrize(
    "values, name",
    [
        (dict(mirror="yes"), "mirror"),
        (dict(metrics=5), "metrics"),
        (dict(metrics=["fdd50k"]), "fdd50k"),
        (dict(g_channels="abc"), "g_channels"),
        (dict(g_channels=[0]), "g_channels"),
        (dict(aug=7), "aug"),
        (dict(preset=None), "preset"),
        (dict(p=0.9, p_max=0.5), "p is 0.9"),
        (dict(noise_from=5), "noise_from"),
        (dict(augpipe=["bg"]), "augpipe"),
        ({"z_dmi": 3}, "z_dim"),
        ([1], "table"),
    ],
    ids=str,
)
def test_settings_from_a_file_are_refused_in_one_sentence(values, name):
    with pytest.raises(BadInput) as caught:
        Config.from_dict(json.loads(json.dumps(values)))
    assert name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_point_of_a_study_is_read_by_the_same_bounds():
    assert _fields_of("aug=fixed,p=0.2,mirror=no") == dict(aug="fixed", p=0.2, mirror=False)
    for text in ("p=nan", "p=2", "seed=1.5", "mirror=perhaps", "total_kimg=inf"):
        with pytest.raises(BadInput, match="--with " + text):
            _fields_of(text)


def test_the_nearest_power_of_two_is_offered():
    side = Rule(int, 8, 1024, "px", only="power of two")
    for value, words in ((96, "64 and 128"), (7, "8"), (1500, "1024"), (-3, "8")):
        with pytest.raises(BadInput, match=f"nearest (is|are) .*{words}$"):
            side.check("size", value)


def test_settings_without_effect_are_known():
    assert (
        {"ada_target", "p", "augpipe"} <= set(idle_fields(Config(aug="noaug")))
        and "p" not in idle_fields(Config(aug="fixed"))
        and "ada_target" in idle_fields(Config(aug="fixed"))
    )
    assert not {"ada_target", "p", "p_max"} & set(idle_fields(Config()))


# -- files
# ----------------------------------------------------------------------------------------------------------------


def test_what_is_there_is_kept(tmp_path):
    file = tmp_path / "a.png"
    for text, own, good in (
        ("years of work", "walk", False),
        (mark("walk"), "walk", True),
        (mark("phases"), "walk", False),
        ("anything", True, True),
        ("anything", False, False),
    ):
        file.write_text(text)
        if good:
            claim(file, own)
        else:
            with pytest.raises(BadInput, match="a.png is there already.*--overwrite"):
                claim(file, own)
            claim(file, own, overwrite=True)
    os.symlink("/nowhere/at/all", tmp_path / "link")
    with pytest.raises(BadInput, match="is there already"):
        claim(tmp_path / "link")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "link"]


def test_a_target_is_tried_and_nothing_stays(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="file is a file, and a folder is wanted"):
        try_folder(tmp_path / "file" / "deeper")
    try_folder(tmp_path / "new" / "deeper")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_what_the_system_says_names_the_file_and_is_not_hidden(tmp_path, monkeypatch, number):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    unlink = type(tmp_path).unlink
    monkeypatch.setattr(
        type(tmp_path), "unlink", lambda self, **options: (unlink(self), refuse())
    )  # a read-only disk refuses the clean-up too
    with pytest.raises(CannotWrite, match=rf"a.txt cannot be written \({os.strerror(number)}\)") as caught:
        with atomic(tmp_path / "a.txt") as part:
            part.write_text("x")
    assert caught.value.errno == number and isinstance(caught.value, BadInput)
    with pytest.raises(CannotWrite, match="b.jsonl cannot be written"):
        append_line(tmp_path / "b.jsonl", {})
    if number != errno.EROFS:
        with pytest.raises(RunFailed, match="no room for a state"), room_for("a state", tmp_path):
            append_line(tmp_path / "b.jsonl", {})


def test_errors_of_libraries_are_understood(tmp_path):
    with pytest.raises(CannotWrite, match="a.bin cannot be written .No space left on device"):
        with atomic(tmp_path / "a.bin"):
            raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match="other") as caught:  # what is not about writing stays what it is
        with atomic(tmp_path / "a.bin"):
            raise OSError(errno.ENOENT, "other", "/elsewhere/other.txt")
    assert not isinstance(caught.value, BadInput) and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as part:
            part.write_text("x"), part.chmod(0o600)  # as safetensors does
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
