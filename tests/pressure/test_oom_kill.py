# SPDX-License-Identifier: GPL-2.0-only
"""The OOM killer: whom it picks, what it prints, what is left.

Two reports of real kernels (``tests/data/logs/*oom*``) give a table of all
processes.  From the table alone the model has to pick the victim that the
kernel picked, and print the kernel's lines: the table, the summary and the
line about the kill, byte for byte.

A guest of 512 MiB (``oom-512M``) ran eight processes of different sizes and
``oom_score_adj``, printed ``/proc/PID/oom_score`` of all, and had the OOM
killer called six times: every score, and each of the six victims in turn, is
the kernel's.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kmem import Machine
from kmem.errors import DeadlockError, KernelPanic, ProcessKilled
from kmem.mm.gfp import (
    __GFP_NOFAIL,
    __GFP_NORETRY,
    __GFP_NOWARN,
    __GFP_RETRY_MAYFAIL,
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
)
from kmem.mm.hooks import Request
from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from kmem.mm.oom_kill import OOM_SCORE_ADJ_MIN, oom_badness
from kmem.mm.reclaim import Reclaim
from kmem.mm.task import PF_KTHREAD, Task
from tests.mm.machines import one_zone
from tests.mm.mem_info import log_lines
from tests.pressure.machines import bare_kernel

LOGS = sorted((Path(__file__).parents[1] / "data/logs").glob("*oom*.txt"))
ROW = re.compile(r"\[ *(\d+)\] +\d+ +\d+ +(\d+) +(\d+) +(\d+) +(\d+) +(-?\d+) (.+)")
KILL = re.compile(r"anon-rss:(\d+)kB, file-rss:(\d+)kB, shmem-rss:(\d+)kB")
RW, PRIVATE = PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
MIB = 1 << 20


def process(
    pid: int, comm: str, rss: int, *, total_vm: int = 0, pgtables: int = 0, swapents: int = 0, adj: int = 0
) -> Task:
    """A process of so many anonymous pages."""
    mm = SimpleNamespace(
        rss=rss, rss_stat=[0, rss, swapents, 0], total_vm=total_vm, pgtables_bytes=pgtables, oom_skip=False
    )
    return Task(pid, comm, mm=mm, oom_score_adj=adj)


def killer(tasks: list[Task], pages: int = 4096) -> Any:
    """An OOM killer with these processes, which frees nothing when it kills."""
    reclaim: Reclaim = bare_kernel(one_zone(pages)).reclaim
    reclaim.processes = lambda: tasks  # type: ignore[method-assign]
    reclaim.kill = lambda task: None  # type: ignore[method-assign]
    return reclaim.oom


REQUEST = Request(GFP_KERNEL, 0, 0, 0, 2, 0)


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_victim_and_lines_are_the_kernels(path: Path) -> None:
    lines = log_lines(path)
    first = lines.index("Tasks state (memory values in pages):")
    real = lines[first : first + 2 + next(i for i, line in enumerate(lines[first + 2 :]) if line[0] != "[") + 2]
    tasks = []
    for line in real[2:-2]:
        row = ROW.fullmatch(line)
        assert row
        pid, total_vm, rss, pgtables, swapents, adj = map(int, row.groups()[:6])
        tasks.append(process(pid, row[7], rss, total_vm=total_vm, pgtables=pgtables, swapents=swapents, adj=adj))
    # What of the resident pages is a file's, only the last line tells.
    victim = next(task for task in tasks if f" {task.pid} (" in real[-1])
    resident = KILL.search(real[-1])
    assert resident
    anon, file, shmem = (int(kb) // 4 for kb in resident.groups())
    victim.mm.rss_stat = [file, anon, 0, shmem]
    oom = killer(tasks)
    assert oom.select_bad_process() is victim
    oom.out_of_memory(REQUEST)
    printed = [line.text for line in oom.reclaim.kernel.printk.lines]
    assert printed[printed.index(real[0]) :] == real
    assert oom.killed == [victim]


@pytest.mark.parametrize(
    ("task", "points"),
    [
        (process(5, "a", 100), 100),
        (process(5, "a", 100, pgtables=8192, swapents=7), 109),
        (process(5, "a", 100, adj=1), 104),  # one thousandth of 4096 pages
        (process(5, "a", 100, adj=-500), 100 - 2000),
        (process(5, "a", 100, adj=OOM_SCORE_ADJ_MIN), None),
        (process(1, "init", 100), None),
        (Task(5, "kthread", PF_KTHREAD), None),
        (Task(5, "gone"), None),
    ],
)
def test_badness(task: Task, points: int | None) -> None:
    assert oom_badness(task, 4096) == points


def guest() -> tuple[int, list[list[str]], list[tuple[list[Task], int]]]:
    """Pages of memory, the lines about processes, and the table and victim of each kill."""
    lines = (Path(__file__).parents[1] / "data/pressure/oom-512M.txt").read_text().splitlines()
    pages = int(lines[0].split()[1]) // 4
    shown = [line.split() for line in lines if line.startswith("P ")]
    kills: list[tuple[list[Task], int]] = []
    victims = [int(found[1]) for line in lines if (found := re.match(r"Out of memory: Killed process (\d+)", line))]
    for line in lines:
        row = ROW.fullmatch(line)
        if line.startswith("Tasks state"):
            kills.append(([], victims[len(kills)]))
        elif row:
            pid, total_vm, rss, pgtables, swapents, adj = map(int, row.groups()[:6])
            task = process(pid, row[7], rss, total_vm=total_vm, pgtables=pgtables, swapents=swapents, adj=adj)
            kills[-1][0].append(task)
    return pages, shown, kills


def test_scores_are_those_of_the_kernel() -> None:
    pages, shown, _ = guest()
    assert len(shown) > 15
    for pid, score, adj, _, resident, *rest in (line[1:] for line in shown):
        pgtables = 1024 * int(rest[rest.index("VmPTE:") + 1])
        points = oom_badness(process(int(pid), "p", int(resident), pgtables=pgtables, adj=int(adj)), pages)
        # fs/proc/base.c:proc_oom_score
        ours = 0 if points is None else int((1000 + int(points * 1000 / pages)) * 2 / 3)
        assert ours == int(score), pid


def test_six_victims_in_the_kernels_order() -> None:
    pages, _, kills = guest()
    assert len(kills) == 6
    for tasks, victim in kills:
        oom = killer(tasks)
        oom.totalpages = lambda: pages
        chosen = oom.select_bad_process()
        assert chosen.pid == victim
    assert len({victim for _, victim in kills}) == 6


def test_the_youngest_of_equals_is_chosen_and_negative_points_count() -> None:
    a, b, c = process(3, "a", 50), process(4, "b", 50), process(5, "c", 20)
    assert killer([a, b, c]).select_bad_process() is b
    assert killer([process(3, "a", 50, adj=-900)]).select_bad_process() is not None
    assert killer([]).select_bad_process() is None


def test_nothing_to_kill_is_the_end() -> None:
    oom = killer([process(3, "a", 50, adj=OOM_SCORE_ADJ_MIN)])
    with pytest.raises(KernelPanic, match="System is deadlocked on memory"):
        oom.out_of_memory(REQUEST)
    assert "Out of memory and no killable processes..." in oom.reclaim.kernel.printk.text()


@pytest.mark.parametrize(("value", "kind"), [(1, "system-wide"), (2, "compulsory")])
def test_panic_on_oom(value: int, kind: str) -> None:
    oom = killer([process(3, "a", 50)])
    oom.panic_on_oom = value
    with pytest.raises(KernelPanic, match=f"{kind} panic_on_oom is enabled"):
        oom.out_of_memory(REQUEST)


def test_who_may_not_enter_file_systems_waits_for_others() -> None:
    oom = killer([process(3, "a", 50)])
    assert oom.out_of_memory(Request(GFP_NOFS, 0, 0, 0, 2, 0))
    assert oom.killed == []


def test_notifiers_come_first() -> None:
    oom = killer([process(3, "a", 50)])
    oom.notifiers.append(lambda: 5)
    assert oom.out_of_memory(REQUEST)
    assert oom.killed == []


def test_no_more_than_ten_headers_in_five_seconds() -> None:
    oom = killer([process(3, "a", 50)])
    for _ in range(12):
        oom.out_of_memory(REQUEST)
    text = oom.reclaim.kernel.printk.text()
    assert text.count("invoked oom-killer") == 10
    assert text.count("Killed process") == 12


def test_a_process_that_takes_everything_dies_and_the_others_live() -> None:
    with Machine.boot("x86_64", ram="128M", cmdline="transparent_hugepage=never") as m:
        small = m.process("small")
        kept = small.mmap(0, MIB, RW, PRIVATE)
        small.write(kept, b"still here")
        hog = m.process("hog")
        free = m.nr_free_pages()

        def eat() -> None:
            while True:
                area = hog.mmap(0, MIB, RW, PRIVATE)
                for offset in range(0, MIB, 4096):
                    hog.write(area + offset, b"x")

        with pytest.raises(ProcessKilled):
            eat()
        assert not hog.alive and small.alive
        assert small.read(kept, 10) == b"still here"
        m.kernel.reclaim.lru.lru_add_drain_all()
        m.page_alloc.drain_all_pages()
        assert m.nr_free_pages() >= free - 64
        m.kernel.reclaim.validate()
        m.validate()
        killed = [line for line in m.log.text().splitlines() if line.startswith("Out of memory: Killed process")]
        assert len(killed) == 1 and "(hog)" in killed[0]


def test_a_protected_process_makes_another_one_die() -> None:
    with Machine.boot("x86_64", ram="128M", cmdline="transparent_hugepage=never") as m:
        bystander = m.process("bystander")
        for _ in range(8):
            area = bystander.mmap(0, MIB, RW, PRIVATE)
            for offset in range(0, MIB, 4096):
                bystander.write(area + offset, b"x")
        hog = m.process("hog")
        hog.task.oom_score_adj = OOM_SCORE_ADJ_MIN
        while bystander.alive:
            area = hog.mmap(0, MIB, RW, PRIVATE)
            for offset in range(0, MIB, 4096):
                hog.write(area + offset, b"x")
        assert hog.alive
        m.kernel.reclaim.validate()
        m.validate()


@pytest.mark.parametrize(
    ("gfp", "order", "error"),
    [
        (GFP_KERNEL, 0, KernelPanic),
        (GFP_KERNEL | __GFP_NOFAIL, 0, KernelPanic),
        (GFP_KERNEL | __GFP_NOFAIL, 5, DeadlockError),  # the OOM killer does not help costly orders
        (GFP_NOFS, 0, DeadlockError),  # nor those who may not enter file systems
        (GFP_NOIO, 2, DeadlockError),
    ],
)
def test_requests_that_the_kernel_would_try_for_ever_end(gfp: int, order: int, error: type[Exception]) -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        while m.page_alloc.alloc_pages(GFP_ATOMIC | __GFP_NOWARN, 0) >= 0:
            pass
        with pytest.raises(error):
            m.page_alloc.alloc_pages(gfp, order)
        assert m.page_alloc.task_flags == 0
        m.validate()


@pytest.mark.parametrize("flag", [__GFP_NORETRY, __GFP_RETRY_MAYFAIL])
@pytest.mark.parametrize("order", [0, 2, 5])
def test_requests_that_may_fail_do_so_and_kill_nobody(flag: int, order: int) -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        bystander = m.process("bystander")
        while m.page_alloc.alloc_pages(GFP_ATOMIC | __GFP_NOWARN, 0) >= 0:
            pass
        assert m.page_alloc.alloc_pages(GFP_KERNEL | flag, order) < 0
        assert bystander.alive
        m.validate()


def test_others_free_what_a_request_without_file_systems_waits_for() -> None:
    with Machine.boot("x86_64", ram="128M", reports="log") as m:
        held = []
        while (pfn := m.page_alloc.alloc_pages(GFP_ATOMIC | __GFP_NOWARN, 0)) >= 0:
            held.append(pfn)

        def helper() -> None:
            for pfn in held[:2000]:
                m.page_alloc.free_pages(pfn, 0)

        m.spawn(helper)
        assert m.page_alloc.alloc_pages(GFP_NOFS, 0) >= 0
        m.validate()


def test_two_tasks_eat_memory_and_one_of_them_dies() -> None:
    def once() -> str:
        with Machine.boot("x86_64", ram="128M", cmdline="transparent_hugepage=never", seed=3) as m:
            ended = []

            def eat(name: str, mib: int) -> None:
                process = m.process(name)
                try:
                    for _ in range(mib):
                        area = process.mmap(0, MIB, RW, PRIVATE)
                        for offset in range(0, MIB, 4096):
                            process.write(area + offset, b"x")
                        m.cond_resched()
                except ProcessKilled:
                    ended.append(name)

            m.spawn(eat, "small", 25)
            m.spawn(eat, "large", 80)
            m.sched.run()
            assert ended == ["large"]
            m.validate()
            return m.log.text()

    assert once() == once()
