# SPDX-License-Identifier: GPL-2.0-only
"""The live memory map: what it shows of a machine at work, as text, as data and as a drawing."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

from click.testing import CliRunner

from kmem import Machine
from kmem.cli.app import cli, run
from kmem.linux.gfp import GFP_HIGHUSER
from kmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE

PAGE = 4096


def test_it_names_who_has_mapped_what() -> None:
    with Machine.boot("i386", ram="2G") as m:
        addr = m.vmalloc(5 * PAGE)
        freed = m.vmalloc(PAGE)
        m.vfree(freed)
        m.ioremap(0xFED00000, 0x400)
        m.kmap(m.pfn_to_page(m.page_alloc.alloc_pages(GFP_HIGHUSER, 0)))
        text = str(m.map())
        regions = {region.name: region for region in m.map().regions}
    lines = text.splitlines()
    assert lines[0] == "i386 2 GiB"
    assert any(
        line.split() == [f"{addr:x}-{(addr or 0) + 6 * PAGE:x}", "24", "KiB", "vmalloc", *line.split()[4:]]
        and "test_it_names_who_has_mapped_what" in line
        and line.endswith(", 5 frames")
        for line in lines
    )
    assert "lazily freed" in text
    assert [entry.what for entry in regions["vmalloc"].entries] == ["vmalloc", "lazily freed", "ioremap"]
    (mapped,) = regions["pkmap"].entries
    assert (mapped.start, mapped.who) == (0xFEC01000, "1 user")
    assert regions["vmalloc"].used_bytes == 8 * PAGE


def test_user_space_shows_each_process() -> None:
    with Machine.boot("i386", ram="1G") as m:
        p = m.process("editor")
        addr = p.mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        p.write(addr, b"x" * (PAGE + 1))
        user = m.map().regions[0]
        (area,) = (entry for entry in user.entries if entry.start == addr)
        assert (area.what, area.who, area.frames) == ("anonymous", f"editor[{p.pid}]", 2)
        assert any(entry.what == "[stack]" for entry in user.entries)
        assert user.used_bytes >= 2 * PAGE
        p.exit()
        assert m.map().regions[0].entries == []


def test_what_is_in_use_grows_with_use() -> None:
    with Machine.boot("x86_64", ram="512M") as m:
        (before,) = (region.used_bytes for region in m.map().regions if region.name == "direct map")
        m.vmalloc(1000 * PAGE)
        (after,) = (region.used_bytes for region in m.map().regions if region.name == "direct map")
        assert after - before >= 1000 * PAGE


def test_it_is_plain_data_and_a_drawing() -> None:
    with Machine.boot("i386", ram="1G") as m:

        def odd_name() -> int | None:
            return m.vmalloc(PAGE)

        odd_name()
        taken = m.map()
    data = json.loads(json.dumps(taken.as_dict()))
    assert [region["name"] for region in data["regions"]][:3] == ["user", "lowmem", "vmalloc"]
    assert data["regions"][1]["start"] == "0xc0000000"
    assert data["high_memory"]["size_bytes"] == (0x3FFDD - 0x36BFE) * PAGE
    drawing = ET.fromstring(taken._repr_svg_())  # escaped: a caller such as <module> or <locals> would break it
    words = "".join(drawing.itertext())
    assert "test_it_is_plain_data_and_a_drawing.<locals>.odd_name" in words


def test_the_command_prints_text_json_and_svg() -> None:
    runner = CliRunner()
    text = runner.invoke(cli, ["map", "--machine", "i386", "--ram", "2G"])
    assert text.exit_code == 0
    assert "f73fe000-febfe000" in text.output
    plain = runner.invoke(cli, ["map", "--machine", "i386", "--ram", "2G", "--cmdline", "vmalloc=256M", "--json"])
    assert json.loads(plain.output)["regions"][2]["start"] == "0xeebfe000"
    drawn = runner.invoke(cli, ["map", "--svg"])
    assert ET.fromstring(drawn.output).tag.endswith("svg")


def test_bad_input_is_one_line() -> None:
    assert run(["map", "--machine", "vax"]) == 2
    assert run(["map", "--ram", "2M"]) == 2
    assert run(["map", "--machine", "i386", "--cmdline", "vmalloc=4G"]) == 2
