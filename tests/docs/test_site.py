# SPDX-License-Identifier: GPL-2.0-only
"""The documentation site builds without a warning, whole, and needs no network to be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import kmem
from kmem.cli.app import COMMANDS
from website.differences import differences, differences_of

ROOT = Path(__file__).parents[2]
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers.python")


def installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def build(folder: Path) -> None:
    missing = [name for name in NEEDED if not installed(name)]
    if missing:
        pytest.skip(f"the site needs {', '.join(missing)}: pip install '.[docs]'")
    paths = [str(Path(kmem.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [ROOT / "build-docs", "--site-dir", folder],
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def every_page_is_there(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not (site / page).exists()] == []
    modules = [path for path in (ROOT / "src/kmem/mm").glob("*.py") if path.stem != "__init__"]
    assert [path.stem for path in modules if not (site / f"reference/kmem.mm.{path.stem}.html").exists()] == []


def the_reference_shows_functions_and_commands(site: Path) -> None:
    text = (site / "reference/kmem.mm.page_alloc.html").read_text()
    assert 'id="kmem.mm.page_alloc.PageAllocator.slowpath"' in text, "read from the source, not from what is compiled"
    commands = (site / "commands.html").read_text()
    assert all(f'id="kmem-{name}"' in commands and f"Usage: kmem {name}" in commands for name in COMMANDS)


def figures_are_drawn_by_the_model(site: Path) -> None:
    drawings = sorted(path.name for path in (site / "tutorial").glob("*.svg"))
    assert drawings == ["i386.svg", "vmalloc.svg", "x86_64.svg"]
    for name in drawings:
        assert (site / "tutorial" / name).read_text().startswith("<svg")
    assert "driver" in (site / "tutorial/vmalloc.svg").read_text()
    screen = (site / "howto/top.svg").read_text()
    assert "session" in screen
    assert "url(" not in screen.replace("url(#", "")


def tables_of_the_readme_are_on_the_site(site: Path) -> None:
    text = (site / "faithful.html").read_text()
    figures = re.findall(r"[\d,]+ / [\d,]+", (ROOT / "README.md").read_text())
    assert len(figures) > 10
    assert all(figure in text for figure in figures)
    assert "README:" not in text


def nothing_is_fetched_while_reading(site: Path) -> None:
    fetched = re.compile(r"""<(?:script|img|iframe)[^>]*\bsrc=["']?https?:|<link[^>]*\bhref=["']?https?:""")
    assert [str(path) for path in site.rglob("*.html") if fetched.search(path.read_text())] == []
    assert 'src="../assets/iframe-worker.js"' in (site / "tutorial/kmalloc.html").read_text()
    assert (site / "assets/iframe-worker.js").exists()


def test_the_site(tmp_path: Path) -> None:
    """One test, since the tests of a module may run in processes that would each build the site."""
    build(tmp_path)
    every_page_is_there(tmp_path)
    the_reference_shows_functions_and_commands(tmp_path)
    figures_are_drawn_by_the_model(tmp_path)
    tables_of_the_readme_are_on_the_site(tmp_path)
    nothing_is_fetched_while_reading(tmp_path)


def test_docstrings_become_markdown() -> None:
    docstrings = pytest.importorskip("website.docstrings", reason="pip install '.[docs]'", exc_type=ImportError)
    text = "See :func:`kmem.mm.pcp.free`.\n\n>>> 1 + 1\n2\n\nSource: mm/a.c:b @6.1.192\nDiffers: not much."
    assert docstrings.markdown(text) == (
        "See `kmem.mm.pcp.free`.\n\n```pycon\n>>> 1 + 1\n2\n```\n\n\n"
        "**Source:** mm/a.c:b @6.1.192\n\n**Differs:** not much."
    )
    section = "Do.\n\nExamples\n--------\n>>> 1 + 1\n2"
    assert docstrings.markdown(section) == section


def test_every_known_difference_is_collected() -> None:
    labels = sum(
        len(re.findall(r"^\s*Differs:", path.read_text(), re.MULTILINE)) for path in (ROOT / "src").rglob("*.py")
    )
    found = differences()
    assert len(found) == labels
    assert [note for note in found if len(note.text) < 10] == []


def test_a_difference_reaches_to_the_end_of_its_paragraph() -> None:
    code = '''
class Thing:
    def call(self):
        """Do it.

        Source: mm/thing.c:call @6.1.192
        Differs: the first,
        still the first.
        Complexity: O(1)
        """
'''
    (note,) = differences_of("kmem.mm.thing", code)
    assert (note.name, note.source, note.text) == (
        "Thing.call",
        "mm/thing.c:call @6.1.192",
        "The first, still the first.",
    )
