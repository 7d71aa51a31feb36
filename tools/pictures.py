"""Keep of each dashboard in a notebook only its picture: no widget can live in a file, and without its kernel it would hide the picture.

    python tools/pictures.py NOTEBOOK ...            strip the notebooks
    python tools/pictures.py --check NOTEBOOK ...    say which hold widgets, and exit 1
"""
import sys
from pathlib import Path

import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"


def strip(notebook) -> bool:
    """Remove widget views and widget state; whether there were any."""
    found = notebook.metadata.pop("widgets", None) is not None
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).pop(VIEW, None) is not None
    return found


def main(arguments) -> int:
    check, wrong = "--check" in arguments, []
    for path in map(Path, (a for a in arguments if a != "--check")):
        notebook = nbformat.read(path, 4)
        if strip(notebook):
            wrong.append(str(path))
            if not check:
                nbformat.write(notebook, path)
    if wrong:
        print(("hold widgets: " if check else "stripped: ") + ", ".join(wrong))
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
