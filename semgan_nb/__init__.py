"""Train a GAN on micrographs: StyleGAN2 with adaptive discriminator augmentation."""

__version__ = "0.2.0"

# What one needs first stands here, imported when it is asked for; all else is reached through its module.
_MODULES = {
    "read_micrograph": "micrographs", "Dataset": "dataset", "prepare": "preparation", "sample": "latent", "compare": "same_material",
    "Config": "runs", "preset": "runs", "load": "checkpoints", "train": "training", "Study": "studies", "evaluate": "launch",
}
__all__ = sorted(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def _command() -> int:
    "The `semgan` command. What it needs is loaded here, so that Ctrl-C is one line then too."
    import sys

    try:
        from semgan_nb.cli import main

        return main()
    except KeyboardInterrupt:
        print("semgan: interrupted", file=sys.stderr)
        return 130


def __dir__():
    return [*globals(), *__all__]
