"""Chapter 51, poisoned pickles: some hundreds of them, read in a process that may take little memory and in which
everything that it does is noted."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import official_files
import pytest

# -- poison
# ---------------------------------------------------------------------------------------------------------------

RUNNER = """
    import json, resource, sys, time
    from pathlib import Path
    from semgan_nb.official import load_official
    from semgan_nb.foundation import BadInput
    folder = Path(sys.argv[1])
    load_official(folder / "good.pkl"), str(BadInput(chr(0)))  # what is imported lazily is there now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 300_000_000,) * 2)
    events, modules, results = [], set(sys.modules), {}
    watched = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "pickle.", "ctypes.", "shutil.", "marshal.", "code.")
    sys.addaudithook(lambda event, args: events.append(f"{event} {args!r:.200}") if event.startswith(watched) or event == "open" and args[1] not in ("r", "rb") else None)
    for path in sorted(folder.glob("poison-*.pkl")):
        events.clear()
        began, said = time.monotonic(), None
        try:
            load_official(path)
            kind = "accepted"
        except BadInput as e:
            kind, said = "refused", str(e)
        except BaseException as e:
            kind, said = type(e).__name__, str(e)
        results[path.stem.removeprefix("poison-")] = dict(kind=kind, said=said, seconds=time.monotonic() - began, events=list(events))
    print(json.dumps(dict(results=results, modules=sorted(set(sys.modules) - modules), peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))
"""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """All poisoned files, read one after the other in a process that may take 300 MB more than it has and in which
    every import, call of the system and file that is opened for writing is noted."""
    pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is limited here in another way")
    folder = tmp_path_factory.mktemp("poison")
    files = official_files.poisons(folder)
    for name, data in files.items():
        (folder / f"poison-{name}.pkl").write_bytes(data)
    (folder / "good.pkl").write_bytes(official_files.dump(official_files.content_of(*official_files.networks()[:1])))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUNNER), str(folder)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["results"].keys() == files.keys() and len(files) >= 300
    return folder, found


def test_poison_is_refused_with_one_sentence(poisoned):
    folder, found = poisoned
    for name, result in found["results"].items():
        assert result["kind"] == "refused", (name, result)
        assert (
            f"poison-{name}.pkl" in result["said"] and result["said"].isprintable() and len(result["said"]) < 60_000
        ), name


def test_poison_runs_nothing_and_imports_nothing(poisoned):
    folder, found = poisoned
    assert not (folder / "ran").exists() and found["modules"] == []
    assert {name: result["events"] for name, result in found["results"].items() if result["events"]} == {}


def test_poison_takes_neither_time_nor_memory(poisoned):
    "The limit of 300 MB holds for all files together: a MemoryError would be another kind of end than a refusal."
    folder, found = poisoned
    assert max((result["seconds"], name) for name, result in found["results"].items())[0] < 10


def test_poison_would_work_elsewhere(tmp_path):
    "The files are dangerous: Python's own reader runs one of them."
    import pickle

    data = official_files.poisons(tmp_path)["call-exec-p4"]
    pickle.loads(data)
    assert (tmp_path / "ran").exists()
