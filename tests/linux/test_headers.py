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


def test_names_that_two_headers_share_are_one_function() -> None:
    from kmem.linux import gfp, io, mm, slab, uaccess

    assert mm.copy_to_user is uaccess.copy_to_user and mm.copy_from_user is uaccess.copy_from_user
    assert mm.virt_to_phys is io.virt_to_phys and mm.phys_to_virt is io.phys_to_virt
    for name in ("virt_to_page", "page_address", "page_to_pfn", "pfn_to_page"):
        assert getattr(mm, name) is getattr(gfp, name)
    with Machine.boot("x86_64", ram="256M", cmdline="slub_debug=ZFPU,tested") as m:
        cache = slab.kmem_cache_create("tested", 64, 0, 0, None)
        obj = m.kmem_cache_alloc(cache, slab.GFP_KERNEL)
        assert slab.validate_slab_cache(cache) == 1
        slab.kmem_cache_free(cache, obj)
