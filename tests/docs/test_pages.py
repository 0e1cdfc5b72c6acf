# SPDX-License-Identifier: GPL-2.0-only
"""Every example of the documentation runs, and every function of the API has its place in it.

The prompts of a page are one session: what an example defines, the next ones
may use, and a machine that an example enters runs until the end of the page.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import kmem.linux
from kmem.errors import StateError
from kmem.machine.machine import current_machine

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^ *```.*$", re.MULTILINE)
HEADERS = sorted(module.name for module in pkgutil.iter_modules(kmem.linux.__path__))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def leave_all_machines() -> None:
    """Shut down what a page has left running."""
    while True:
        try:
            machine = current_machine()
        except StateError:
            return
        machine.__exit__(None, None, None)


def session(path: Path) -> doctest.DocTest:
    # A fence right below an answer would be taken for a part of it.
    text = FENCE.sub("", path.read_text())
    return doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name_of(path), str(path), 0)


@pytest.mark.parametrize("path", [path for path in PAGES if ">>> " in path.read_text()], ids=name_of)
def test_examples_of_a_page(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    try:
        runner.run(session(path), out=report.append)
    finally:
        leave_all_machines()
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)


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


def test_there_are_pages_with_examples() -> None:
    assert HEADERS
    assert any(">>> " in path.read_text() for path in PAGES)
