# SPDX-License-Identifier: GPL-2.0-only
"""What all headers have in common."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

import kmem.linux
from kmem import Machine

HEADERS = sorted(module.name for module in pkgutil.iter_modules(kmem.linux.__path__))
# kmemleak's calls speak to the leak detection of the machine, which has methods of its own.
NO_METHODS = {"kmemleak"}


@pytest.mark.parametrize("header", HEADERS)
def test_names_are_there_and_functions_are_documented(header: str) -> None:
    module = importlib.import_module(f"kmem.linux.{header}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert inspect.getdoc(thing), name


@pytest.mark.parametrize("header", sorted(set(HEADERS) - NO_METHODS))
def test_every_call_is_a_method_too(header: str) -> None:
    module = importlib.import_module(f"kmem.linux.{header}")
    things = {name: getattr(module, name) for name in module.__all__}
    functions = [name for name, thing in things.items() if callable(thing) and not inspect.isclass(thing)]
    missing = [name for name in functions if not hasattr(Machine, name)]
    assert not missing


@pytest.mark.parametrize("header", ["gfp", "slab", "vmalloc"])
def test_what_gives_memory_says_where_it_may_be_called(header: str) -> None:
    module = importlib.import_module(f"kmem.linux.{header}")
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing) and not inspect.isclass(thing):
            text = inspect.getdoc(thing)
            assert text and re.search(r"sleep|[Cc]ontext|interrupt|atomic", text), name
