# SPDX-License-Identifier: GPL-2.0-only
"""Call sites: frames outside the package, innermost first."""

import types

from kmem.mm import callers
from kmem.mm.callers import NOWHERE, STACK_DEPTH, Site, caller, caller_site, stack, stack_sites


def _line() -> int:
    import sys

    return sys._getframe(1).f_lineno


def inside(function):
    """Return `function` as if it were written in a module of the package."""
    return types.FunctionType(function.__code__, {**function.__globals__, "__name__": "kmem.mm.pretended"})


def test_a_caller_is_a_function_a_file_and_a_line():
    assert caller() == f"test_a_caller_is_a_function_a_file_and_a_line (test_callers.py:{_line()})"


def test_frames_inside_the_package_do_not_show():
    def entry():
        return caller_site(), stack_sites()

    site, sites = inside(entry)()
    here = Site("test_frames_inside_the_package_do_not_show", "test_callers.py", _line() - 1)
    assert site == here
    assert sites[0] == here


def test_a_package_with_a_similar_name_is_not_this_package():
    def entry():
        return caller_site()

    other = types.FunctionType(entry.__code__, {**entry.__globals__, "__name__": "kmemory.things"})
    assert other().function.endswith("entry")


def test_a_stack_ends_at_the_test_runner():
    lines = stack()
    assert lines == [f"test_a_stack_ends_at_the_test_runner (test_callers.py:{_line() - 1})"]


def test_a_stack_ends_at_the_module_that_started_it():
    space = {"__name__": "script", "stack": stack}
    exec(compile("def f():\n    return stack()\nresult = f()\n", "/somewhere/script.py", "exec"), space)
    assert space["result"] == ["f (script.py:2)", "<module> (script.py:3)"]


def test_a_stack_is_no_deeper_than_a_kernel_track():
    def down(n):
        return stack_sites() if n == 0 else down(n - 1)

    sites = down(100)
    assert len(sites) == STACK_DEPTH
    assert len({site.line for site in sites}) == 1
    assert len(down(2)) == 4


def test_nobody_called():
    assert callers._outside(None) is None
    assert str(NOWHERE) == "kmem (-:0)"
