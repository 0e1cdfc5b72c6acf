# SPDX-License-Identifier: GPL-2.0-only
"""Every call of the API with None and other wrong things for each of its arguments, in processes of their own."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kmem.linux
from kmem import Machine
from kmem.errors import KmemError
from kmem.linux.gfp import GFP_KERNEL, alloc_pages
from kmem.linux.mempool import mempool_create_kmalloc_pool
from kmem.linux.slab import kmalloc, kmem_cache_create
from kmem.linux.vmalloc import vmalloc
from kmem.mm.slub_validate import validate_slab_cache

HEADERS = sorted(module.name for module in pkgutil.iter_modules(kmem.linux.__path__))
WRONG: list[Any] = [None, "x", b"ab", 1.5, -1, 2**64, [], [None], {}, object(), lambda *args: 0]
#: Seconds that all calls of one header may take; a call that never comes back is a failure, too.
LIMIT_S = 120


def functions(header: str) -> list[tuple[str, Callable[..., Any]]]:
    module = importlib.import_module(f"kmem.linux.{header}")
    things = [(name, getattr(module, name)) for name in module.__all__]
    calls = [(name, thing) for name, thing in things if callable(thing) and not inspect.isclass(thing)]
    if header == "slab":
        calls.append(("validate_slab_cache", validate_slab_cache))
    return calls


def right(name: str) -> Any:
    """Return something that an argument of this name could be, so that the call gets as far as the others."""
    match name:
        case "s" | "cachep" | "slab_cache" | "cache":
            return kmem_cache_create("c", 100)
        case "pool":
            return mempool_create_kmalloc_pool(1, 8)
        case "flags" | "gfp" | "gfp_mask" | "gfp_flags":
            return GFP_KERNEL
        case "page":
            return alloc_pages(GFP_KERNEL, 0)
        case "addr" | "virt" | "vaddr":
            return vmalloc(100)
        case "p" | "objp" | "object" | "x":
            return kmalloc(64, GFP_KERNEL)
        case "order" | "align" | "useroffset" | "usersize":
            return 0
        case "ctor" | "dtor":
            return None
        case "name" | "fmt" | "namefmt":
            return "name"
        case _:
            return 1


def arguments(names: list[str], wrong_ones: list[Any]) -> Iterator[list[Any]]:
    """Yield lists of arguments: one of them wrong and the others right, then all of them wrong."""
    for place, wrong in itertools.product(range(len(names)), wrong_ones):
        yield [wrong if at == place else right(name) for at, name in enumerate(names)]
    for wrong in wrong_ones:
        yield [wrong] * len(names)


def call_with(name: str, function: Callable[..., Any], calls: Iterator[list[Any]]) -> Iterator[str]:
    """Make a call with each of these arguments; yield what should not have come of it."""
    while True:
        try:
            values = next(calls, None)
            if values is None:
                return
            function(*values)
        except (KmemError, ValueError, TypeError, OSError):
            pass
        except BaseException as error:
            yield f"{name}({', '.join(map(repr, values or []))}): {type(error).__name__}: {error}"


def call_all(header: str) -> list[str]:
    """Make all calls; return what else than an error of the expected kinds came of them."""
    faults = []
    for name, function in functions(header):
        print(name, flush=True)
        parameters = inspect.signature(function).parameters.values()
        names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        # 2**64 seconds are long even on virtual time
        calls = arguments(names, [wrong for wrong in WRONG if header != "delay" or wrong != 2**64])
        # a call that came through may leave interrupts off, which the end of the block reports
        with contextlib.suppress(KmemError), Machine.boot("x86_64", ram="128M"):
            faults += list(call_with(name, function, calls))
    return faults


@pytest.mark.parametrize("header", HEADERS)
def test_wrong_arguments_are_refused(header: str) -> None:
    command = [sys.executable, "-c", f"from {__name__} import main; main({header!r})"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    last = done.stdout.splitlines()[-1:]
    if done.returncode < 0:
        pytest.fail(f"{signal.Signals(-done.returncode).name} in {last}")
    assert not done.returncode, done.stderr


def main(header: str) -> None:
    faults = call_all(header)
    print(*faults, sep="\n", file=sys.stderr, flush=True)
    os._exit(1 if faults else 0)


@pytest.mark.parametrize("name", ["kmem_cache_shrink", "kmem_cache_size", "validate_slab_cache"])
@pytest.mark.parametrize("wrong", [None, 5, "c"])
def test_no_cache_is_a_type_error(name: str, wrong: Any) -> None:
    function = dict(functions("slab"))[name]
    with Machine.boot("x86_64", ram="128M"), pytest.raises(TypeError):
        function(wrong)


WRONG_CALLS: list[Callable[[Machine], object]] = [
    lambda m: m.struct(kmalloc(64, GFP_KERNEL), int),
    lambda m: m.restore(5),
    lambda m: setattr(m, "cpu", "a"),
    lambda m: m.memory(kmalloc(64, GFP_KERNEL), "x"),
    lambda m: m.validate_slab_cache(None),
    lambda m: m.vmalloc("x"),
    lambda m: m.kvfree("x"),
    lambda m: m.vfree([]),
    lambda m: m.kfree_bulk(2, None),
    lambda m: m.vmap(None, 1, 4),
    lambda m: m.wake_up_process(None),
    lambda m: m.kthread_stop(None),
    lambda m: m.unregister_shrinker(3),
    lambda m: Machine.boot(cmdline=5),
    lambda m: Machine.boot(cpus="a"),
    lambda m: Machine.boot(nodes=1.5),
    lambda m: Machine.boot(ram=[]),
]


@pytest.mark.parametrize("call", WRONG_CALLS)
def test_wrong_types_are_told_in_a_sentence(call: Callable[[Machine], object]) -> None:
    with Machine.boot("x86_64", ram="128M") as m, pytest.raises(TypeError) as caught:
        call(m)
    assert "not " in str(caught.value) or " no " in str(caught.value)


def test_more_bytes_than_there_are_addresses() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        addr = m.kmalloc(64, GFP_KERNEL)
        with pytest.raises((ValueError, KmemError)):
            m.kvfree_sensitive(2**64, addr)
        with pytest.raises((ValueError, KmemError)):
            m.memset_io(None, 0, 2**70)


def test_an_order_that_is_too_large_is_named() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        page = m.alloc_pages(GFP_KERNEL, 0)
        with pytest.raises(ValueError, match="order 77"):
            m.__free_pages(page, 77)
        m.__free_pages(page, 0)


def test_the_state_is_a_bad_value_too() -> None:
    with pytest.raises(ValueError, match="no machine is running"):
        kmalloc(64, GFP_KERNEL)
    with Machine.boot("x86_64", ram="128M") as m:
        cache = m.kmem_cache_create("c", 100)
        m.kmem_cache_destroy(cache)
        with pytest.raises(ValueError, match="destroyed"):
            m.kmem_cache_alloc(cache, GFP_KERNEL)
        pool = mempool_create_kmalloc_pool(1, 8)
        m.mempool_destroy(pool)
        with pytest.raises(ValueError, match="destroyed"):
            m.mempool_alloc(pool, GFP_KERNEL)
    with pytest.raises(ValueError, match="shut down"):
        m.kmalloc(64, GFP_KERNEL)


def test_blocks_in_each_other_end_with_the_outermost() -> None:
    with Machine.boot("x86_64", ram="128M") as m:
        with m:
            addr = kmalloc(64, GFP_KERNEL)
        m.kfree(addr)
        assert kmalloc(64, GFP_KERNEL)
        m.log.printk("the last words")
    assert "the last words" in m.dmesg()
    with pytest.raises(ValueError, match="shut down"):
        m.validate()


def test_a_name_that_is_taken_is_given_again() -> None:
    """A kernel takes the old entry out of sysfs before it enters the new one: no -EEXIST."""
    with Machine.boot("x86_64", ram="128M"):
        first, second = (kmem_cache_create("dup", 100, 0, 0x800) for _ in range(2))
        assert first is not None
        assert second is not None
        assert first.index != second.index
