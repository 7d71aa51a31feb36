"""The tutorials travel inside the package, so that `semgan lab` has them after an installation by pip.

`python tools/tutorials.py` copies nbs/tutorials/*.ipynb to semgan_nb/tutorials, `--check` says whether they are the same."""
import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, SHIPPED = ROOT / "nbs" / "tutorials", ROOT / "semgan_nb" / "tutorials"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of copying; exit status 1 if they differ")
    wanted = {path.name: path.read_bytes() for path in SOURCE.glob("*.ipynb")}
    there = {path.name: path.read_bytes() for path in SHIPPED.glob("*.ipynb")}
    if parser.parse_args().check:
        differ = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
        if differ:
            sys.exit(f"differ between {SOURCE.relative_to(ROOT)} and {SHIPPED.relative_to(ROOT)}: {', '.join(differ)}; run python tools/tutorials.py")
        return
    SHIPPED.mkdir(exist_ok=True)
    for name in {*there} - {*wanted}:
        (SHIPPED / name).unlink()
    for name, content in wanted.items():
        (SHIPPED / name).write_bytes(content)


if __name__ == "__main__":
    main()
