"""Chapter 19: preparing in several processes, from a script, interrupted and killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_up_sets import sem_folder, steel
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    return sem_folder(tmp_path / "sem")


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (tifffile.imwrite if path.suffix == ".tif" else lambda p, i: Image.fromarray(i).save(p))(path, image, **options)


SCRIPT = """
import sys
from semgan_nb.preparation import prepare
print(prepare(sys.argv[1], sys.argv[2], 32, window=64, stride=16, workers=2, progress=False)["n_images"])
"""


def test_a_script_needs_no_main_guard(tmp_path, folder):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", folder, tmp_path / "a.zip"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout == "392\n" and not done.stderr, done.stderr


def children(pid):
    return [
        int(p.parent.name)
        for p in Path("/proc").glob("[0-9]*/stat")
        if p.read_text().rsplit(")", 1)[1].split()[1] == str(pid)
    ]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_interrupted(tmp_path, with_signal):
    """Ctrl-C leaves no archive, no temporary file and no process; of a killed process no worker lives on."""
    source, out = tmp_path / "sem", tmp_path / "out"
    out.mkdir()
    for k in range(14):  # writing their tiles takes seconds: time enough to be met in the middle
        write(source / f"{k:02d}.tif", np.tile(steel(k), (6, 6)) + np.uint8(k))
    (tmp_path / "script.py").write_text(SCRIPT.replace("window=64, stride=16", "window=64, stride=48"))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", source, out / "a.zip"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a job in the background ignores it, and its children would
    late = time.monotonic() + 300
    while not list(out.iterdir()) or len(workers := children(process.pid)) < 2:
        assert process.poll() is None and time.monotonic() < late
        time.sleep(0.02)
    if with_signal == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    else:
        process.kill()
    words = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert words.count("Traceback") <= 1, words  # the parent's, none of a worker
    for _ in range(100):
        if not any(Path(f"/proc/{w}").exists() for w in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{w}").exists() for w in workers)
    if with_signal == signal.SIGINT:
        assert list(out.iterdir()) == []
