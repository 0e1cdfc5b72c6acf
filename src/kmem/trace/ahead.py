# SPDX-License-Identifier: GPL-2.0-only
"""Reading ahead: the next batches of a recording are made in a second thread.

It pays where the reader leaves the interpreter's lock, as the scanners of
binary recordings do: the other core decodes while this one works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


class _End:
    """What stands behind the last item: nothing, or the error that came instead of it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Iterate in the same order, with `items` being made in a second thread.

    Parameters
    ----------
    items : iterable
        Used by the second thread alone, from the first ``next()`` to the end.
    depth : int
        How many items may wait, at least 1; one more is being made.

    Yields
    ------
    object
        The items.  What iterating over them raises is raised in their place.

    Notes
    -----
    Closing the generator waits for the item that is being made, and for
    nothing behind it; until then what the items are made of must stay open.
    """
    made: SimpleQueue[T | _End] = SimpleQueue()
    room = Semaphore(depth)
    wanted = True

    def make() -> None:
        end = _End()
        try:
            for item in items:
                made.put(item)
                room.acquire()
                if not wanted:
                    return
        except BaseException as error:
            end = _End(error)
        made.put(end)

    thread = Thread(target=make, name="reader", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
            del item
            room.release()
        if item.error is not None:
            raise item.error
    finally:
        wanted = False
        room.release()
        thread.join()
