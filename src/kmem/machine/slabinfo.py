# SPDX-License-Identifier: GPL-2.0-only
"""``/proc/slabinfo``: reading a real kernel's, and the geometry of the caches that it lists.

One line a cache, versions 2.0 and 2.1::

    # name  <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables ... : slabdata ...
    dentry     12642  12642    192   21    1 : tunables    0    0    0 : slabdata    602    602      0

With SLUB ``objsize`` is the distance from one object to the next, metadata
included; what a caller asked for is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kmem.errors import InputError, KmemError
from kmem.machine.records import open_recording
from kmem.mm.slab_common import CacheGeometry, geometry_from_sizes
from kmem.mm.slab_config import SlabConfig

__all__ = ["SlabinfoRow", "geometry_from_slabinfo", "parse_slabinfo", "read_slabinfo", "slabinfo_rows"]

_HEADER = re.compile(r"slabinfo - version: (\d+)\.(\d+)\b")
_ROW = re.compile(
    r"(?P<name>\S.*?)\s+(?P<numbers>\d+\s+\d+\s+\d+\s+\d+\s+\d+)"
    r"\s*(?::\s*tunables\s+\d+\s+\d+\s+\d+\s*:\s*slabdata\s+(?P<slabs>\d+\s+\d+)\s+\d+)?\s*(?::.*)?"
)
_MAX_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class SlabinfoRow:
    """One cache as ``/proc/slabinfo`` shows it.

    Attributes
    ----------
    name : str
        Name of the cache.
    active_objs, num_objs : int
        Objects in use and objects in all slabs.
    objsize : int
        Bytes from one object to the next.
    objperslab, pagesperslab : int
        Objects and pages of a slab of the preferred order.
    active_slabs, num_slabs : int
        Slabs; with SLUB the two are the same. 0 if the line ends before them.
    """

    name: str
    active_objs: int
    num_objs: int
    objsize: int
    objperslab: int
    pagesperslab: int
    active_slabs: int = 0
    num_slabs: int = 0

    @property
    def order(self) -> int:
        """Order of a slab's pages."""
        return self.pagesperslab.bit_length() - 1


def parse_slabinfo(text: str, *, file: Path | None = None, page_bytes: int = 4096) -> dict[str, SlabinfoRow]:
    """Parse the text of ``/proc/slabinfo``.

    Parameters
    ----------
    text : str
        The file's content.
    file : Path, optional
        Where it came from, for error messages.
    page_bytes : int
        Size of a page.

    Returns
    -------
    dict of str to SlabinfoRow
        In the order of the file. Of caches with one name the first, which is the newest, counts.

    Raises
    ------
    InputError
        If it is no slabinfo, or a line is damaged or contradicts itself.
    """
    rows: dict[str, SlabinfoRow] = {}
    for row in slabinfo_rows(text, file=file, page_bytes=page_bytes):
        rows.setdefault(row.name, row)
    return rows


def slabinfo_rows(text: str, *, file: Path | None = None, page_bytes: int = 4096) -> list[SlabinfoRow]:
    """Parse the text of ``/proc/slabinfo`` line by line: of caches with one name, all are there.

    Parameters
    ----------
    text : str
        The file's content.
    file : Path, optional
        Where it came from, for error messages.
    page_bytes : int
        Size of a page.

    Returns
    -------
    list of SlabinfoRow
        In the order of the file.

    Raises
    ------
    InputError
        If it is no slabinfo, or a line is damaged or contradicts itself.
    """
    lines = text.splitlines()
    header = _HEADER.match(lines[0]) if lines else None
    if header is None or header.group(1) != "2":
        raise InputError(
            "not a slabinfo of version 2", file=file, line=1, remedy="take a copy of /proc/slabinfo (as root)"
        )
    rows: list[SlabinfoRow] = []
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("#") or not line.strip():
            continue
        match = _ROW.fullmatch(line.rstrip())
        if match is None:
            raise InputError("not the line of a slab cache", file=file, line=number, remedy="the file may be cut off")
        numbers = [int(word) for word in match["numbers"].split()]
        slabs = [int(word) for word in (match["slabs"] or "0 0").split()]
        row = SlabinfoRow(match["name"], *numbers, *slabs)
        _check(row, file, number, page_bytes)
        rows.append(row)
    if not rows:
        raise InputError("lists no slab caches", file=file, remedy="take a copy of /proc/slabinfo (as root)")
    return rows


def _check(row: SlabinfoRow, file: Path | None, line: int, page_bytes: int) -> None:
    """Refuse numbers that no kernel prints."""
    pages = row.pagesperslab
    fault = None
    if pages <= 0 or pages & (pages - 1) or pages > 1 << 20:
        fault = f"slabs of {pages} pages"
    elif not 0 < row.objsize <= pages * page_bytes:
        fault = f"objects of {row.objsize} bytes in slabs of {pages} pages"
    elif not 0 < row.objperslab <= pages * page_bytes // row.objsize:
        fault = f"{row.objperslab} objects of {row.objsize} bytes in slabs of {pages} pages"
    elif row.active_objs > row.num_objs:
        fault = f"{row.active_objs} objects in use of {row.num_objs}"
    if fault:
        raise InputError(f"cache {row.name}: {fault}", file=file, line=line, remedy="the line is damaged")


def read_slabinfo(path: Path, *, page_bytes: int = 4096) -> dict[str, SlabinfoRow]:
    """Read a copy of ``/proc/slabinfo``, plain or compressed.

    Parameters
    ----------
    path : Path
        The file.
    page_bytes : int
        Size of a page.

    Returns
    -------
    dict of str to SlabinfoRow
        By cache name.

    Raises
    ------
    InputError
        If the file cannot be read, or is no slabinfo.
    """
    try:
        with open_recording(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, EOFError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=path) from None
    if len(data) > _MAX_BYTES:
        raise InputError(f"more than {_MAX_BYTES >> 20} MiB", file=path, remedy="a slabinfo has one line a cache")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not text", file=path, byte=error.start, remedy="take a copy of /proc/slabinfo") from None
    return parse_slabinfo(text, file=path, page_bytes=page_bytes)


def geometry_from_slabinfo(rows: Mapping[str, SlabinfoRow], config: SlabConfig) -> dict[str, CacheGeometry]:
    """Return the geometry of each listed cache, as far as its sizes tell.

    Parameters
    ----------
    rows : mapping of str to SlabinfoRow
        What :func:`read_slabinfo` returned.
    config : SlabConfig
        Machine and boot options.

    Returns
    -------
    dict of str to CacheGeometry
        Order and objects per slab are those listed. The size asked for is
        taken as the whole slot, since slabinfo does not tell it.

    Raises
    ------
    InputError
        If a cache's numbers cannot be those of this machine.
    """
    caches = {}
    for row in rows.values():
        try:
            geometry = geometry_from_sizes(row.name, row.objsize, row.objsize, config, order=row.order)
        except KmemError as error:
            raise InputError(error.message, remedy=error.remedy) from None
        if geometry.objects != row.objperslab:
            raise InputError(
                f"cache {row.name}: {row.objperslab} objects a slab, not {geometry.objects}",
                remedy="check the page size of the machine",
            )
        caches[row.name] = geometry
    return caches
