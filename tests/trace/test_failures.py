# SPDX-License-Identifier: GPL-2.0-only
"""Reports in kernel logs: their shapes from Linux 2.6 to 6, mixed up and cut off."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from kmem.trace.dmesg import LogLine, log_lines
from kmem.trace.failures import FailureReport, find_failures, iter_failures

LOGS = Path(__file__).parents[1] / "data" / "logs"


def lines_of(name: str) -> list[str]:
    return gzip.decompress((LOGS / f"{name}.txt.gz").read_bytes()).decode().splitlines()


def found(text: str | list[str]) -> list[FailureReport]:
    return find_failures(log_lines(text.splitlines() if isinstance(text, str) else text))


def one(text: str) -> FailureReport:
    (report,) = found(text)
    return report


@pytest.mark.parametrize(
    ("line", "kind", "order", "gfp", "names"),
    [
        ("swapper: page allocation failure. order:2, mode:0x20", "page-allocation-failure", 2, 0x20, None),
        ("kworker/u:1: page allocation failure: order:4, mode:0x1040d0", "page-allocation-failure", 4, 0x1040D0, None),
        (
            "Web Content: page allocation failure: order:0, mode:0x1421012(__GFP_IO|__GFP_NORETRY), nodemask=(null)",
            *("page-allocation-failure", 0, 0x1421012, "__GFP_IO|__GFP_NORETRY"),
        ),
        ("java invoked oom-killer: gfp_mask=0x201da, order=0, oom_adj=0, oom_score_adj=0", "oom", 0, 0x201DA, None),
        ("python3 invoked oom-killer: gfp_mask=0x0(), order=0, oom_score_adj=0", "oom", 0, 0, None),
        (
            "CPU 0/KVM invoked oom-killer: gfp_mask=0x15000c0(GFP_KERNEL_ACCOUNT), nodemask=(null), order=1, x",
            *("oom", 1, 0x15000C0, "GFP_KERNEL_ACCOUNT"),
        ),
        ("SLUB: Unable to allocate memory on node -1 (gfp=0x20)", "slub-unable", None, 0x20, None),
        (
            "SLUB: Unable to allocate memory on CPU 3 (of node 0) on node -1, gfp=0x820(GFP_ATOMIC)",
            *("slub-unable", None, 0x820, "GFP_ATOMIC"),
        ),
        ("SLAB: Unable to allocate memory on node 0 (gfp=0x11200)", "slub-unable", None, 0x11200, None),
        (
            "a: page allocation stalls for 10004ms, order:1, mode:0x14040c0(GFP_KERNEL|__GFP_COMP), nodemask=(null)",
            *("show-mem", 1, 0x14040C0, "GFP_KERNEL|__GFP_COMP"),
        ),
        ("WARNING: CPU: 3 PID: 1 at mm/page_alloc.c:5634 __alloc_pages+0x1/0x2", "order-warning", None, None, None),
        (
            "WARNING: CPU: 3 PID: 1 at mm/page_alloc.c:4935 __alloc_frozen_pages_noprof+0x1/0x2",
            *("order-warning", None, None, None),
        ),
        ("WARNING: at mm/page_alloc.c:2480 __alloc_pages_nodemask+0x7f6/0x990()", "order-warning", None, None, None),
        ("Out of memory: kill process 2592 (oom02) score 1 or a child", "oom", None, None, None),
        (
            "vmalloc_node_range for size 8192 failed: Address range restricted to 0xf0000000 - 0xff000000",
            *("vmalloc-failure", None, None, None),
        ),
    ],
)
def test_first_lines(line: str, kind: str, order: int | None, gfp: int | None, names: str | None) -> None:
    report = one(f"[   12.345678] {line}")
    assert (report.kind, report.order, report.gfp, report.gfp_names) == (kind, order, gfp, names)


def test_other_warnings_of_the_page_allocator_are_no_failures() -> None:
    warning = "WARNING: CPU: 3 PID: 7 at mm/page_alloc.c:{} {}+0x1/0x2\nCPU: 3 PID: 7 Comm: sh Not tainted {} #1"
    assert not found(warning.format(3100, "get_page_from_freelist", "5.4.0"))
    assert not found(warning.format(4700, "__alloc_pages_slowpath", "5.4.0"))
    assert one(warning.format(3100, "__alloc_pages_slowpath", "4.4.0")).kind == "order-warning"


def test_a_forced_kill_asked_for_no_pages() -> None:
    report = one("sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=-1, oom_score_adj=0")
    assert report.order is None and report.detail["asked"] == "sysrq-f"


# -- vmalloc: one failure, up to three lines ------------------------------------


def test_vmalloc_of_old_kernels() -> None:
    report = one(
        """\
[195207.149213] vmap allocation for size 37806080 failed: use vmalloc=<size> to increase size.
[195207.149216] vmalloc: allocation failure: 37798136 bytes
[195207.149217] insmod: page allocation failure: order:0, mode:0xd2
[195207.149220] Pid: 1389, comm: insmod Tainted: P           O 3.2.2 #1
"""
    )
    assert (report.kind, report.line, report.comm, report.pid) == ("vmalloc-failure", 1, "insmod", 1389)
    assert (report.size_bytes, report.gfp, report.order) == (37798136, 0xD2, None)
    assert report.detail["what"] == "no room in the vmalloc area" and report.kernel == "3.2.2"


def test_vmalloc_between_rate_limits() -> None:
    reports = found(
        """\
[857965.532131] vmap allocation for size 36864 failed: use vmalloc=<size> to increase size
[857968.782684] vmap allocation for size 36864 failed: use vmalloc=<size> to increase size
[857968.790990] warn_alloc: 3 callbacks suppressed
[857968.790997] tracebox: vmalloc: allocation failure: 32768 bytes, mode:0xcc0(GFP_KERNEL), nodemask=(null)
[857968.807121] CPU: 0 PID: 23622 Comm: tracebox Tainted: G         C        5.4.58 #0
[857968.818275] [<c020fe6c>] (unwind_backtrace) from [<c020b338>] (show_stack+0x10/0x14)
[857968.833415] [<c082602c>] (dump_stack) from [<c0324df4>] (warn_alloc+0xb4/0x13c)
[857968.840810] [<c0324df4>] (warn_alloc) from [<c0320340>] (__vmalloc_node_range+0x1b0/0x294)
[857968.849159] [<c0320340>] (__vmalloc_node_range) from [<c020c108>] (module_alloc+0x44/0x4c)
[857968.857509] [<c020c108>] (module_alloc) from [<c02b8348>] (bpf_jit_binary_alloc+0x6c/0x104)
"""
    )
    assert [(report.line, report.size_bytes) for report in reports] == [(1, 36864), (2, 32768)]
    assert reports[1].stack == ["unwind_backtrace", "dump_stack", "warn_alloc", "__vmalloc_node_range", "module_alloc"]
    assert reports[0].pid is None and reports[1].pid == 23622


def test_vmalloc_without_pages() -> None:
    report = one(
        """\
vmalloc: allocation failure, allocated 12288 of 16777216 bytes
modprobe: page allocation failure: order:0, mode:0xd2
"""
    )
    assert (report.kind, report.comm, report.detail["what"]) == ("vmalloc-failure", "modprobe", "too few pages")


# -- call traces --------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        " warn_alloc.cold+0x75/0xd9",
        " [<ffffffff811220cb>] warn_alloc.cold+0xeb/0x150",
        " [<ffffffff811220cb>] ? stale+0x1/0x2\n [<ffffffff811220cb>] warn_alloc.cold+0xeb/0x150",
        "[<c0092760>] (warn_alloc.cold+0xc4/0x11c) from [<c0094a70>] (__alloc_pages_nodemask+0x3e0/0x63c)",
        "[<801047b8>] (warn_alloc.cold) from [<80107e10>] (__alloc_pages_nodemask+0x848/0x9e0)",
        " warn_alloc.cold from __alloc_pages+0xef8/0x1044",
        "[c0000000ff1234a0] [c0000000001234b0] .warn_alloc.cold+0x7c/0x194 (unreliable)",
        "[<8010a1b0>] warn_alloc.cold+0x68/0x80",
        " <IRQ>  [<ffffffff81123daf>] warn_alloc.cold+0x77f/0x940",
        "([<0000000000112345>] warn_alloc.cold+0x1/0x2)",
    ],
)
def test_frames(frame: str) -> None:
    text = "a: page allocation failure: order:1, mode:0x20\nCall Trace:\n" + frame
    assert one(text).stack == ["warn_alloc.cold"]


def test_a_trace_of_uncertain_entries_is_better_than_none() -> None:
    report = one(
        """\
[1.000000] swapper: page allocation failure. order:1, mode:0x20
[1.000001] Pid: 0, comm: swapper Not tainted 2.6.32-358.2.1.el6.x86_64 #1
[1.000002]  <IRQ>  [<ffffffff8112c207>] ? __alloc_pages_nodemask+0x757/0x8d0
[1.000003]  [<ffffffff81166ab2>] ? kmem_getpages+0x62/0x170
"""
    )
    assert report.stack == ["__alloc_pages_nodemask", "kmem_getpages"] and not report.stack_certain
    assert report.in_interrupt and report.kernel == "2.6.32-358.2.1.el6.x86_64"


@pytest.mark.parametrize(
    ("line", "in_interrupt"),
    [
        (" __do_softirq+0xe0/0x244", True),
        ("  <IRQ> ", True),
        (" vfs_read+0x1/0x2", False),
        (" ? irq_exit+0x1/0x2", False),
    ],
)
def test_interrupts(line: str, in_interrupt: bool) -> None:
    text = f"a: page allocation failure: order:1, mode:0x20\n{line}\n kmalloc+0x1/0x2"
    assert one(text).in_interrupt is in_interrupt


def test_whose_report_it_is() -> None:
    text = (
        "[1.000000] a: page allocation failure: order:1, mode:0x20\n"
        "[1.000001] CPU: 2 PID: 22101 Comm: mongodb Kdump: loaded Tainted: G               ------------ T "
        "3.10.0-957.10.1.el7.x86_64 #1\n"
    )
    report = one(text)
    assert (report.cpu, report.pid, report.kernel) == (2, 22101, "3.10.0-957.10.1.el7.x86_64")
    report = one(
        "[1.000000] WARNING: CPU: 2 PID: 5 at mm/page_alloc.c:1 __alloc_pages+0x1/0x2\n" + text.splitlines()[1]
    )
    assert report.comm is None and report.kernel is None  # somebody else's line


# -- several at a time ----------------------------------------------------------


def with_caller(name: str, caller: str) -> list[str]:
    """A log as a kernel prints it that says who prints each line; all within one second."""
    return [re.sub(r"^\[ *\d+\.(\d+)\] ", rf"[    7.\1][{caller:>6}] ", line) for line in lines_of(name)]


def test_two_cpus_printing_at_the_same_time() -> None:
    task = with_caller("amd64-384M-order0-atomic", "T107")
    cpu = with_caller("i386-1024M-order2-atomic-softirq", "C1")
    together = found([line for pair in zip_longest(task, cpu) for line in pair if line])
    assert len(together) == 2
    for report, alone in zip(together, (*found(task), *found(cpu)), strict=True):
        assert (report.order, report.stack, report.meminfo) == (alone.order, alone.stack, alone.meminfo)
        assert report.meminfo is not None and report.meminfo.complete


def test_two_machines_in_one_log() -> None:
    names = ("amd64-384M-order0-atomic", "i386-1024M-slub-order0-atomic", "amd64-256M-oom-memcg")
    each = [[f"Nov 23 01:02:03 host{n} kernel: {line}" for line in lines_of(name)] for n, name in enumerate(names)]
    together = found([line for group in zip_longest(*each) for line in group if line])
    alone = [report for lines in each for report in found(lines)]
    assert sorted((r.text, repr(r.meminfo), r.kernel, r.stack) for r in together) == sorted(
        (r.text, repr(r.meminfo), r.kernel, r.stack) for r in alone
    )
    assert [report.line for report in together] == sorted(report.line for report in together)


def test_a_boot_between_lines_of_journald() -> None:
    first = ["Nov 23 01:02:03 host kernel: " + line.split("] ", 1)[1] for line in lines_of("amd64-384M-order0-atomic")]
    cut = next(n for n, line in enumerate(first) if "lowmem_reserve" in line)
    report = found([*first[:cut], "-- Boot 0123456789abcdef0123456789abcdef --", *first[cut:]])[0]
    assert report.meminfo is not None and not report.meminfo.complete


def test_two_reports_mixed_without_callers_are_not_relied_upon() -> None:
    first, second = lines_of("amd64-384M-order0-atomic"), lines_of("amd64-384M-order0-nowait")
    lines = [line for pair in zip_longest(first, second) for line in pair if line]
    assert all(report.meminfo is None or not report.meminfo.complete for report in found(lines))


def test_a_report_printed_in_pieces() -> None:
    report = one(
        """\
[ 6204.372355] swapper/3:
[ 6204.380541] page allocation failure: order:0
[ 6204.380552]  01080020
[ 6204.384197] , mode:0x1080020(GFP_ATOMIC), nodemask=
"""
    )
    assert (report.order, report.gfp, report.gfp_names) == (0, 0x1080020, "GFP_ATOMIC")


def test_a_state_printed_in_pieces() -> None:
    """As 4.9 prints it: whatever was meant to go on in the same line begins a new one."""
    pieces = ["a: page allocation failure: order:0, mode:0x2080020(GFP_ATOMIC)", "Mem-Info:", "Node 0 "]
    pieces += ["DMA32 free:1052kB min:1924kB low:3800kB high:5676kB", "active_anon:0kB present:19525kB managed:18869kB"]
    pieces += [
        "lowmem_reserve[]:",
        " 0",
        " 0",
        " 62446",
        " 62446",
        "Node 0 ",
        "DMA32: ",
        "259*4kB ",
        "(UME) ",
        "0*8kB ",
    ]
    pieces += ["1*16kB ", "(U) ", "= 1052kB"]
    info = one("".join(f"Feb 19 16:20:13 host kernel: {piece}\n" for piece in pieces)).meminfo
    assert info is not None and info.complete
    (dma32,) = info.zones
    assert dma32.lowmem_reserve == [0, 0, 62446, 62446] and dma32.counters["managed"] == 18869
    assert dma32.blocks == [(259, "UME"), (0, ""), (1, "U")]


def test_two_first_lines_in_one() -> None:
    report = one(
        """\
[73805.181180] swapper/8:
[73805.181182] swapper/6:
[73805.181184] page allocation failure: order:0page allocation failure: order:0, mode:0x2080020(GFP_ATOMIC)
[73805.181191] CPU: 8 PID: 0 Comm: swapper/8 Tainted: G             L  4.9.0-5-amd64 #1 Debian 4.9.65-3+deb9u2
"""
    )
    assert (report.order, report.gfp, report.comm, report.in_interrupt) == (0, 0x2080020, "swapper/8", True)


@pytest.mark.parametrize(
    "blocks",
    ["32*8kB 0*4kB (UM) 1*8kB = 264kB", "10*4kB (U) 1*8kB = 52kB", "1*4kB 1*8kB 1*16kB 1*64kB = 92kB"],
)
def test_free_blocks_that_contradict_themselves(blocks: str) -> None:
    zone = "Normal free:264kB min:10kB low:20kB high:30kB present:9999kB\nlowmem_reserve[]: 0 0\nNormal: "
    info = one(f"a: page allocation failure: order:0, mode:0x20\nMem-Info:\n{zone}{blocks}\n").meminfo
    assert info is not None and info.damage and not info.complete


def test_a_report_that_never_ends_does_not_hold_up_others() -> None:
    def lines() -> Iterator[str]:
        yield "[    1.000000][  T107] a: page allocation failure: order:1, mode:0x20"
        for n in range(12_000):
            yield f"[    2.{n:06d}][  T108] vmap allocation for size {4096 * n} failed: use vmalloc=<size>"

    read = 0

    def counted() -> Iterator[LogLine]:
        nonlocal read
        for line in log_lines(lines()):
            read = line.number
            yield line

    reports = iter_failures(counted())
    assert next(reports).order == 1 and read < 12_000
    assert sum(1 for _ in reports) == 12_000


def test_suppressed_reports_are_counted() -> None:
    report = one("warn_alloc: 59 callbacks suppressed\na: page allocation failure: order:0, mode:0x480020(GFP_ATOMIC)")
    assert report.detail["suppressed"] == 59


def test_what_comes_later_is_not_taken_for_a_part() -> None:
    alone = found(lines_of("amd64-384M-order0-atomic"))
    later = """\
[   60.000000] BUG: unable to handle page fault for address: 0000000000000008
[   60.000001] CPU: 3 PID: 4711 Comm: other Not tainted 6.9.0 #1
[   60.000002]  broken_fn+0x1/0x2
[   60.000003] Normal free:4kB boost:0kB min:4kB low:4kB high:4kB
[   60.000004] lowmem_reserve[]: 0 0 0 0 0
"""
    assert found(lines_of("amd64-384M-order0-atomic") + later.splitlines()[:3]) == alone
    vmap = "[    1.000000] vmap allocation for size 135168 failed: use vmalloc=<size> to increase size.\n"
    report, state = found(vmap + later)
    assert report.pid is None and not report.stack
    assert state.kind == "show-mem" and state.meminfo is not None and not state.meminfo.complete


# -- boots and cuts ---------------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [
        "-- Boot 0123456789abcdef0123456789abcdef --",
        "-- Reboot --",
        "[    0.000000] Linux version 6.1.0 (x) #1",
        "[    0.000000] Command line: quiet",
    ],
)
def test_a_boot_ends_a_report(between: str) -> None:
    first = [line.replace("[    4.", "[ 9874.") for line in lines_of("amd64-384M-order0-atomic")]
    cut = next(n for n, line in enumerate(first) if "lowmem_reserve" in line)
    rest = ["[    0.100000] vmap allocation for size 135168 failed: use vmalloc=<size> to increase size.", *first[cut:]]
    reports = found([*first[:cut], between, *rest])
    assert [report.kind for report in reports][:2] == ["page-allocation-failure", "vmalloc-failure"]
    assert reports[0].meminfo is not None and not reports[0].meminfo.complete
    assert reports[1].kernel in (None, "6.1.0")


@pytest.mark.parametrize("name", ["amd64-384M-order0-atomic", "amd64-256M-oom-tail-dev-zero", "i386-1280M-oom-hog"])
def test_cut_at_the_beginning(name: str) -> None:
    lines = lines_of(name)
    whole = found(lines)[0]
    for start in range(1, len(lines)):
        reports = found(lines[start:])
        if any("Mem-Info" in line for line in lines[start:]) and any("warn_alloc+" in line for line in lines[start:]):
            assert reports[0].kind == "page-allocation-failure" and reports[0].order is None
        for report in reports:
            assert report.meminfo is None or not report.meminfo.complete or report.meminfo == whole.meminfo
            if "oom" in name and "Mem-Info" in " ".join(lines[start:]):
                assert report.kind == "oom"


def test_lines_that_the_kernel_lost() -> None:
    lines = lines_of("amd64-384M-order0-atomic")
    at = next(n for n, line in enumerate(lines) if "DMA32 free:" in line)
    for lost in (slice(at, at + 1), slice(at, at + 2), slice(at - 1, at + 1)):
        kept = [line for n, line in enumerate(lines) if n not in range(lost.start, lost.stop)]
        (report,) = found(kept)
        assert report.meminfo is not None and not report.meminfo.complete
    told = [*lines[:at], "[    4.600000] ** 17 printk messages dropped **", *lines[at:]]
    (report,) = found(told)
    assert report.meminfo is not None and report.meminfo.damage == "the kernel's log lost lines"
