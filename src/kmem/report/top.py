# SPDX-License-Identifier: GPL-2.0-only
"""The screen of ``kmem top``, drawn with Textual.

The screen asks a source for looks and shows the latest; it knows nothing of
``/proc`` or of replays beyond that.  Everything that comes from a file reaches
it as plain text: cells are :class:`rich.text.Text`, never markup.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.css.query import NoMatches
from textual.events import Event, InputEvent, Resize
from textual.widgets import DataTable, Footer, HelpPanel, Static, TabbedContent, TabPane

from kmem.analysis.top import (
    CACHE_KEYS,
    CALL_SITES,
    SITE_KEYS,
    CacheRow,
    Look,
    SiteRow,
    ZoneRow,
    printable,
    sort_caches,
    sort_sites,
    total,
    with_changes,
)
from kmem.analysis.top_source import ProcSource, ReplaySource
from kmem.errors import KmemError
from kmem.report.top_text import VIEWS, clock_text, missing_of

__all__ = ["Column", "TopApp", "drawing"]

_MOST_ROWS = 500  #: rows of a table; nobody reads further down, and each costs time
_POLL_S = 0.1  #: how soon a look of a replay is on the screen
_WAY_S = 0.1  #: how long a replay waits for the screen after a key
_NARROW = 80
_FASTEST = 1 << 20
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, the letter that sorts by it, and its text of a row."""

    title: str
    key: str
    cell: Callable[[Any], Text]


def _number(value: int | None, style: str = "") -> Text:
    return Text("-" if value is None else f"{value:,}", style, justify="right")


def _size(size_bytes: int | None) -> Text:
    if size_bytes is None:
        return Text("-", justify="right")
    for shift, unit in ((40, "T"), (30, "G"), (20, "M")):
        if abs(size_bytes) >= 10 << shift:
            return Text(f"{size_bytes / (1 << shift):,.1f}{unit}", justify="right")
    return Text(f"{size_bytes / _KIB:,.2f}K" if size_bytes % _KIB else f"{size_bytes // _KIB:,}K", justify="right")


def _change(value: int | None) -> Text:
    if not value:
        return Text("", justify="right")
    return Text(f"{value:+,}", "yellow" if value > 0 else "green", justify="right")


def _percent(value: int) -> Text:
    return Text(f"{value}%", "dim" if value < 50 else "", justify="right")


_CACHE_COLUMNS: tuple[Column, ...] = (
    Column("OBJS", "o", lambda row: _number(row.num_objs)),
    Column("ACTIVE", "a", lambda row: _number(row.active_objs)),
    Column("CHANGE", "", lambda row: _change(row.change)),
    Column("USE", "u", lambda row: _percent(row.use_percent)),
    Column("OBJ SIZE", "s", lambda row: _number(row.objsize)),
    Column("CACHE SIZE", "c", lambda row: _size(row.cache_bytes)),
    Column("SLABS", "l", lambda row: _number(row.num_slabs)),
    Column("OBJ/SLAB", "b", lambda row: _number(row.objperslab)),
    Column("PAGES/SLAB", "p", lambda row: _number(row.pagesperslab)),
    Column("ACTIVE SLABS", "v", lambda row: _number(row.active_slabs)),
)
_CALL_SITE_COLUMNS: tuple[Column, ...] = (
    Column("BYTES", "c", lambda row: _number(row.bytes)),
    Column("CHANGE", "", lambda row: _change(row.change)),
    Column("LIVE", "a", lambda row: _number(row.count)),
    Column("USE", "u", lambda row: _percent(row.use_percent)),
    Column("MEAN SIZE", "s", lambda row: _number(row.mean_bytes)),
    Column("REQUESTS", "o", lambda row: _number(row.allocs)),
    Column("PEAK BYTES", "", lambda row: _number(row.peak)),
    Column("REFUSED", "", lambda row: _number(row.failures, "red" if row.failures else "")),
)
_VMALLOC_COLUMNS: tuple[Column, ...] = (
    Column("SIZE", "c", lambda row: _size(row.bytes)),
    Column("CHANGE", "", lambda row: _change(row.change)),
    Column("AREAS", "a", lambda row: _number(row.count)),
    Column("MEAN SIZE", "s", lambda row: _size(row.mean_bytes)),
    Column("PAGES", "p", lambda row: _number(row.pages)),
    Column("KIND", "", lambda row: Text(printable(row.kind))),
)
#: Headings, and what names a row, by view.
_NAMES = {"caches": "CACHE", "zones": "ZONE", "sites": "CALLER"}


def _free(row: ZoneRow) -> Text:
    style = ""
    if row.min is not None and row.low is not None:
        style = "red" if row.free <= row.min else "yellow" if row.free <= row.low else ""
    return _number(row.free, style)


def _zone_columns(orders: int) -> tuple[Column, ...]:
    def blocks(order: int) -> Callable[[ZoneRow], Text]:
        return lambda row: _number(row.nr_free[order] if order < len(row.nr_free) else None)

    return (
        Column("FREE", "", _free),
        Column("MANAGED", "", lambda row: _number(row.managed)),
        Column("MIN", "", lambda row: _number(row.min)),
        Column("LOW", "", lambda row: _number(row.low)),
        Column("HIGH", "", lambda row: _number(row.high)),
        Column("PER CPU", "", lambda row: _number(row.pcp)),
        Column("LARGEST", "", lambda row: _number(row.largest_order)),
        *(Column(str(order), "", blocks(order)) for order in range(orders)),
    )


def _bindings() -> Iterator[Binding]:
    yield Binding("q", "quit", "Quit")
    yield Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True)
    yield Binding("space,enter", "look", "Look now", key_display="space", priority=True)
    yield Binding("z", "pause", "Pause or go on")
    yield Binding("full_stop", "step", "Step", key_display=".")
    yield Binding("plus,equals_sign", "speed(2)", "Faster", key_display="+", show=False)
    yield Binding("minus", "speed(0.5)", "Slower", key_display="-", show=False)
    for number, view in enumerate(VIEWS, 1):
        yield Binding(str(number), f"view('{view}')", view.capitalize())
    yield Binding("tab", "turn(1)", "Next view", show=False, priority=True)
    yield Binding("shift+tab", "turn(-1)", "View before", show=False, priority=True)
    for key, meaning in CACHE_KEYS.items():
        yield Binding(key, f"sort('{key}')", f"Sort by {meaning.title}", show=False)
    yield Binding("question_mark,h", "keys", "Keys", key_display="?")


class TopApp(App[None]):
    """The screen.

    Parameters
    ----------
    source : ProcSource or ReplaySource
        Where looks come from. A replay is started and stopped with the screen.
    cache_key : str
        Letter that caches are sorted by at first.
    view : str
        View that is shown first.
    delay_s : float
        Seconds between two looks at ``/proc`` files.
    step : int
        Events of a step of a replay.

    Attributes
    ----------
    failure : Exception or None
        Why the screen ended, if something went wrong.
    interrupted : bool
        Whether it was ended by Ctrl-C or a signal.
    trouble : str
        Why the files could not be read the last time, empty if they could.
    """

    TITLE = "kmem top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #message { height: auto; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #message { color: $warning; display: none; }
    #message.shown { display: block; text-wrap: wrap; max-height: 5; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [*_bindings()]

    def __init__(
        self,
        source: ProcSource | ReplaySource,
        *,
        cache_key: str = "o",
        view: str = "caches",
        delay_s: float = 3.0,
        step: int = 1000,
    ) -> None:
        super().__init__()
        self.source = source
        self.delay_s = delay_s
        self.step = step
        self.keys = {"caches": cache_key, "sites": "c"}
        self.first_view = view
        self.failure: Exception | None = None
        self.interrupted = False
        self.trouble = ""
        self.look: Look | None = None  # with changes
        self._raw: Look | None = None  # as the source gave it
        self._shown: dict[str, list[list[Text]]] = {view: [] for view in VIEWS}
        self._layout: dict[str, object] = {}
        self._widths: dict[str, int] = {}
        self._reading = False

    # Building

    def compose(self) -> ComposeResult:
        """Make the parts: sums, a table for each view, a line for what is missing, keys."""
        yield Static(id="head", markup=False)
        yield Static(id="message", markup=False)
        titles = {"caches": "Caches", "zones": "Zones", "sites": "Call sites"}
        with TabbedContent(initial=self.first_view):
            for view in VIEWS:
                with TabPane(titles[view], id=view):
                    yield DataTable(id=f"{view}-table", cursor_type="row", fixed_columns=1, zebra_stripes=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin: start a replay, or read the files; end as asked by a signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
                loop.add_signal_handler(number, self.action_interrupt)
        self._focus_table()
        if isinstance(self.source, ReplaySource):
            self.source.start()
            self.set_interval(_POLL_S, self._poll)
            self._poll()
        else:
            self.set_interval(self.delay_s, self.action_look)
            self.action_look()

    def on_unmount(self) -> None:
        """End a replay with the screen."""
        if isinstance(self.source, ReplaySource):
            self.source.stop()

    async def on_event(self, event: Event) -> None:
        """Have a replay wait for a moment when something is pressed, moved or resized."""
        if isinstance(self.source, ReplaySource) and isinstance(event, InputEvent | Resize):
            self.source.give_way(_WAY_S)
        await super().on_event(event)

    # Looks

    def _poll(self) -> None:
        """Show the latest look of a replay, if it is a new one."""
        assert isinstance(self.source, ReplaySource)
        if self.source.error is not None:
            self._fail(self.source.error)
        elif self.source.latest is not self._raw:
            self.source.give_way(_WAY_S / 2)
            self._take(self.source.latest)

    def _read(self) -> None:
        """Read the files, in a thread: a kernel may take its time over slabinfo."""
        assert isinstance(self.source, ProcSource)
        try:
            look = self.source.look()
        except KmemError as error:
            self.call_from_thread(self._wait_and_see, error)
        else:
            self.call_from_thread(self._take, look)

    def _wait_and_see(self, error: KmemError) -> None:
        """Files that were sound before may be again at the next look: until then the screen says what is wrong."""
        if self._raw is None:
            self._fail(error)
            return
        self._reading, self.trouble = False, str(error)
        self._draw()

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.exit(return_code=2)

    def _take(self, look: Look) -> None:
        self._reading, self.trouble = False, ""
        self.look, self._raw = with_changes(look, self._raw), look
        self._draw()

    # Drawing

    def _draw(self) -> None:
        """Bring the head, the message and the visible table up to date."""
        if self.look is None:
            return
        try:
            view = self.view
            head, message = self.query_one("#head", Static), self.query_one("#message", Static)
        except NoMatches:  # going down
            return
        head.update(Text("\n".join(self._head(self.look))))
        text = self._message(self.look, view)
        message.update(Text(text))
        message.set_class(bool(text), "shown")
        sites = "Call sites" if self.look.sites_are == CALL_SITES else "vmalloc"
        self.query_one(TabbedContent).get_tab("sites").label = sites
        self._fill(view)

    @property
    def view(self) -> str:
        """The view that is shown."""
        return self.query_one(TabbedContent).active or self.first_view

    def _head(self, look: Look) -> Iterator[str]:
        yield printable(look.source) + ("" if look.clock is not None else f", every {self.delay_s:g} s")
        if look.clock is not None:
            yield from _flow(clock_text(look.clock).split(", "), self.size.width - 2)
        t = total(look.caches)
        use = f" ({100 * t.active_objs / t.num_objs:.1f}%)" if t.num_objs else ""
        parts = [
            f"objects {t.active_objs:,} of {t.num_objs:,}{use}",
            f"slabs {t.num_slabs:,}",
            f"caches {t.active_caches:,} of {t.num_caches:,}",
            f"bytes {_size(t.active_bytes)} of {_size(t.num_bytes)}",
        ]
        yield from _flow(
            [
                *(parts if look.caches else ()),
                f"free pages {sum(zone.free for zone in look.zones):,}",
                f"sorted by {self._sorted_by()}",
            ],
            self.size.width - 2,
        )

    def _sorted_by(self) -> str:
        view = self.view
        if view == "zones":
            return "address"
        return (CACHE_KEYS if view == "caches" else SITE_KEYS)[self.keys[view]].title

    def _message(self, look: Look, view: str) -> str:
        if self.trouble:
            return printable(self.trouble)
        missing = missing_of(look, view)
        if missing is not None:
            return printable(missing)
        waits = look.clock is not None and look.clock.state == "reading"
        count = len({"caches": look.caches, "zones": look.zones, "sites": look.sites}[view])
        if not count and not waits:
            return "nothing to show"
        return f"the first {_MOST_ROWS} of {count:,}" if count > _MOST_ROWS else ""

    def _columns(self, look: Look, view: str) -> tuple[Column, ...]:
        if view == "caches":
            return _CACHE_COLUMNS
        if view == "zones":
            return _zone_columns(max((len(row.nr_free) for row in look.zones), default=0))
        return _CALL_SITE_COLUMNS if look.sites_are == CALL_SITES else _VMALLOC_COLUMNS

    def _rows(self, look: Look, view: str) -> Sequence[CacheRow | ZoneRow | SiteRow]:
        if view == "caches":
            return sort_caches(look.caches, self.keys[view])[:_MOST_ROWS]
        if view == "sites":
            return sort_sites(look.sites, self.keys[view])[:_MOST_ROWS]
        return look.zones

    def _name_width(self, view: str, names: Sequence[Text]) -> int:
        """Columns for names, which stay in view while the others scroll: as many as needed, up to a limit."""
        most = 22 if self.size.width < _NARROW else 48
        before = self._widths.get(view, 0)
        width = min(most, max([before, 10, *(name.cell_len for name in names)]))
        self._widths[view] = width
        return width

    def _fill(self, view: str) -> None:
        """Write the cells of a table that have changed; build it anew if its columns have."""
        assert self.look is not None
        table: DataTable[Text] = self.query_one(f"#{view}-table", DataTable)
        data = self._rows(self.look, view)
        names = [_name(row) for row in data]
        columns, width, key = self._columns(self.look, view), self._name_width(view, names), self.keys.get(view, "")
        layout = ([column.title for column in columns], width, key)
        if self._layout.get(view) != layout:
            self._layout[view], self._shown[view] = layout, []
            table.clear(columns=True)
            title = "CALL SITE" if view == "sites" and self.look.sites_are == CALL_SITES else _NAMES[view]
            table.add_column(_heading(title, "▲" if key == "n" else "", "left"), width=width)
            for column in columns:
                table.add_column(_heading(column.title, "▼" if key and column.key == key else "", "right"))
        before, rows = self._shown[view], []
        for number, (row, name) in enumerate(zip(data, names, strict=True)):
            name.truncate(width, overflow="ellipsis")
            cells = [name, *(column.cell(row) for column in columns)]
            rows.append(cells)
            if number >= len(before):
                table.add_row(*cells)
                continue
            for place, (cell, old) in enumerate(zip(cells, before[number], strict=True)):
                if not _same(cell, old):
                    table.update_cell_at(Coordinate(number, place), cell, update_width=True)
        for _ in range(len(rows), len(before)):
            last = table.coordinate_to_cell_key(Coordinate(table.row_count - 1, 0)).row_key
            table.remove_row(last)
        self._shown[view] = rows

    def _focus_table(self) -> None:
        with contextlib.suppress(NoMatches):
            self.query_one(f"#{self.view}-table", DataTable).focus()

    # What happens

    def on_resize(self, event: Resize) -> None:
        """Fit the names to the new width."""
        self.call_after_refresh(self._draw)

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Fill the table that has come to the front."""
        self._draw()
        self._focus_table()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose heading was clicked."""
        if self.look is None:
            return
        view, place = self.view, event.column_index
        key = "n" if place == 0 else self._columns(self.look, view)[place - 1].key
        if key:
            self.action_sort(key)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what is for replays only for replays."""
        if action in ("pause", "step", "speed"):
            return isinstance(self.source, ReplaySource)
        return True

    def action_look(self) -> None:
        """Look now."""
        if isinstance(self.source, ReplaySource):
            self.source.want()
        elif not self._reading:
            self._reading = True
            self.run_worker(self._read, thread=True, name="read", exit_on_error=True)

    def action_sort(self, key: str) -> None:
        """Sort the view by a letter, if it has what the letter means."""
        view = self.view
        if view == "zones":
            self.notify("zones stay in the order of their addresses", markup=False)
            return
        if key not in (CACHE_KEYS if view == "caches" else SITE_KEYS):
            self.notify(f"nothing here has {CACHE_KEYS[key].title}", markup=False)
            return
        self.keys[view] = key
        self._draw()

    def action_view(self, view: str) -> None:
        """Show a view."""
        self.query_one(TabbedContent).active = view

    def action_turn(self, by: int) -> None:
        """Show the next view, or the one before."""
        self.action_view(VIEWS[(VIEWS.index(self.view) + by) % len(VIEWS)])

    def action_pause(self) -> None:
        """Pause a replay, or let it go on."""
        if isinstance(self.source, ReplaySource):
            self.source.pause(not self.source.paused)

    def action_step(self) -> None:
        """Replay some events, and pause."""
        if isinstance(self.source, ReplaySource):
            self.source.step(self.step)

    def action_speed(self, factor: float) -> None:
        """Go faster or slower; slower than as fast as possible is as recorded, 1."""
        if not isinstance(self.source, ReplaySource):
            return
        speed = self.source.speed
        if speed is None and factor > 1:
            return
        speed = 1.0 if speed is None else speed * factor
        self.source.set_speed(None if speed > _FASTEST else max(speed, 1 / _FASTEST))
        self.source.want()

    def action_keys(self) -> None:
        """Show all keys, or hide them again."""
        if self.screen.query(HelpPanel):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def action_interrupt(self) -> None:
        """End as Ctrl-C ends a program."""
        self.interrupted = True
        self.exit(return_code=130)


def _name(row: CacheRow | ZoneRow | SiteRow) -> Text:
    return Text(printable(f"{row.node} {row.name}" if isinstance(row, ZoneRow) else row.name), no_wrap=True)


def _flow(parts: Sequence[str], width: int) -> Iterator[str]:
    """Put parts on lines of this width, none of them broken."""
    line = ""
    for part in parts:
        longer = f"{line}   {part}" if line else part
        if line and len(longer) > width:
            yield line
            longer = part
        line = longer
    if line:
        yield line


def _heading(title: str, mark: str, justify: Literal["left", "right"]) -> Text:
    return Text(f"{title}{mark}", "underline" if mark else "", justify=justify)


def _same(cell: Text, other: Text) -> bool:
    return cell.plain == other.plain and cell.style == other.style


def drawing(
    source: ProcSource, *, view: str = "caches", cache_key: str = "o", size: tuple[int, int] = (100, 24)
) -> str:
    """Return the screen as an SVG drawing, for documents; it refers to nothing on the network.

    Parameters
    ----------
    source : ProcSource
        What to look at.
    view : str
        What to show: ``caches``, ``zones`` or ``sites``.
    cache_key : str
        Letter that caches are sorted by.
    size : tuple of int
        Columns and lines of the terminal.
    """
    app = TopApp(source, view=view, cache_key=cache_key)

    async def draw() -> str:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await app.workers.wait_for_complete()
            await pilot.pause()
            return app.export_screenshot()

    return re.sub(r"@font-face \{.*?\}\s*", "", asyncio.run(draw()), flags=re.DOTALL)
