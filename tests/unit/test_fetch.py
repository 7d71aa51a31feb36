"""Chapter 13: public sets, from a server of the test's own."""

import shutil
import hashlib
import http.server
import io
import json
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semgan_nb.foundation import BadInput
from semgan_nb.micrographs import list_images, read_micrograph
from semgan_nb.public_sets import PUBLIC_SETS, PublicSet, fetch, public_sets


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; understands ranges where `ranges`; cuts an answer after `cut` bytes, as often as `cuts` says."""

    daemon_threads = True

    def __init__(self):
        self.files, self.ranges, self.cut, self.cuts, self.asked, self.status = {}, True, 0, 0, [], 200
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, name, span = self.server, self.path.lstrip("/"), self.headers.get("Range")
        server.asked.append((name, span))
        data = server.files.get(name)
        if data is None or server.status != 200:
            self.send_error(404 if data is None else server.status)
            return
        start = int(span[6:-1]) if span and server.ranges else 0
        if start and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if server.cuts:
            server.cuts -= 1
            rest = rest[: server.cut]
            self.close_connection = True
        self.wfile.write(rest)


def picture(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (300, 300)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{server.server_address[1]}/"
    yield server
    server.shutdown()
    server.server_close()


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def few(server, monkeypatch):
    """A set of four files, one in a folder below, one with an md5 hash."""
    server.files = {f"a{k}.png": picture(k) for k in range(3)} | {"below/b.png": picture(9)}
    files = {name: (server.address + name, sha(data)) for name, data in server.files.items()}
    files["a0.png"] = (server.address + "a0.png", "md5:" + hashlib.md5(server.files["a0.png"]).hexdigest())
    monkeypatch.setitem(
        PUBLIC_SETS,
        "few",
        PublicSet(
            "four pictures",
            "MIT",
            "Somebody: Some pictures, 2020",
            "https://example.org/few",
            size=sum(map(len, server.files.values())),
            files=files,
        ),
    )
    return server


def states(folder):
    return {
        p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


def test_a_set_comes_with_its_licence_and_is_verified_afterwards(few, tmp_path):
    said = []
    folder = fetch("few", tmp_path / "x" / "few", progress=False, say=said.append)
    assert folder == tmp_path / "x" / "few" and {p.relative_to(folder).as_posix() for p in list_images(folder)} == set(
        few.files
    )
    assert all((folder / name).read_bytes() == data for name, data in few.files.items())
    source = (folder / "SOURCE.txt").read_text(encoding="utf-8")
    for text in ("\n".join(said), source):
        assert "MIT" in text and "Somebody: Some pictures, 2020" in text and "https://example.org/few" in text
    assert "Permission is hereby granted" in source and sha(few.files["a1.png"]) in source
    assert not list(folder.rglob(".partial")) and read_micrograph(folder / "a0.png").pixels.shape == (300, 300)
    before, count = states(folder), len(few.asked)
    assert (
        fetch("few", folder, progress=False, say=said.append) == folder
        and states(folder) == before
        and len(few.asked) == count
    )
    assert "4 files" in said[-1]


def test_what_is_missing_is_fetched_and_nothing_is_written_over(few, tmp_path):
    folder = fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    (folder / "a2.png").unlink()
    (folder / "mine.txt").write_text("notes")
    few.asked.clear()
    fetch("few", folder, progress=False, say=lambda text: None)
    assert [name for name, _ in few.asked] == ["a2.png"] and (folder / "mine.txt").read_text() == "notes"
    (folder / "a1.png").write_bytes(b"my own")
    (folder / "a2.png").unlink()
    before = states(folder)
    with pytest.raises(BadInput, match="a1.png: is not the published file: nothing is written over"):
        fetch("few", folder, progress=False, say=lambda text: None)
    assert states(folder) == before


def test_a_cut_connection_goes_on_where_it_stopped(few, tmp_path):
    few.cut, few.cuts = 40000, 2
    folder = fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    assert all((folder / name).read_bytes() == data for name, data in few.files.items())
    first, *starts = [span for name, span in few.asked if name == "a0.png"]
    assert first is None and len(starts) == 2 and 20000 < int(starts[0][6:-1]) <= 40000 < int(starts[1][6:-1]) <= 80000


def test_an_interrupted_fetch_goes_on_later(few, tmp_path):
    few.cut, few.cuts = 20000, 99
    with pytest.raises(BadInput) as caught:
        fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    assert "127.0.0.1 cannot be reached" in str(caught.value)
    assert (tmp_path / "few" / ".partial" / "a0.png").stat().st_size >= 10000 and not (
        tmp_path / "few" / "a0.png"
    ).exists()
    few.cuts = 0
    few.asked.clear()
    folder = fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    assert (
        few.asked[0][1].startswith("bytes=")
        and (folder / "a0.png").read_bytes() == few.files["a0.png"]
        and not list(folder.rglob(".partial"))
    )


def test_a_server_without_ranges(few, tmp_path):
    few.ranges, few.cut, few.cuts = False, 40000, 1
    folder = fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    assert (folder / "a0.png").read_bytes() == few.files["a0.png"]


def test_the_rest_of_another_version_is_noticed(few, tmp_path):
    part = tmp_path / "few" / ".partial" / "a0.png"
    part.parent.mkdir(parents=True)
    for wrong in (b"x" * 500, few.files["a0.png"] + b"more", b"x" * len(few.files["a0.png"])):
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(wrong)
        folder = fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
        assert (folder / "a0.png").read_bytes() == few.files["a0.png"]
        (folder / "a0.png").unlink()


def test_a_wrong_hash_leaves_nothing(few, tmp_path):
    few.files["a1.png"] = picture(77)
    with pytest.raises(BadInput, match="hash is not the published one"):
        fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    assert (
        not (tmp_path / "few" / "a1.png").exists()
        and not (tmp_path / "few" / "SOURCE.txt").exists()
        and (tmp_path / "few" / "a0.png").exists()
    )


def test_an_unreachable_host_is_one_sentence_with_what_to_do_by_hand(few, tmp_path, monkeypatch):
    few.status = 503
    with pytest.raises(BadInput, match="answered 503"):
        fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    few.status = 200
    gone = "http://127.0.0.1:9/"
    files = {name: (gone + name, known) for name, (_, known) in PUBLIC_SETS["few"].files.items()}
    monkeypatch.setitem(PUBLIC_SETS, "few", PublicSet("", "CC0", "", "https://example.org/few", files=files))
    with pytest.raises(BadInput) as caught:
        fetch("few", tmp_path / "few", progress=False, say=lambda text: None)
    text = str(caught.value)
    assert (
        "\n" not in text
        and gone + "a0.png" in text
        and str(tmp_path / "few") in text
        and "by hand" in text
        and "https://example.org/few" in text
        and "3 files" in text
    )
    for name, data in few.files.items():  # placed by hand, then verified
        (tmp_path / "few" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "few" / name).write_bytes(data)
    assert fetch("few", tmp_path / "few", progress=False, say=lambda text: None) == tmp_path / "few"


def test_a_manifest_names_the_files(server, tmp_path, monkeypatch):
    server.files = {f"micrographs/m {k}.png": picture(k) for k in range(3)} | {"metadata.csv": b"path,label\n"}
    listed = {name: {"sha256": sha(data), "bytes": len(data)} for name, data in server.files.items()} | {
        "README.md": {"sha256": "0" * 64, "bytes": 1}
    }
    server.files = {name.replace(" ", "%20"): data for name, data in server.files.items()}
    known = {"metadata.csv": listed["metadata.csv"]["sha256"]}
    monkeypatch.setitem(
        PUBLIC_SETS,
        "listed",
        PublicSet(
            "", "CC BY 4.0", "", "https://example.org", base=server.address, manifest="manifest.json", files=known
        ),
    )
    server.files["manifest.json"] = json.dumps({"files": listed}).encode()
    folder = fetch("listed", tmp_path / "ok", progress=False, say=lambda text: None)
    assert len(list_images(folder)) == 3 and (folder / "metadata.csv").exists()
    assert fetch("listed", folder, progress=False, say=lambda text: None) == folder
    for bad in (
        {"files": {**listed, "metadata.csv": {"sha256": "1" * 64}}},
        {"files": {}},
        [],
        {"files": {**listed, "../out.png": {"sha256": "1" * 64}}},
        {"files": {**listed, "x.png": {"sha256": "zz"}}},
    ):
        server.files["manifest.json"] = json.dumps(bad).encode()
        target = tmp_path / sha(server.files["manifest.json"])[:8]
        with pytest.raises(BadInput, match="list of"):
            fetch("listed", target, progress=False, say=lambda text: None)
        assert not (tmp_path / "out.png").exists()


def test_an_archive_is_unpacked_once(server, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("img/1.png", picture(1))
        z.writestr("img/2.png", picture(2))
    server.files = {"images.zip": buffer.getvalue()}
    monkeypatch.setitem(
        PUBLIC_SETS,
        "zipped",
        PublicSet(
            "",
            "CC0",
            "",
            "https://example.org",
            files={"images.zip": (server.address + "images.zip", sha(buffer.getvalue()))},
        ),
    )
    folder = fetch("zipped", tmp_path / "z", progress=False, say=lambda text: None)
    assert (folder / "img" / "1.png").read_bytes() == picture(1)
    (folder / "img" / "2.png").unlink()
    before = states(folder)["img/1.png"]
    fetch("zipped", folder, progress=False, say=lambda text: None)
    assert (
        states(folder)["img/1.png"] == before
        and (folder / "img" / "2.png").read_bytes() == picture(2)
        and len(server.asked) == 1
    )
    (folder / "img" / "1.png").write_bytes(b"mine")
    with pytest.raises(BadInput, match="nothing is written over"):
        fetch("zipped", folder, progress=False, say=lambda text: None)
    assert (folder / "img" / "1.png").read_bytes() == b"mine"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("../escaped.png", picture(1))
    server.files = {"images.zip": buffer.getvalue()}
    monkeypatch.setitem(
        PUBLIC_SETS,
        "zipped",
        PublicSet("", "CC0", "", "", files={"images.zip": (server.address + "images.zip", sha(buffer.getvalue()))}),
    )
    with pytest.raises(BadInput, match="outside"):
        fetch("zipped", tmp_path / "deep" / "z", progress=False, say=lambda text: None)
    assert not (tmp_path / "deep" / "escaped.png").exists()


def test_sets_that_are_not_open_are_named_not_downloaded(server, tmp_path, monkeypatch):
    for name, chosen in PUBLIC_SETS.items():
        if chosen.open and chosen.files:
            continue
        with pytest.raises(BadInput) as caught:
            fetch(name, tmp_path / name, progress=False, say=lambda text: None)
        assert chosen.page in str(caught.value) and name in str(caught.value) and not (tmp_path / name).exists()
    server.files = {"a.png": picture(0)}
    monkeypatch.setitem(
        PUBLIC_SETS,
        "doubtful",
        PublicSet(
            "",
            "said to be CC0",
            "",
            "https://example.org/d",
            open=False,
            files={"a.png": (server.address + "a.png", sha(picture(0)))},
        ),
    )
    with pytest.raises(BadInput, match="licence-read"):
        fetch("doubtful", tmp_path / "d", progress=False, say=lambda text: None)
    assert (
        not server.asked
        and fetch("doubtful", tmp_path / "d", progress=False, licence_read=True, say=lambda text: None).is_dir()
    )


def test_the_table_and_its_hashes():
    table = public_sets()
    for name, chosen in PUBLIC_SETS.items():
        assert name in table and chosen.licence in table and chosen.page in table and chosen.page.startswith("https://")
        for _file, where in chosen.files.items():
            known = where if isinstance(where, str) else where[1]
            assert re.fullmatch(r"[0-9a-f]{64}|md5:[0-9a-f]{32}", known) and (
                isinstance(where, str) or where[0].startswith("https://")
            )
    assert len(PUBLIC_SETS["nasa-superalloy"].files) == 18 and {
        "uhcs",
        "aachen-heerlen",
        "dp800",
        "nbt-ceramic",
        "nffa-sem",
    } <= set(PUBLIC_SETS)
    with pytest.raises(BadInput, match="did you mean 'uhcs'"):
        fetch("uhsc")


def test_a_folder_that_is_none(few, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        fetch("few", tmp_path / "file", progress=False, say=lambda text: None)


def test_room_on_the_disk(few, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(BadInput, match="no room"):
        fetch("few", tmp_path / "few", progress=False, say=lambda text: None)


def test_the_verb(few, tmp_path, capsys):
    from semgan_nb.cli import main

    assert main(["fetch"]) == 0 and "nasa-superalloy" in capsys.readouterr().out
    assert main(["fetch", "few", str(tmp_path / "few")]) == 0
    text = capsys.readouterr().out
    assert "Licence: MIT" in text and "Cite: Somebody" in text and "4 files" in text
    assert main(["fetch", "few", str(tmp_path / "few")]) == 0
    (tmp_path / "few" / "a1.png").write_bytes(b"mine")
    for argv, word in (
        (["fetch", "few", str(tmp_path / "few")], "nothing is written over"),
        (["fetch", "dp800"], "zenodo.org/records/8065752"),
        (["fetch", "aachen-heerlen"], "--licence-read"),
        (["fetch", "nothing"], "no public set"),
    ):
        capsys.readouterr()
        assert main(argv) == 2
        words = capsys.readouterr().err
        assert word in words and words.count("\n") == 1
