# SPDX-License-Identifier: GPL-2.0-only
"""kmem: the Linux kernel's memory, in Python.

>>> from kmem import Machine
>>> from kmem.linux.gfp import GFP_KERNEL
>>> with Machine.boot("x86_64", ram="1G") as m:
...     page = m.alloc_pages(GFP_KERNEL, 2)
...     m.__free_pages(page, 2)

:class:`Machine` is where to begin; :mod:`kmem.verify`, :mod:`kmem.replay` and
:mod:`kmem.trace` compare it with recordings, drive it with traces and read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmem.errors import KmemError
    from kmem.machine.machine import Machine

__all__ = ["KmemError", "Machine", "__version__"]

__version__ = "0.1.0"

# Imported when they are asked for: the command line begins with this module and should not wait for them.
_HOMES = {"KmemError": "kmem.errors", "Machine": "kmem.machine.machine"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
