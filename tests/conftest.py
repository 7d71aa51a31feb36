"""What every test shares: no display is needed, and torch takes the cores it really has."""
import os

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
else:
    cores = os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(min(cores, 4)))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait do not spin: on a busy machine spinning makes everything many times slower
os.environ.setdefault("GOMP_SPINCOUNT", "0")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Features of real images are kept between runs; tests keep theirs apart."""
    os.environ["SEMGAN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
