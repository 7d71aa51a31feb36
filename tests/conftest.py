"""What every test shares: no display is needed, torch takes the cores it really has, or one where a worker of
pytest-xdist has one to itself."""

import gc
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
gc.set_threshold(20_000, 10, 10)  # looking for garbage took 7 % of the time of tests/unit
os.environ.setdefault("MPLBACKEND", "Agg")
if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
else:
    cores = os.cpu_count() or 1
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if (
    "OMP_NUM_THREADS" not in os.environ or os.environ.get("SEMGAN_TESTS_THREADS") == "chosen"
):  # workers inherit what was set for the process that began them
    os.environ["OMP_NUM_THREADS"], os.environ["SEMGAN_TESTS_THREADS"] = "1" if WORKER else str(min(cores, 4)), "chosen"
os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # threads that wait do not spin: on a busy machine spinning makes everything many times slower
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["SEMGAN_TESTS_OWNER"] = str(
    os.getppid() if WORKER else os.getpid()
)  # whose end is the end of the server in forked.py


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Features of real images are kept between runs; tests keep theirs apart."""
    os.environ["SEMGAN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A function of a name and of what makes a folder: the folder, made by whichever worker comes first, for all of
    them; to be read only."""
    common = tmp_path_factory.getbasetemp().parent if WORKER else tmp_path_factory.getbasetemp()

    def folder(name, make):
        import filelock

        path = common / f"once-{name}"
        with filelock.FileLock(str(common / f"once-{name}.lock")):
            if not (path / "made").exists():
                path.mkdir()  # one that was left half made is an error again
                make(path)
                (path / "made").touch()
        return path

    return folder


@pytest.fixture(scope="session")
def archive(once):
    """Forty images of noise, 16 px, in five groups: something to train on in no time."""
    return once("archive", lambda folder: made_up_sets().noise_archive(folder / "noise.zip")) / "noise.zip"


@pytest.fixture(scope="session")
def quarters(once):
    """A folder with quarters of six shipped micrographs, three specimens of two."""
    return once("quarters", lambda folder: made_up_sets().quarters(folder / "steel")) / "steel"


@pytest.fixture(scope="session")
def demo_run(once, quarters):
    """A demo on these quarters that ran to its end: its folder, what it returned, what it said. Read only."""
    import json

    import made_up_runs

    folder = once("demo", lambda folder: made_up_runs.small_demo(quarters, folder))
    found, words = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return folder / "out", found, words


@pytest.fixture(scope="session")
def unbroken(once, archive):
    """A run of stops.TINY that never stopped. Read only."""
    import stops

    return (
        once("unbroken", lambda folder: stops.go_on(stops.TINY, archive, folder / "r", 1e9)) / "r"
    )  # a snapshot knows the name of its run


@pytest.fixture(scope="session")
def snapshot(once):
    """A snapshot of official_files' networks, 16 px. Read only."""
    import official_files

    from semgan_nb.checkpoints import save_snapshot

    path = "snapshot-000001.safetensors"
    return (
        once(
            "snapshot",
            lambda folder: save_snapshot(
                folder / path,
                *official_files.networks(),
                cur_nimg=1000,
                data_fingerprint="made up",
                pixel_size_nm=[10.0, 10.0],
            ),
        )
        / path
    )


@pytest.fixture
def forked_programs(monkeypatch):
    """What the package starts by `subprocess` (ranks, probes) is forked instead."""
    import subprocess

    import forked

    monkeypatch.setattr(subprocess, "Popen", forked.instead_of_subprocess)


def made_up_sets():
    import made_up_sets  # numpy is imported after the number of threads is set, and by tests that need it only

    return made_up_sets


def pytest_collection_modifyitems(items):
    """Every folder of tests is a marker: `pytest -m runs` is `pytest tests/runs`."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in ("unit", "runs", "processes", "book", "browser", "gpu"):
            item.add_marker(folder)


def pytest_collection_finish():
    """What was imported stays: it need not be looked through for garbage ever again."""
    gc.collect(), gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay with one worker, in their order, for they share what is dear to make; but every chapter
    runs where there is a free core."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "test_chapters.py::" in nodeid else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None
