"""Give chapters other numbers: `python tools/renumber.py 33=36 34=33` renames the notebooks, and every text that
names their numbers or their files follows.

Files are renamed all at once, so numbers may change places. What follows: "chapter NN" in notebooks, modules, tests,
benchmarks and texts; links to NN_name.ipynb; the table of the index, whose rows are put in
order. Afterwards `nbdev_export` writes the modules. `--check` only says what would change."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXTS = (
    "nbs/*.ipynb",
    "nbs/*/*.ipynb",
    "tests/**/*.py",
    "benchmarks/*.py",
    "benchmarks/*.md",
    "tools/*.py",
    "*.md",
    "tests/data/README.md",
)


def asked(words: list[str], chapters: dict[str, Path]) -> dict[str, str]:
    "Old number -> new number, from words such as 33=36; ends with a sentence where that cannot be."
    moves = {}
    for word in words:
        if not re.fullmatch(r"\d\d=\d\d", word):
            sys.exit(f"{word!r} is no change of a number: write OLD=NEW, such as 33=36")
        old, new = word.split("=")
        if old not in chapters:
            sys.exit(f"there is no chapter {old}: there are {', '.join(chapters)}")
        moves[old] = new
    after = [moves.get(number, number) for number in chapters]
    double = sorted({number for number in after if after.count(number) > 1})
    if double:
        sys.exit(f"two chapters would have the number {double[0]}: move the one that has it too")
    return moves


def renamed(text: str, moves: dict[str, str], files: dict[str, str]) -> str:
    "A text with the new numbers and the new names of files."
    text = re.sub(
        r"\b([Cc]hapters? )(\d\d)((?:(?:, | and | to |-)\d\d)*)\b",
        lambda m: m[1] + re.sub(r"\d\d", lambda n: moves.get(n[0], n[0]), m[2] + m[3]),
        text,
    )
    text = re.sub(r"\[(\d\d)\](?=\((?:\.\./)?\d\d_\w)", lambda m: f"[{moves.get(m[1], m[1])}]", text)
    text = re.sub(r"\b\d\d_[\w.]+\.ipynb", lambda m: files.get(m[0], m[0]), text)
    return re.sub(r"^(\s*\"?\| )(\d\d)( \| \[)", lambda m: m[1] + moves.get(m[2], m[2]) + m[3], text, flags=re.M)


def in_order(text: str) -> str:
    "The index with the rows of its table in the order of their numbers, each under the title of its part."
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        lines = cell["source"]
        at = [k for k, line in enumerate(lines) if re.match(r"\| (\*\*\d\*\*|\d\d) \| ", line)]
        if at:
            key = lambda line: re.match(r"\| \**(\d\d?)", line)[1]
            lines[at[0] : at[-1] + 1] = sorted(
                lines[at[0] : at[-1] + 1], key=lambda line: (key(line)[0], len(key(line)), key(line))
            )
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("moves", nargs="+", metavar="OLD=NEW")
    parser.add_argument("--check", action="store_true", help="say what would change, change nothing")
    options = parser.parse_args()
    chapters = {path.name[:2]: path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))}
    moves = asked(options.moves, chapters)
    files = {chapters[old].name: new + chapters[old].name[2:] for old, new in moves.items()}
    touched = []
    for path in sorted({path for pattern in TEXTS for path in ROOT.glob(pattern)}):
        if "v0.1.0" in path.parts or path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        new = renamed(text, moves, files)
        if path.name == "index.ipynb" and new != text:
            new = in_order(new)
        if new != text:
            touched.append(path.relative_to(ROOT).as_posix())
            if not options.check:
                path.write_text(new, encoding="utf-8", newline="\n")
    print("\n".join([*(f"{old} -> {new}" for old, new in files.items()), *touched]))
    if options.check:
        return
    for old, new in files.items():  # first out of each other's way
        (ROOT / "nbs" / old).rename(ROOT / "nbs" / f"moving-{new}")
    for new in files.values():
        (ROOT / "nbs" / f"moving-{new}").rename(ROOT / "nbs" / new)
    subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=ROOT, check=True
    )
    subprocess.run([sys.executable, ROOT / "tools" / "readme.py"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
