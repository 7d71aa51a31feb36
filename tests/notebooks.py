"""Run a notebook from top to bottom without a kernel: `python notebooks.py NOTEBOOK` in the folder to run in. Tests
fork it (see forked.py), each notebook a process of its own: what a chapter does
to PyTorch, matplotlib or the package no other one sees. A cell that begins with `#| eval: false` is left out. The
first cell that fails ends it, with status 1 and the notebook, the cell and the
traceback as its words."""

import os
import re
import subprocess
import sys
from pathlib import Path

import forked

INLINE = "module://matplotlib_inline.backend_inline"


def directives(cell):
    """The `#| name arguments` lines a code cell opens with, as a dict."""
    found = {}
    for line in cell.source.splitlines():
        match = re.match(r"#\s*\|\s*(\w+):?\s*(.*)", line)
        if match:
            found[match[1]] = match[2].strip()
        elif line.strip():
            break
    return found


def settings(place):
    """The environment to run in: folders of its own, and pictures as in a notebook."""
    return {
        **os.environ,
        "JUPYTER_DATA_DIR": str(place / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(place / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(place / "runtime"),
        "IPYTHONDIR": str(place / "ipython"),
        "SEMGAN_CACHE": str(place / "cache"),
        "MPLBACKEND": INLINE,
    }


def bars_as_in_a_notebook():
    """tqdm draws a bar as a widget where it is imported in a kernel; here it was imported before."""
    import tqdm.asyncio
    import tqdm.auto
    import tqdm.notebook

    plain, widget = tqdm.auto.tqdm, type("tqdm", (tqdm.notebook.tqdm, tqdm.asyncio.tqdm), {})
    for module in list(sys.modules.values()):
        if vars(module).get("tqdm") is plain:
            module.tqdm = widget


def execute(path):
    """What went wrong, as words; nothing where all went well."""
    import nbformat
    from execnb.shell import CaptureShell

    shell = CaptureShell(mpl_format="png")
    bars_as_in_a_notebook()
    for number, cell in enumerate(nbformat.read(path, 4).cells):
        if cell.cell_type != "code" or directives(cell).get("eval") == "false":
            continue
        outputs = shell.run(cell.source)
        if shell.exc:
            text = "".join(
                "".join(o["text"] if o["output_type"] == "stream" else o["traceback"])
                for o in outputs
                if o["output_type"] in ("stream", "error")
            )
            return f"{Path(path).name}, cell {number}:\n\n{cell.source}\n\n{text}"
    return ""


if __name__ == "__main__":
    subprocess.Popen = forked.instead_of_subprocess  # ranks and probes need no PyTorch of their own
    if words := execute(sys.argv[1]):
        print(words, file=sys.stderr)
        sys.exit(1)
