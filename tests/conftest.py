"""What every test shares: no display is needed, torch takes the cores it really has, or one where a worker of pytest-xdist has one to itself."""
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
os.environ.setdefault("MPLBACKEND", "Agg")
if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
else:
    cores = os.cpu_count() or 1
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
os.environ.setdefault("OMP_NUM_THREADS", "1" if WORKER else str(min(cores, 4)))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait do not spin: on a busy machine spinning makes everything many times slower
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["SEMGAN_TESTS_OWNER"] = str(os.getppid() if WORKER else os.getpid())  # whose end is the end of the server in forked.py


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Features of real images are kept between runs; tests keep theirs apart."""
    os.environ["SEMGAN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Forty images of noise, 16 px, in five groups: something to train on in no time."""
    import numpy as np

    from semgan_nb.dataset import write_archive

    path = tmp_path_factory.mktemp("data") / "noise.zip"
    images = np.random.RandomState(0).randint(0, 256, (40, 16, 16), dtype=np.uint8)
    write_archive(path, [
        dict(name=f"n{i}", image=x, source="noise", source_sha256="", crop=(0, 0, 16, 16), group=f"g{i % 5}", pixel_size_nm=(10.0, 10.0), fraction=None, part="train")
        for i, x in enumerate(images)], dict(made_by="test"))
    return path


def pytest_collection_modifyitems(items):
    """Every folder of tests is a marker: `pytest -m runs` is `pytest tests/runs`."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in ("unit", "runs", "processes", "book", "browser", "gpu"):
            item.add_marker(folder)


def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay with one worker, in their order, for they share what is dear to make; but every chapter runs where there is a free core."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "test_chapters.py::" in nodeid else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None
