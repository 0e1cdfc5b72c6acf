# SPDX-License-Identifier: GPL-2.0-only
"""Every example of the documentation runs, and every function of the API has its place in it.

The prompts of a page are one session: what an example defines, the next ones
may use, and a machine that an example enters runs until the end of the page.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import kmem.linux
from website.sessions import run_session

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
HEADERS = sorted(module.name for module in pkgutil.iter_modules(kmem.linux.__path__))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in PAGES if ">>> " in path.read_text()], ids=name_of)
def test_examples_of_a_page(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tries, wrong = run_session(path.read_text(), name_of(path))
    assert tries > 0
    assert not wrong, wrong


def functions(module: ModuleType) -> list[str]:
    """Names of the public functions of a header, compiled ones too."""
    return [
        name
        for name in module.__all__
        if callable(getattr(module, name)) and not inspect.isclass(getattr(module, name))
    ]


@pytest.mark.parametrize("header", HEADERS)
def test_every_function_of_a_header_is_in_its_page(header: str) -> None:
    names = functions(importlib.import_module(f"kmem.linux.{header}"))
    if not names:
        pytest.skip("a header without functions needs no page")
    page = ROOT / "docs" / f"linux-{header}.md"
    assert page.exists(), f"{len(names)} functions without a page {name_of(page)}"
    text = page.read_text()
    missing = [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    assert not missing, f"{name_of(page)} does not name {', '.join(missing)}"


def contexts(text: str) -> dict[str, list[str]]:
    """Return what the table of a page says of each function: whether it sleeps, its context, its memory."""
    rows: dict[str, list[str]] = {}
    table = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:3] == ["function", "sleeps", "context"]:
            table = True
        elif not line.startswith("|"):
            table = False
        elif table:
            rows.update(dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[1:]))
    return rows


@pytest.mark.parametrize("header", HEADERS)
def test_every_page_says_which_functions_sleep_and_where_they_may_be_called(header: str) -> None:
    page = ROOT / "docs" / f"linux-{header}.md"
    assert page.exists(), f"no page {name_of(page)}"
    rows = contexts(page.read_text())
    names = functions(importlib.import_module(f"kmem.linux.{header}"))
    assert sorted(rows) == sorted(names)
    for name, cells in rows.items():
        assert all(cells), f"{name_of(page)}: an empty cell for {name}"
        assert re.match(r"(yes|no|if|only)\b", cells[0]), f"{name_of(page)}: does {name} sleep? {cells[0]!r}"


def test_there_are_pages_with_examples() -> None:
    assert HEADERS
    assert any(">>> " in path.read_text() for path in PAGES)
