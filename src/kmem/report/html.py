# SPDX-License-Identifier: GPL-2.0-only
"""The page of a replay: one HTML file with everything in it, which asks no network for anything.

The figures are data, a JSON block that no browser executes; the page's own
script and Plotly draw them.  Texts of a trace reach the document as text only,
and the page's content security policy admits just the two scripts written here.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib import resources
from typing import Any

import orjson

from kmem.errors import NotSupportedError

__all__ = ["page", "require_plotly"]

_EXPLAINED = 100  #: failures that the page lists
_MARKED = 300  #: and those that it marks on the chart of free memory
_MARK_KEYS = ("time_ns", "event", "size_bytes", "order", "cache", "reason")

#: Characters that could end a script element, or a line of one.
_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@cache
def require_plotly() -> str:
    """Return Plotly's script.

    Raises
    ------
    NotSupportedError
        Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise NotSupportedError("the page needs plotly", remedy="pip install 'kmem[html]'") from None
    return str(get_plotlyjs())


def page(result: dict[str, Any]) -> bytes:
    """Return the page of a replay.

    Parameters
    ----------
    result : dict
        Of :func:`~kmem.report.result.replay_result`, or of
        :func:`~kmem.report.replay_json.replay_to_dict`: then the page says what it cannot show.

    Raises
    ------
    NotSupportedError
        Plotly is not installed.
    """
    plotly = require_plotly().replace("</script", "<\\/script")
    files = resources.files("kmem.report")
    script = (files / "page.js").read_text("utf-8")
    parts = {
        "title": escape(f"kmem replay: {result['trace']}"),
        "hashes": " ".join(_hash(each) for each in (plotly, script)),
        "style": (files / "page.css").read_text("utf-8"),
        "data": _data(_shown(result)),
        "plotly": plotly,
        "script": script,
    }
    pieces = (files / "page.html").read_text("utf-8").split("%%")
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces).encode()


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what the page does not show: failures beyond the first ones but for marks on the chart."""
    failures = result.get("failure_list", [])
    rest = failures[_EXPLAINED:]
    step = -(-len(rest) // (_MARKED - _EXPLAINED)) or 1
    marks = [{key: each[key] for key in _MARK_KEYS if key in each} for each in rest[::step]]
    return {**result, "failure_list": failures[:_EXPLAINED] + marks}


def _data(result: dict[str, Any]) -> str:
    """The figures as JSON that is also safe inside a script element."""
    text = orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    return text.translate(_UNSAFE)
