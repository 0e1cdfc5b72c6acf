# SPDX-License-Identifier: GPL-2.0-only
"""What the geometry of slab caches depends on besides the request: machine, build and boot options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from kmem.errors import ConfigError
from kmem.mm.slub_debug import SlubDebug, setup_slub_debug

__all__ = ["SlabConfig"]


@dataclass(frozen=True, slots=True)
class SlabConfig:
    """What the geometry of a cache depends on besides the request.

    The defaults are those of a Debian amd64 kernel with one CPU.

    Attributes
    ----------
    word_bytes : int
        Size of a pointer: 8, or 4 on i386.
    page_bytes : int
        Size of a page.
    cpus : int
        CPUs present at boot. With slub_min_objects not given, the order of a slab grows with them.
    nr_cpu_ids : int
        Possible CPUs; counts instead of `cpus` where only one is present.
    cache_line_bytes : int
        L1 cache line, for SLAB_HWCACHE_ALIGN.
    minalign_bytes : int
        ``ARCH_SLAB_MINALIGN`` and ``ARCH_KMALLOC_MINALIGN``: alignment of unsigned long long.
    max_order : int
        ``MAX_ORDER`` of 6.1: the first order that the page allocator does not serve.
    cmpxchg_double : bool
        Whether the CPU swaps two words at once (cx16, cx8 on i386).
    numa, freelist_random, cpu_partial, memcg_kmem, zone_dma : bool
        Build options CONFIG_NUMA, SLAB_FREELIST_RANDOM, SLUB_CPU_PARTIAL, MEMCG_KMEM, ZONE_DMA.
    nokmem : bool
        Boot option ``cgroup.memory=nokmem``: accounted kmalloc uses the normal caches.
    slab_nomerge : bool
        Boot option ``slab_nomerge`` or ``slub_nomerge``.
    slub_min_order, slub_max_order, slub_min_objects : int
        Boot options of the same names.
    slub_debug : SlubDebug
        Boot option ``slub_debug``.
    init_on_alloc, init_on_free : bool
        Boot options of the same names: whether objects are zeroed when handed out, and when freed.
    """

    word_bytes: int = 8
    page_bytes: int = 4096
    cpus: int = 1
    nr_cpu_ids: int = 1
    cache_line_bytes: int = 64
    minalign_bytes: int = 8
    max_order: int = 11
    cmpxchg_double: bool = True
    numa: bool = True
    freelist_random: bool = True
    cpu_partial: bool = True
    memcg_kmem: bool = True
    zone_dma: bool = True
    nokmem: bool = False
    slab_nomerge: bool = False
    slub_min_order: int = 0
    slub_max_order: int = 3
    slub_min_objects: int = 0
    slub_debug: SlubDebug = field(default_factory=SlubDebug)
    init_on_alloc: bool = True
    init_on_free: bool = False
    version: tuple[int, int] = (6, 1)

    def __post_init__(self) -> None:
        if self.word_bytes not in (4, 8):
            raise ConfigError(f"a pointer of {self.word_bytes} bytes", remedy="word_bytes is 4 or 8")
        for name in ("page_bytes", "cache_line_bytes", "minalign_bytes"):
            value = getattr(self, name)
            if value <= 0 or value & (value - 1):
                raise ConfigError(f"{name}={value} is no power of two")
        if self.cpus < 1 or self.nr_cpu_ids < 1:
            raise ConfigError(f"cpus={self.cpus}, nr_cpu_ids={self.nr_cpu_ids}", remedy="a machine has at least 1 CPU")
        if not 0 <= self.slub_min_order < self.max_order:
            raise ConfigError(
                f"slub_min_order={self.slub_min_order}: the kernel would panic while it makes its first cache",
                remedy=f"give an order from 0 to {self.max_order - 1}",
            )

    @classmethod
    def for_arch(
        cls, arch: str = "amd64", *, cpus: int = 1, nr_cpu_ids: int | None = None, cmdline: str = ""
    ) -> SlabConfig:
        """Return the configuration of a Debian kernel of an architecture, booted with `cmdline`.

        Parameters
        ----------
        arch : {"amd64", "i386"}
            ``x86_64``, ``i686`` and ``686`` are understood as well.
        cpus : int
            CPUs present at boot.
        nr_cpu_ids : int, optional
            Possible CPUs; `cpus` by default.
        cmdline : str
            Kernel command line.

        Raises
        ------
        ConfigError
            If the architecture is unknown or an option is absurd.
        """
        if arch in ("amd64", "x86_64"):
            base = cls(cpus=cpus, nr_cpu_ids=cpus if nr_cpu_ids is None else nr_cpu_ids)
        elif arch in ("i386", "i686", "686"):
            base = cls(word_bytes=4, numa=False, cpus=cpus, nr_cpu_ids=cpus if nr_cpu_ids is None else nr_cpu_ids)
        else:
            raise ConfigError(f"unknown architecture {arch!r}", remedy="known are amd64 and i386")
        return base.with_cmdline(cmdline)

    def with_cmdline(self, cmdline: str) -> SlabConfig:
        """Return a copy with the options of a kernel command line applied, in their order.

        Options that do not concern slab caches are passed over. As in the
        kernel, ``-`` and ``_`` in an option's name are the same, and
        everything after a lone ``--`` belongs to init.

        Raises
        ------
        ConfigError
            If no kernel could boot with an option's value.
        """
        config = self
        for word in re.findall(r'(?:[^\s"]|"[^"]*"?)+', cmdline):
            if word == "--":
                break
            config = config._with_option(word.replace('"', ""))
        return config

    def _with_option(self, word: str) -> SlabConfig:
        """Apply one word of the command line."""
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        # The kernel's own __setup() table compares prefixes, so slub_debugFZ is slub_debug with a strange value.
        if name.startswith("slub_debug"):
            return replace(self, slub_debug=setup_slub_debug(name[10:] + equals + value, self.slub_debug))
        if name.startswith(("slab_nomerge", "slub_nomerge")):
            return replace(self, slab_nomerge=True)
        if name.startswith(("slab_merge", "slub_merge")):
            return replace(self, slab_nomerge=False)
        if name == "slub_max_order" and equals:
            return replace(self, slub_max_order=min(_get_option(value, self.slub_max_order), self.max_order - 1))
        if name == "slub_min_order" and equals:
            return replace(self, slub_min_order=_get_option(value, self.slub_min_order))
        if name == "slub_min_objects" and equals:
            return replace(self, slub_min_objects=_get_option(value, self.slub_min_objects))
        if name == "init_on_alloc" and equals:
            return replace(self, init_on_alloc=_kstrtobool(value, self.init_on_alloc))
        if name == "init_on_free" and equals:
            return replace(self, init_on_free=_kstrtobool(value, self.init_on_free))
        if name == "cgroup.memory" and "nokmem" in value.split(","):
            return replace(self, nokmem=True)
        return self

    @property
    def track_bytes(self) -> int:
        """Size of ``struct track``: caller, stack handle, CPU, pid, time.

        Source: mm/slub.c:track @6.1.192 (with CONFIG_STACKDEPOT)
        """
        numbers = self.word_bytes + 3 * 4
        return numbers + -numbers % self.word_bytes + self.word_bytes


def _kstrtobool(text: str, before: bool) -> bool:
    """Read a yes or no; what is neither changes nothing.

    Source: lib/kstrtox.c:kstrtobool @6.1.192
    """
    head = text[:2].lower()
    if head[:1] in ("y", "t", "1") or head == "on":
        return True
    if head[:1] in ("n", "f", "0") or head == "of":
        return False
    return before


def _get_option(text: str, before: int) -> int:
    """Read a number at the start of `text` as ``get_option()`` does (base by prefix, as an unsigned int)."""
    if not text:
        return before
    match = re.match(r"(-?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*|)", text)
    assert match is not None  # the pattern matches the empty string
    sign, digits = match.groups()
    if not digits:
        return 0
    if digits[:2] in ("0x", "0X"):
        value = int(digits, 16)
    else:
        value = int(digits, 8 if digits[0] == "0" else 10)
    return (-value if sign else value) & 0xFFFFFFFF
