"""Packaging, read from settings.ini so that each fact stands in one place.
A built package holds the notebooks too, for `semgan lab`."""

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


class WithTheBook(build_py):
    "The modules as usual, and nbs/ as semgan_nb/book; a checkout that is installed in place reads nbs/ itself."

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(
                here / "nbs",
                Path(self.build_lib) / "semgan_nb" / "book",
                ignore=shutil.ignore_patterns(".*", "_*", "quickstart"),
                dirs_exist_ok=True,
            )


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=["semgan_nb", "semgan_nb.*"]),
    package_data={"semgan_nb": ["superalloy/*", "records/*", "records/**/*", "lab/labconfig/*", "templates/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={name: cfg[f"{name}_requirements"].split() for name in ("dev", "topology", "cluster")},
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    cmdclass={"build_py": WithTheBook},
)
