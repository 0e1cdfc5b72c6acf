# SPDX-License-Identifier: GPL-2.0-only
"""Comparing the model with recordings of real kernels.

:func:`verify` takes one recording of any kind; each kind has its checker in a
module of its own, and all answer with a :class:`~kmem.verify.result.Result`.
"""

from __future__ import annotations

from pathlib import Path

from kmem.errors import KmemError
from kmem.verify.kinds import SUPPORTED, find_recordings, kind_of
from kmem.verify.result import BehaviourOnlyError, Difference, Result

__all__ = ["SUPPORTED", "BehaviourOnlyError", "Difference", "Result", "find_recordings", "kind_of", "name_of", "verify"]


def name_of(path: Path) -> str:
    """Return what a recording is called in a report: its folder and its name without suffixes.

    Examples
    --------
    >>> name_of(Path("recordings/pages/amd64-512M/pages-00.jsonl.gz"))
    'amd64-512M/pages-00'
    """
    name = path.name
    for suffix in (".gz", ".zst", ".jsonl"):
        name = name.removesuffix(suffix)
    folder = path.absolute().parent.name
    return f"{folder}/{name}" if folder else name


def verify(path: Path, *, stop_at_first: bool = False) -> Result:
    """Compare the model with one recording.

    Parameters
    ----------
    path : Path
        The recording; files beside it are its context.
    stop_at_first : bool
        Give up at the first difference.

    Returns
    -------
    Result
        What was compared, and where they differ.

    Raises
    ------
    InputError
        The recording is damaged or of no known kind.
    NotSupportedError
        It is of a kind that cannot be verified; a :class:`BehaviourOnlyError` if no recording of its
        nature can be.
    """
    kind = kind_of(path)
    try:
        result = _check(kind, path, stop_at_first)
    except KmemError as error:
        raise error.at(file=path) from None
    result.name = name_of(path)
    if stop_at_first:
        del result.differences[1:]
    return result


def _check(kind: str, path: Path, stop_at_first: bool) -> Result:
    # Imported here: each checker brings its part of the model along.
    if kind == "pages":
        from kmem.verify.pages import verify_pages

        return verify_pages(path, stop_at_first=stop_at_first)
    if kind == "slab":
        from kmem.verify.slab import verify_slab

        return verify_slab(path, stop_at_first=stop_at_first)
    if kind == "geometry":
        from kmem.verify.geometry import verify_geometry

        return verify_geometry(path, stop_at_first=stop_at_first)
    if kind == "vmalloc":
        from kmem.verify.vmalloc import verify_vmalloc

        return verify_vmalloc(path, stop_at_first=stop_at_first)
    if kind == "mempool":
        from kmem.verify.mempool import verify_mempool

        return verify_mempool(path, stop_at_first=stop_at_first)
    if kind in ("poison", "reports", "reports-oops"):
        from kmem.verify.object_bytes import verify_object_bytes

        return verify_object_bytes(path, kind, stop_at_first=stop_at_first)
    from kmem.verify.zones import verify_zones

    return verify_zones(path)
