# SPDX-License-Identifier: GPL-2.0-only
"""The C expressions of print formats, as kernels of several versions write them."""

from __future__ import annotations

import pytest

from kmem.trace.event_format import event_plan, flags_of, parse_event_format
from kmem.trace.print_format import PrintFormat, Unknown, compile_expression


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("010 | 0x10u", 24),
        ("~0UL & 0xffULL", 255),
        ("-1UL == REC->pfn", 0),
        ("REC->order < (((unsigned int)(21 - 12))) ? 5 : 6", 5),
        ("!REC->order || 0", 0),
        ("1 << 3 >> 1", 4),
        ("( gfp_t)((((1UL))) << (10))", 1024),
        ("(const struct page *)0x10", 16),
        ("7 / 2 - 7 % 4", 0),
        ("1 ? 2 : 3 ? 4 : 5", 2),
        ('__print_symbolic(REC->order, {1, "one"}, {2, "two"})', "two"),
        ('__print_symbolic(9, {1, "one"})', "0x9"),
        ('__print_flags(0x15, "|", {1, "a"}, {4, "b"})', "a|b|0x10"),
        ('__print_flags(3, "|", {3, "both"}, {1, "a"}, { 0, ((void *)0) } )', "both"),
        ('__print_flags(0, "|", {0, "none"})', "none"),
    ],
)
def test_expressions(text: str, value: object) -> None:
    assert compile_expression(text)({"order": 2, "pfn": 1}) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "(1",
        "page_to_pfn(REC->page)",
        "pageblock_order",
        "REC->other",
        "1 / 0",
        "1 << 99",
        '"a" + 1',
        "@",
        "08",
    ]
    + ["(" * 500 + "1" + ")" * 500, '__print_flags(1, "|", {1})'],
)
def test_what_cannot_be_computed_says_so(text: str) -> None:
    with pytest.raises(Unknown):
        compile_expression(text)({"order": 2})


def test_keys_of_a_format() -> None:
    found = PrintFormat('"page=%p pfn=0x%lx order=0 width=%*d %% name=%s", REC->a, REC->b, 4, REC->c, __get_str(name)')
    assert found.keys == {"page": "REC->a", "pfn": "REC->b", "width": "REC->c", "name": "__get_str(name)"}
    assert found.fixed == {"order": "0"}
    assert PrintFormat("nothing").keys == {}
    with pytest.raises(Unknown):
        found.compute("absent", {})


NEW = """name: kmem_cache_alloc
ID: 700
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned long call_site;\toffset:8;\tsize:8;\tsigned:0;
\tfield:const void * ptr;\toffset:16;\tsize:8;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:24;\tsize:4;\tsigned:0;
\tfield:size_t bytes_req;\toffset:32;\tsize:8;\tsigned:0;
\tfield:size_t bytes_alloc;\toffset:40;\tsize:8;\tsigned:0;
\tfield:unsigned long gfp_flags;\toffset:48;\tsize:8;\tsigned:0;
\tfield:int node;\toffset:56;\tsize:4;\tsigned:1;
\tfield:bool accounted;\toffset:60;\tsize:1;\tsigned:0;

print fmt: "call_site=%pS ptr=%p name=%s bytes_req=%zu bytes_alloc=%zu gfp_flags=%s node=%d accounted=%s", \
(void *)REC->call_site, REC->ptr, __get_str(name), REC->bytes_req, REC->bytes_alloc, (REC->gfp_flags) ? \
__print_flags(REC->gfp_flags, "|", {( unsigned long)(( gfp_t)(((((1UL))) << (6))|((((1UL))) << (7)))), "GFP_X"}, \
{( unsigned long)(( gfp_t)((((1UL))) << (22))), "__GFP_ACCOUNT"}, { 0, ((void *)0) } ) : "none", REC->node, \
REC->accounted ? "true" : "false"
"""


def test_a_format_of_a_newer_kernel() -> None:
    found = parse_event_format(NEW, "kmem")
    assert found is not None
    plan = event_plan(found)
    assert plan["missing"] == () and plan["name_kind"] == 1
    assert flags_of(found, 0x4000C0) == ("GFP_X|__GFP_ACCOUNT", False)
    assert flags_of(found, 0) == ("none", False)
    assert flags_of(found, 0x8) == ("0x8", False)


@pytest.mark.parametrize("text", ["", "name: x\n", "name: x\nID: 99999\n", "ID: 7\n"])
def test_formats_that_are_none(text: str) -> None:
    assert parse_event_format(text) is None
