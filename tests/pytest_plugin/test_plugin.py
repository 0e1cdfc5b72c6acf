# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin, on test files made for it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest

import kmem

pytest_plugins = ["pytester"]

HEAD = """
import pytest
from kmem.errors import KernelReport
from kmem.linux.gfp import *
from kmem.linux.slab import *
"""
# Where the package is installed, pytest finds the plugin itself.
INSTALLED = any(point.value == "kmem.pytest_plugin" for point in entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "kmem.pytest_plugin")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    # The tests run in a folder of their own, where a relative path leads nowhere.
    paths = [str(Path(kmem.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + dedent(source))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *PLUGIN, *arguments)

    return run


def test_a_machine_for_a_test(run):
    result = run(
        """
        @pytest.mark.kmem(machine="i386", ram="512M", cpus=2, seed=5)
        def test_one(kmem_machine):
            assert kmem_machine.arch == "i386"
            assert kmem_machine.description.cpus == 2
            assert kmem_machine.seed == 5
            p = kmalloc(64, GFP_KERNEL)
            assert ksize(p) == 64
            kfree(p)

        def test_two(kmem_machine):
            assert kmem_machine.arch == "x86_64"
            assert kmem_machine.seed == 9
        """,
        "--kmem-seed=9",
    )
    result.assert_outcomes(passed=2)


def test_the_machine_of_the_command_line(run):
    source = """
        def test_one(kmem_machine):
            assert kmem_machine.arch == "i386"
        """
    run(source, "--kmem-machine=i386").assert_outcomes(passed=1)


def test_leaks_fail_a_test_and_are_listed_by_call_site(run):
    result = run(
        """
        def take(n):
            return [kmalloc(100, GFP_KERNEL) for _ in range(n)]

        def test_leaky(kmem_no_leaks):
            for address in take(5)[:2]:
                kfree(address)
            alloc_pages(GFP_KERNEL, 1)

        def test_clean(kmem_no_leaks):
            for address in take(5):
                kfree(address)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "4 allocations (8576 bytes) not freed by the test:",
            "  1 object, 8192 bytes, from test_leaky (*.py:*)",
            "  3 objects, 384 bytes, from take* (*.py:*)",
            "      called by *test_leaky (*.py:*)",
        ]
    )


def test_what_fixtures_hold_until_their_end_is_no_leak(run):
    result = run(
        """
        @pytest.fixture
        def buffer(kmem_no_leaks):
            address = kmalloc(64, GFP_KERNEL)
            yield address
            kfree(address)

        @pytest.fixture
        def lost(kmem_no_leaks):
            kmalloc(64, GFP_KERNEL)

        def test_good(buffer):
            assert ksize(buffer) == 64

        def test_bad(lost):
            pass
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*1 allocation (64 bytes) left behind by the test's fixtures:"])


def test_sleeping_in_atomic_context_fails_a_test(run):
    source = """
        from kmem.linux.preempt import preempt_disable, preempt_enable

        def test_asleep(kmem_machine):
            preempt_disable()
            p = kmalloc(64, GFP_KERNEL)
            preempt_enable()
            kfree(p)

        def swallow():
            preempt_disable()
            try:
                kfree(kmalloc(64, GFP_KERNEL))
            except KernelReport:
                pass
            preempt_enable()

        def test_swallowed(kmem_machine):
            swallow()

        @pytest.mark.kmem(allow_reports=True)
        def test_expected(kmem_machine):
            swallow()

        def test_left_open(kmem_machine):
            preempt_disable()
        """
    for reports in ("raise", "log"):
        result = run(source, f"--kmem-reports={reports}")
        result.assert_outcomes(passed=1, failed=3)
        result.stdout.fnmatch_lines(
            ["*BUG: sleeping function called from invalid context at *", "*init[[]1[]] exited with preempt_count 1*"]
        )


def test_a_damaged_slab_fails_a_test(run):
    result = run(
        """
        @pytest.mark.kmem(cmdline="slub_debug=FZPU", reports="log")
        def test_overflow(kmem_machine):
            p = kmalloc(64, GFP_KERNEL)
            kmem_machine.write(p + 64, b"x")
            kfree(p)

        @pytest.mark.kmem(cmdline="slub_debug=FZPU")
        def test_double_free(kmem_machine):
            keep, p = kmalloc(64, GFP_KERNEL), kmalloc(64, GFP_KERNEL)
            kfree(p)
            try:
                kfree(p)
            except KernelReport:
                pass
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
            "Allocated in test_overflow (*) age=0 cpu=0 pid=1",
            "BUG kmalloc-64 (Not tainted): Object already free",
        ]
    )


@pytest.mark.parametrize("reports", ["raise", "log"])
def test_damage_that_nothing_has_run_into_yet_fails_a_test(run, reports):
    result = run(
        """
        pytestmark = pytest.mark.kmem(cmdline="slub_debug=FZPU")

        def test_after_free(kmem_machine):
            p = kmalloc(60, GFP_KERNEL)
            kfree(p)
            kmem_machine.write(p + 8, b"x")

        def test_overflow(kmem_machine):
            p = kmalloc(64, GFP_KERNEL)
            kmem_machine.write(p + 64, b"x")

        def test_own_cache(kmem_machine):
            cache = kmem_cache_create("boxes", 40, 0, SLAB_RED_ZONE | SLAB_STORE_USER, None)
            kmem_machine.write(kmem_cache_alloc(cache, GFP_KERNEL) + 40, b"x")

        def test_clean(kmem_machine):
            p, q = kmalloc(64, GFP_KERNEL), kmalloc(64, GFP_KERNEL)
            kmem_machine.write(p, 64 * b"x")
            kfree(q)

        @pytest.mark.kmem(allow_reports=True)
        def test_expected(kmem_machine):
            p = kmalloc(64, GFP_KERNEL)
            kmem_machine.write(p + 64, b"x")

        @pytest.mark.kmem(cmdline="")
        def test_without_debugging(kmem_machine):
            p = kmalloc(60, GFP_KERNEL)
            kfree(p)
            kmem_machine.write(p + 8, b"x")
        """,
        f"--kmem-reports={reports}",
    )
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        [
            "the kernel reported:",
            "BUG kmalloc-64 (Not tainted): Poison overwritten",
            "Freed in test_after_free (*) age=0 cpu=0 pid=1",
            "BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
            "Allocated in test_overflow (*) age=0 cpu=0 pid=1",
            "BUG boxes (Not tainted): Right Redzone overwritten",
        ]
    )


def test_caches_left_behind_are_listed_by_call_site(run):
    result = run(
        """
        def make(name):
            return kmem_cache_create(name, 200, 0, 0, None)

        def test_leaky(kmem_no_leaks):
            make("first")
            kmem_cache_create("second", 1000, 0, SLAB_RED_ZONE, None)

        def test_shared(kmem_no_leaks):
            one, two = make("one"), make("two")
            kmem_cache_destroy(two)

        def test_clean(kmem_no_leaks):
            one, two = make("one"), make("two")
            kmem_cache_destroy(one)
            kmem_cache_destroy(two)
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "2 slab caches not destroyed by the test:",
            "  cache first (200 bytes an object) from make (*.py:*)",
            "      called by test_leaky (*.py:*)",
            "  cache second (1000 bytes an object) from test_leaky (*.py:*)",
            "1 slab cache not destroyed by the test:",
            "  cache one (200 bytes an object) from make (*.py:*)",
        ]
    )


def test_a_task_that_fails_fails_the_test(run):
    result = run(
        """
        from kmem.linux.delay import msleep

        def test_task(kmem_machine):
            def work():
                raise RuntimeError("the task's own")
            kmem_machine.spawn(work)
            msleep(10)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the task's own*"])


def test_faults_of_the_test(run):
    result = run(
        """
        def test_pressure(kmem_faults):
            kmem_faults.failslab.configure(probability=100, times=2)
            addresses = [kmalloc(64, GFP_ATOMIC) for _ in range(4)]
            assert [address is None for address in addresses] == [True, True, False, False]
        """
    )
    result.assert_outcomes(passed=1)


def test_every_failure_point_in_turn(run):
    result = run(
        """
        RUNS = []

        @pytest.mark.kmem_fail_each
        def test_careful(kmem_machine, kmem_no_leaks):
            RUNS.append(1)
            a = kmalloc(64, GFP_KERNEL)
            if a is None:
                return
            b = kmalloc(128, GFP_KERNEL)
            if b is None:
                kfree(a)
                return
            kfree(b)
            kfree(a)

        def test_afterwards():
            # without a failure, one for each of two objects and of the two slabs they need, and one that finds no more
            assert len(RUNS) == 6
        """
    )
    result.assert_outcomes(passed=2)


def test_the_failure_point_that_breaks_a_test_is_named(run):
    result = run(
        """
        @pytest.mark.kmem_fail_each
        def test_careless(kmem_machine, kmem_no_leaks):
            a = kmalloc(64, GFP_KERNEL)
            if a is None:
                return
            b = kmalloc(128, GFP_KERNEL)  # forgets a
            if b is None:
                return
            kfree(b)
            kfree(a)
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*1 allocation (64 bytes) not freed by the test:",
            "*kmem failure point*",
            "request 3 was made to fail: failslab at test_careless (*.py:*)",
        ]
    )


def test_too_many_failure_points(run):
    result = run(
        """
        @pytest.mark.kmem_fail_each(limit=3)
        def test_endless(kmem_machine):
            for n in range(10):
                kfree(kmalloc(64, GFP_KERNEL))
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*more than 3 failure points; raise the limit: kmem_fail_each(limit=6)*"])


def test_a_marker_without_its_fixture_and_unknown_arguments(run):
    result = run(
        """
        @pytest.mark.kmem_fail_each
        def test_nothing():
            pass

        @pytest.mark.kmem(memory="1G")
        def test_unknown(kmem_machine):
            pass

        @pytest.mark.kmem(ram="1K")
        def test_too_small(kmem_machine):
            pass
        """
    )
    result.assert_outcomes(failed=1, errors=2)
    result.stdout.fnmatch_lines(
        [
            "the marker kmem does not know memory; it knows machine, ram, *",
            "the machine does not boot: *",
            "kmem_fail_each needs the fixture kmem_machine",
        ]
    )


def test_tests_without_machines_are_left_alone(run):
    result = run("def test_plain():\n    pass\n")
    result.assert_outcomes(passed=1)


def test_the_plugin_costs_other_test_runs_nothing():
    """Every pytest run of a Python that has the package loads it, so it imports nothing heavy."""
    code = "import sys, kmem.pytest_plugin; print(sorted({'numpy', 'kmem.machine.machine'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
