# SPDX-License-Identifier: GPL-2.0-only
"""Every example in a docstring of the package runs, in compiled modules too.

The examples are taken from the source, because a compiled module does not
show its functions to :mod:`doctest`.
"""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules_with_examples() -> list[str]:
    """Names of the modules whose source has a doctest prompt."""
    return sorted(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCE.rglob("*.py")
        if ">>> " in path.read_text()
    )


def docstrings(module: str) -> list[tuple[str, str, int]]:
    """Qualified name, text and line of each docstring of a module."""
    path = SOURCE / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and ">>> " in text:
                found.append((getattr(node, "name", module), text, getattr(node, "lineno", 1)))
    return found


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples(module: str) -> None:
    names = vars(importlib.import_module(module))
    found = docstrings(module)
    assert found, "the examples are not in a docstring"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    for name, text, line in found:
        test = doctest.DocTestParser().get_doctest(text, dict(names), f"{module}.{name}", module, line)
        runner.run(test, out=report.append, clear_globs=True)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)
