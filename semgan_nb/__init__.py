"""Train a GAN on micrographs: StyleGAN2 with adaptive discriminator augmentation."""

import os
import sys

__version__ = "0.2.0"

# What one needs first stands here, imported when it is asked for; all else is reached through its module.
_MODULES = {
    "read_micrograph": "micrographs", "Dataset": "dataset", "prepare": "preparation", "sample": "latent", "compare": "microstructure",
    "Config": "runs", "load": "checkpoints", "train": "training", "Study": "studies", "evaluate": "launch",
}
__all__ = sorted(_MODULES)


def _threads_sleep(environment, torch_is_there: bool) -> bool:
    """Have threads that wait for each other sleep, instead of holding a core that somebody else could use. OpenMP reads this once, when PyTorch is loaded; what is set already stays.
    False where it came too late."""
    if any(name in environment for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        return True
    if not torch_is_there:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment["GOMP_SPINCOUNT"] = "1000"  # some microseconds: the next piece of work is often there by then, and waking up takes longer
    return not torch_is_there


_THREADS_SLEEP = _threads_sleep(os.environ, "torch" in sys.modules)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
