# SPDX-License-Identifier: GPL-2.0-only
"""Tests of kernel-style code under pytest: a machine for each test, and what must not happen on it.

The fixture ``kmem_machine`` boots a machine and makes it the current one.  A
test fails on anything its kernel reports (a slab found damaged, sleeping in
atomic context, an oops), even if the test itself goes on; with
``kmem_no_leaks`` on memory and slab caches that it leaves behind, listed by call site; and
marked ``kmem_fail_each`` it runs once more for each request for memory that it
makes, with that request failing.

Options are in the group *kmem* of ``pytest --help``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from kmem.machine.machine import Machine
    from kmem.mm.fault_inject import FaultInjection

__all__ = ["kmem_faults", "kmem_machine", "kmem_no_leaks"]

#: First lines of what a kernel reports.
_REPORT: Final = re.compile(
    r"BUG[ :]|kernel BUG at |WARNING: |Oops: |Kernel panic - |INFO: task |list_(add|del) corruption|note: .* exited "
)
_MACHINE_ARGUMENTS: Final = ("ram", "cpus", "nodes", "cmdline", "knobs", "seed", "reports")
_LEAKS_SHOWN: Final = 20


@dataclass(slots=True)
class _Run:
    """One run of a test that fails each request in turn."""

    nth: int
    failed_at: str = ""

    @property
    def injected(self) -> bool:
        return bool(self.failed_at)


_run_key = pytest.StashKey[_Run]()
_machine_key = pytest.StashKey["Machine"]()
_mark_key = pytest.StashKey[int]()
_failed_key = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("kmem", "kernel memory")
    group.addoption("--kmem-seed", type=int, default=0, metavar="N", help="seed of the machines' chance (default 0)")
    group.addoption(
        "--kmem-reports",
        choices=("raise", "log"),
        default="raise",
        help="whether a warning of the kernel is raised where it happens, or fails the test at its end",
    )
    group.addoption(
        "--kmem-machine", default="x86_64", metavar="MACHINE", help="preset or description to boot (default x86_64)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line(
        "markers",
        "kmem(machine, ram, cpus, nodes, cmdline, knobs, seed, reports, allow_reports): "
        "the machine of kmem_machine, and whether its kernel may report something",
    )
    config.addinivalue_line(
        "markers",
        "kmem_fail_each(limit=1000): run the test again for each request for memory, with that request failing",
    )


# Fixtures


def _settings(item: pytest.Item) -> dict[str, Any]:
    """Return the arguments of the marker, the nearest one first."""
    settings: dict[str, Any] = {}
    for marker in item.iter_markers("kmem"):
        if marker.args:
            raise pytest.UsageError("the marker kmem takes arguments by name only: kmem(ram='1G')")
        for name, value in marker.kwargs.items():
            settings.setdefault(name, value)
    unknown = set(settings) - {"machine", "allow_reports", *_MACHINE_ARGUMENTS}
    if unknown:
        known = ", ".join(("machine", *_MACHINE_ARGUMENTS, "allow_reports"))
        pytest.fail(f"the marker kmem does not know {', '.join(sorted(unknown))}; it knows {known}", pytrace=False)
    return settings


def _boot(item: pytest.Item) -> Machine:
    from kmem.errors import KmemError
    from kmem.machine.machine import Machine
    from kmem.mm.x86 import ARCHITECTURES

    settings = _settings(item)
    machine = settings.pop("machine", item.config.getoption("--kmem-machine"))
    settings.pop("allow_reports", None)
    settings.setdefault("seed", item.config.getoption("--kmem-seed"))
    settings.setdefault("reports", item.config.getoption("--kmem-reports"))
    if machine in ARCHITECTURES:
        settings.setdefault("ram", "256M")
    try:
        return Machine.boot(machine, **settings)
    except KmemError as error:
        pytest.fail(f"the machine does not boot: {error}", pytrace=False)


@pytest.fixture
def kmem_machine(request: pytest.FixtureRequest) -> Generator[Machine]:
    """Boot a machine and run the test in it; any report of its kernel fails the test."""
    item = request.node
    machine = _boot(item)
    machine.__enter__()
    item.stash[_machine_key] = machine
    try:
        yield machine
        if not item.stash.get(_failed_key, False):
            machine.validate()
    finally:
        del item.stash[_machine_key]
        # What a failed test leaves open (tasks, locks) is no news.
        error = pytest.fail.Exception("the test has failed") if item.stash.get(_failed_key, False) else None
        machine.__exit__(None if error is None else type(error), error, None)


@pytest.fixture
def kmem_no_leaks(request: pytest.FixtureRequest, kmem_machine: Machine) -> Generator[None]:
    """Fail the test if it leaves memory behind, with the places that asked for it."""
    leaks = kmem_machine.enable_kmemleak()
    item = request.node
    start = leaks.mark()
    item.stash[_mark_key] = start
    yield
    if not item.stash.get(_failed_key, False):
        _check_leaks(kmem_machine, start, "left behind by the test's fixtures")


@pytest.fixture
def kmem_faults(kmem_machine: Machine) -> FaultInjection:
    """Fault injection of the machine of the test; nothing fails until it is told to."""
    return kmem_machine.faults


# What must not happen


def _check_leaks(machine: Machine, since: int, what: str) -> None:
    lines = [*_leaked_memory(machine, since, what), *_leaked_caches(machine, since, what)]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def _leaked_memory(machine: Machine, since: int, what: str) -> list[str]:
    groups = machine.kmemleak.by_site(since)
    if not groups:
        return []
    count = sum(group.count for group in groups)
    size = sum(group.size_bytes for group in groups)
    lines = [f"{_several(count, 'allocation')} ({_several(size, 'byte')}) {what}:"]
    for group in groups[:_LEAKS_SHOWN]:
        lines.append(f"  {group}")
        lines += [f"      called by {site}" for site in group.objects[0].trace[1:]]
    if len(groups) > _LEAKS_SHOWN:
        lines.append(f"  and {_several(len(groups) - _LEAKS_SHOWN, 'more place')}")
    return lines


def _leaked_caches(machine: Machine, since: int, what: str) -> list[str]:
    caches = machine.kmemleak.unfreed_caches(since)
    if not caches:
        return []
    lines = [f"{_several(len(caches), 'slab cache')} {what.replace('freed', 'destroyed')}:"]
    for cache in caches[:_LEAKS_SHOWN]:
        lines.append(f"  cache {cache.cache} ({_several(cache.size, 'byte')} an object) from {cache.site}")
        lines += [f"      called by {site}" for site in cache.trace[1:]]
    if len(caches) > _LEAKS_SHOWN:
        lines.append(f"  and {_several(len(caches) - _LEAKS_SHOWN, 'more cache')}")
    return lines


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _validate_slabs(machine: Machine) -> None:
    """Have every cache with debugging checked: a write nobody has stumbled upon yet is found now, and reported."""
    from kmem.errors import KernelWarning
    from kmem.mm.slab_flags import SLAB_DEBUG_FLAGS

    slub = machine.slub
    for index in sorted(set(slub.geometries)):
        if slub.geometries[index].flags & SLAB_DEBUG_FLAGS:
            # The report is in the log, where it is looked for.
            with contextlib.suppress(KernelWarning):
                slub.validate_slab_cache(index)


def _check_reports(item: pytest.Item, machine: Machine, seen: int) -> None:
    if _settings(item).get("allow_reports"):
        return
    lines = machine.log.lines[seen:]
    for place, line in enumerate(lines):
        if _REPORT.match(line.text):
            text = "\n".join(line.text for line in lines[max(0, place - 1) :])
            pytest.fail(f"the kernel reported:\n{text}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run the test, then look for reports and leaks while the machine still runs."""
    machine = item.stash.get(_machine_key, None)
    if machine is None:
        if item.stash.get(_run_key, None) is not None:
            pytest.fail("kmem_fail_each needs the fixture kmem_machine", pytrace=False)
        return (yield)
    run = item.stash.get(_run_key, None)
    mark = machine.kmemleak.mark() if _mark_key in item.stash else None
    seen = len(machine.log.lines)
    if run is not None:
        machine.failslab.verbose = machine.fail_page_alloc.verbose = 0
        machine.faults.countdown = run.nth
    item.stash[_failed_key] = True  # until all has gone well
    try:
        result = yield
    finally:
        if run is not None:
            run.failed_at = _failed_at(machine.faults)
            machine.faults.countdown = 0
    machine.sched.finish()
    _validate_slabs(machine)
    _check_reports(item, machine, seen)
    if mark is not None:
        _check_leaks(machine, mark, "not freed by the test")
    item.stash[_failed_key] = False
    return result


def _failed_at(faults: FaultInjection) -> str:
    """Say which request the countdown made fail; an empty text if it did not come to that."""
    attr = faults.counted_down
    if attr is None:
        return ""
    return f"{attr.name} at " + (", called by ".join(str(site) for site in attr.failed_at) or "(no Python code)")


# One run for each failure point


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test marked ``kmem_fail_each`` until no request is left that has not failed once."""
    marker = item.get_closest_marker("kmem_fail_each")
    if marker is None:
        return None
    limit = int(marker.kwargs.get("limit", 1000))
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = _run_each(item, nextitem, limit)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_each(item: pytest.Item, nextitem: pytest.Item | None, limit: int) -> list[pytest.TestReport]:
    """Return the reports of the first run that fails, or else those of the run in which all is well."""
    from _pytest.runner import runtestprotocol

    first: list[pytest.TestReport] = []
    for nth in range(limit + 1):
        run = item.stash[_run_key] = _Run(nth)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        del item.stash[_run_key]
        if any(report.failed for report in reports):
            if run.injected:
                _explain(reports, nth, run.failed_at)
            return reports
        first = first or reports
        if any(report.skipped for report in reports) or (nth and not run.injected):
            for report in first:
                report.user_properties.append(("kmem_failure_points", max(nth - 1, 0)))
            return first
    text = f"more than {limit} failure points; raise the limit: kmem_fail_each(limit={2 * limit})"
    for report in first:
        if report.when == "call":
            report.outcome = "failed"
            report.longrepr = text
    return first


def _explain(reports: list[pytest.TestReport], nth: int, failed_at: str) -> None:
    for report in reports:
        if report.failed:
            report.sections.append(("kmem failure point", f"request {nth} was made to fail: {failed_at}"))
            report.user_properties.append(("kmem_failed_request", nth))
