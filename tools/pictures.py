"""Keep of each dashboard in a notebook only its picture: no widget can live in a file, and without its kernel it would hide the picture.

`python tools/pictures.py NOTEBOOK ...` strips the notebooks, with `--check` it says which hold widgets and exits with 1."""
import argparse
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if there are widgets")
    options = parser.parse_args()
    wrong = []
    for path in options.notebooks:
        notebook = nbformat.read(path, 4)
        if strip(notebook):
            wrong.append(str(path))
            if not options.check:
                nbformat.write(notebook, path)
    if wrong:
        print(("hold widgets: " if options.check else "stripped: ") + ", ".join(wrong))
    return 1 if options.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
