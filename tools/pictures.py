"""Keep of each dashboard in a notebook only its picture: no widget can live in a file, and without its kernel it
would hide the picture.

`python tools/pictures.py NOTEBOOK ...` strips the notebooks, with `--check` it says which hold widgets and exits
with 1.
`--shrink` also stores each picture as a palette or a JPEG where that is clearly smaller."""

import argparse
import base64
import sys
from io import BytesIO
from pathlib import Path

import nbformat
from PIL import Image

VIEW = "application/vnd.jupyter.widget-view+json"


def strip(notebook) -> bool:
    """Remove widget views and widget state; whether there were any."""
    found = notebook.metadata.pop("widgets", None) is not None
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).pop(VIEW, None) is not None
    return found


def shrink(notebook) -> None:
    """Charts become palettes, micrographs JPEGs: what is smallest, if it saves a fifth."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in ("image/png", "image/jpeg"):
                if kind not in data:
                    continue
                old = base64.b64decode(data[kind])
                picture = Image.open(BytesIO(old)).convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
                red, green, blue = picture.split()
                picture = red if red.tobytes() == green.tobytes() == blue.tobytes() else picture
                files = {}
                for new, form, image, options in (
                    ("image/png", "PNG", picture.quantize(16, dither=Image.Dither.NONE), {}),
                    ("image/jpeg", "JPEG", picture, dict(quality=34)),
                ):
                    buffer = BytesIO()
                    image.save(buffer, form, optimize=True, **options)
                    files[new] = buffer.getvalue()
                new = min(files, key=lambda name: len(files[name]))
                if len(files[new]) < 0.8 * len(old):
                    del data[kind]
                    data[new] = base64.b64encode(files[new]).decode()
                break


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if there are widgets")
    parser.add_argument("--shrink", action="store_true", help="make the pictures smaller")
    options = parser.parse_args()
    wrong = []
    for path in options.notebooks:
        notebook = nbformat.read(path, 4)
        if options.shrink and not options.check:
            shrink(notebook)
            nbformat.write(notebook, path)
        if strip(notebook):
            wrong.append(str(path))
            if not options.check:
                nbformat.write(notebook, path)
    if wrong:
        print(("hold widgets: " if options.check else "stripped: ") + ", ".join(wrong))
    return 1 if options.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
