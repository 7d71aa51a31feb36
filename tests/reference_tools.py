"""The other tools, for comparison: torchvision and what needs it, where they are installed. Beside a CPU-only torch,
torchvision's compiled operators do not load;
nothing here uses them, so their names are made known and the rest is imported."""

import importlib

import pytest
import torch

_DECLARED = []


def prepare_torchvision() -> str:
    "Make torchvision importable if it is installed; why it is not, else."
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return "torchvision is not installed"
    except RuntimeError:
        if not _DECLARED:
            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _DECLARED.append(library)
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            return f"torchvision cannot be imported: {error}"
    return ""


def tool(name: str):
    "A module such as pytorch_fid.inception; the test is skipped where it, or torchvision, cannot be imported."
    if reason := prepare_torchvision():
        pytest.skip(reason)
    return pytest.importorskip(name)
