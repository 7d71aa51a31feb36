"""Tutorials and chapters travel inside the package, so that `semgan lab` has them after an installation by pip.

`python tools/tutorials.py` copies nbs/tutorials/*.ipynb to semgan_nb/tutorials, and the chapters with the images they read to semgan_nb/chapters; `--check` says whether they are the same."""
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOOK, PACKAGE = ROOT / "nbs", ROOT / "semgan_nb"


def wanted():
    "Path in the package -> content."
    chapters = {f"chapters/{path.name}": path.read_bytes() for path in BOOK.glob("[0-9][0-9]_*.ipynb")}
    images = {f"chapters/images/{path.name}": path.read_bytes() for path in BOOK.glob("images/*") if any(f"images/{path.name}".encode() in text for text in chapters.values())}
    return {f"tutorials/{path.name}": path.read_bytes() for path in BOOK.glob("tutorials/*.ipynb")} | chapters | images


def there():
    "Path in the package -> content, of what is shipped."
    return {path.relative_to(PACKAGE).as_posix(): path.read_bytes() for pattern in ("tutorials/*.ipynb", "chapters/*.ipynb", "chapters/images/*") for path in PACKAGE.glob(pattern)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of copying; exit status 1 if they differ")
    source, shipped = wanted(), there()
    differ = sorted(name for name in {*source, *shipped} if source.get(name) != shipped.get(name))
    if parser.parse_args().check:
        if differ:
            sys.exit(f"differ between {BOOK.relative_to(ROOT)} and {PACKAGE.relative_to(ROOT)}: {', '.join(differ)}; run python tools/tutorials.py")
        return
    for name in differ:
        if name in source:
            (PACKAGE / name).parent.mkdir(parents=True, exist_ok=True)
            (PACKAGE / name).write_bytes(source[name])
        else:
            (PACKAGE / name).unlink()


if __name__ == "__main__":
    main()
