# SPDX-License-Identifier: GPL-2.0-only
"""From docstrings as they are written to Markdown: roles, examples in plain text, labels such as ``Source:``."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":\w+:`~?([^`]+)`")
LABEL = re.compile(r"^(Source|Differs|Complexity|Context):", re.MULTILINE)
EXAMPLES = re.compile(r"^Examples\n-+$", re.MULTILINE)
PROMPTS = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


def markdown(text: str) -> str:
    """Return a docstring in Markdown; its sections stay as they are.

    A label begins a paragraph, and examples outside the section of that name
    become a block of code.
    """
    text = LABEL.sub(r"\n**\1:**", ROLE.sub(r"`\1`", text))
    section = EXAMPLES.search(text)
    end = section.start() if section else len(text)
    return PROMPTS.sub(lambda block: f"```pycon\n{block[0]}\n```", text[:end]) + text[end:]


class DocstringsAsMarkdown(Extension):
    """Rewrites each docstring when it has been read."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
