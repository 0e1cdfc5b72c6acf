# SPDX-License-Identifier: GPL-2.0-only
"""The examples of a page, run as one session.

What an example defines, the next ones of the page may use, and a machine that
an example enters runs until the end of the page. Figures are files that
examples write into the current folder.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import tempfile
from pathlib import Path

from kmem.errors import StateError
from kmem.machine.machine import current_machine

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^ *```.*$", re.MULTILINE)


def session(text: str, name: str) -> doctest.DocTest:
    """Return all prompts of a page as one test."""
    # A fence right below an answer would be taken for a part of it.
    globs = {"__name__": "__main__"}
    return doctest.DocTestParser().get_doctest(FENCE.sub("", text), globs, name, name, 0)


def leave_all_machines() -> None:
    """Shut down what a page has left running."""
    while True:
        try:
            machine = current_machine()
        except StateError:
            return
        machine.__exit__(None, None, None)


def run_session(text: str, name: str) -> tuple[int, str]:
    """Run the examples of a page in the current folder.

    Returns
    -------
    tuple of int and str
        How many examples ran, and what was wrong, empty if nothing.
    """
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    try:
        runner.run(session(text, name), out=report.append)
    finally:
        leave_all_machines()
    return runner.tries, "".join(report)


def figures(text: str, name: str) -> dict[str, str]:
    """Run the examples of a page and return the drawings that they write, by file name.

    Raises
    ------
    ValueError
        If an example does not do what the page shows.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)
        _, wrong = run_session(text, name)
        if wrong:
            raise ValueError(f"{name}: an example does not do what the page shows\n{wrong}")
        return {path.name: path.read_text() for path in sorted(Path(folder).glob("*.svg"))}
