"""README.md from nbs/index.ipynb: `python tools/readme.py` writes it, `--check` says whether it is up to date."""

import argparse
import posixpath
import re
import sys
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "nbs" / "index.ipynb"
README = ROOT / "README.md"


def readme(index=INDEX):
    """The text of README.md: the notebook as Markdown, its links made relative to the project's root."""
    text, resources = MarkdownExporter().from_filename(str(index))
    if resources["outputs"]:
        raise SystemExit(f"{index.name}: a picture is embedded; save it in nbs/images and link to it")

    def from_root(match):
        target = match[2]
        if re.match(r"[a-z]+:|#|/", target):
            return match[0]
        return match[1] + posixpath.normpath(posixpath.join(index.parent.name, target)) + match[3]

    text = re.sub(r"(\]\()([^)\s]+)(\))", from_root, text)
    text = re.sub(r'(<img [^>]*src=")([^"]+)(")', from_root, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit status 1 if they differ")
    text = readme()
    if not parser.parse_args().check:
        README.write_bytes(text.encode())
    elif not README.exists() or README.read_bytes() != text.encode():
        sys.exit("README.md differs from nbs/index.ipynb: run python tools/readme.py")


if __name__ == "__main__":
    main()
