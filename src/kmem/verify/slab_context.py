# SPDX-License-Identifier: GPL-2.0-only
"""What a recording's folder tells about slab caches: architecture, CPUs, cache line, boot options.

A recording is read together with ``uname.txt``, ``cmdline.txt`` and
``dmesg-boot.txt`` of its folder.  Whatever is missing is assumed, and said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from kmem.errors import InputError
from kmem.mm.slab_config import SlabConfig

__all__ = ["SlabContext", "read_slab_context"]

_SLUB_LINE = re.compile(r"SLUB: HWalign=(\d+), Order=(\d+)-(\d+), MinObjects=(\d+), CPUs=(\d+), Nodes=(\d+)")
_SMPBOOT_LINE = re.compile(r"smpboot: Allowing (\d+) CPUs, (\d+) hotplug CPUs")
_CMDLINE_LINE = re.compile(r"\bCommand line: (.*)")


@dataclass(frozen=True, slots=True)
class SlabContext:
    """The machine that a recording was made on, as far as its folder tells.

    Attributes
    ----------
    arch : str or None
        ``"amd64"`` or ``"i386"``; None if the folder does not say.
    cmdline : str or None
        Kernel command line; None if the folder does not say.
    cpus : int
        CPUs present at boot.
    nr_cpu_ids : int
        Possible CPUs.
    nr_nodes : int
        NUMA nodes.
    cache_line_bytes : int
        L1 cache line.
    notes : tuple of str
        What was assumed.
    """

    arch: str | None = None
    cmdline: str | None = None
    cpus: int = 1
    nr_cpu_ids: int = 1
    nr_nodes: int = 1
    cache_line_bytes: int = 64
    notes: tuple[str, ...] = ()

    def slab_config(self, arch: str | None = None) -> SlabConfig:
        """Return the slab configuration of the machine.

        Parameters
        ----------
        arch : str, optional
            Architecture to take if the folder does not name one.

        Raises
        ------
        ConfigError
            If the command line holds a slab option that no kernel boots with.
        """
        config = SlabConfig.for_arch(
            self.arch or arch or "amd64",
            cpus=self.cpus,
            nr_cpu_ids=self.nr_cpu_ids,
            cmdline=self.cmdline or "",
        )
        return replace(config, cache_line_bytes=self.cache_line_bytes)


def _read(path: Path) -> str | None:
    """Return a small text file's content, or None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def _arch_of(uname: str, file: Path) -> str:
    """Return the architecture that a line of ``uname -a`` names."""
    for word, arch in (("x86_64", "amd64"), ("i686", "i386"), ("i586", "i386"), ("i386", "i386")):
        if word in uname.split():
            return arch
    raise InputError("names no architecture that kmem models", file=file, remedy="expected x86_64 or i686")


def read_slab_context(folder: Path) -> SlabContext:
    """Read what a recording's folder says about the machine and its boot.

    Parameters
    ----------
    folder : Path
        The folder that holds the recording.

    Returns
    -------
    SlabContext
        With a note for each thing that had to be assumed.

    Raises
    ------
    InputError
        If a file is there but cannot be used.
    """
    notes: list[str] = []
    uname = _read(folder / "uname.txt")
    dmesg = _read(folder / "dmesg-boot.txt")
    cmdline = _read(folder / "cmdline.txt")
    if cmdline is None and dmesg is not None and (match := _CMDLINE_LINE.search(dmesg)):
        cmdline = match.group(1)
    arch = None if uname is None else _arch_of(uname, folder / "uname.txt")
    if cmdline is None:
        notes.append("no cmdline.txt: default boot options assumed")
    slub = _SLUB_LINE.search(dmesg or "")
    if slub is None:
        notes.append("no dmesg-boot.txt with a SLUB line: 1 CPU, 1 node and a 64-byte cache line assumed")
        return SlabContext(arch=arch, cmdline=cmdline, notes=tuple(notes))
    cache_line_bytes, nr_cpu_ids, nr_nodes = (int(slub.group(group)) for group in (1, 5, 6))
    cpus = nr_cpu_ids
    if match := _SMPBOOT_LINE.search(dmesg or ""):
        cpus = max(1, int(match.group(1)) - int(match.group(2)))
    return SlabContext(arch, cmdline, cpus, nr_cpu_ids, nr_nodes, cache_line_bytes, tuple(notes))
