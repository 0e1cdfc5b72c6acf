# SPDX-License-Identifier: GPL-2.0-only
"""What MkDocs calls while it builds the site: generated pages, live figures, parts of the README.

- Pages that exist nowhere as files: the reference, the known differences, the
  architecture.
- Figures: the examples of a page that shows an ``.svg`` are run, and the files
  that they write are the figures.
- ``<!-- README: Heading -->`` in a page stands for that section of the README.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website import differences, reference, sessions

ROOT = Path(__file__).parents[1]
#: Documents of the project that are pages of the site.
DOCUMENTS = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
SECTION = re.compile(r"^<!-- README: (.+?) -->$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
PROMPT = re.compile(r"^```python\n(?=>>> )", re.MULTILINE)
DIRECTIVE = re.compile(r" *# doctest: .*$", re.MULTILINE)


def named(nav: object) -> set[str]:
    """Return the pages that a table of contents names."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return {page for part in parts for page in named(part)}


def heading_for(page: str) -> str:
    """Return the heading under which a page belongs that the table of contents does not name."""
    if page.startswith("linux-"):
        return "Kernel calls"
    return "Commands" if page.endswith("-json.md") else "Topics"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference into the table of contents, and pages that nobody has put there."""
    nav = config.nav or []
    headings = {name: pages for entry in nav for name, pages in entry.items()}
    headings["Python reference"].extend(reference.navigation())
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name not in named(nav):
            headings[heading_for(path.name)].append(path.name)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    pages = {"commands.md": reference.commands(), "differences.md": differences.page(differences.differences())}
    pages |= reference.module_pages()
    pages |= {uri: (ROOT / name).read_text() for name, uri in DOCUMENTS.items()}
    for file in list(files.documentation_pages()):
        text = file.content_string
        if re.search(r"\]\([^)]+\.svg\)", text):
            try:
                drawn = sessions.figures(text, file.src_uri)
            except ValueError as error:
                raise PluginError(str(error)) from error
            folder = posixpath.dirname(file.src_uri)
            pages |= {posixpath.join(folder, name): drawing for name, drawing in drawn.items()}
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def section(heading: str) -> str:
    """Return a section of the README, without its heading."""
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    if not found:
        raise PluginError(f"the README has no section {heading!r}")
    return LINK.sub(lambda link: f"]({link[1].removeprefix('docs/')}{link[2] or ''})", found[1].strip())


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert sections of the README, and lead links between documents to their pages."""
    here = posixpath.dirname(page.file.src_uri)
    home = posixpath.relpath(".", here or ".")

    def to_page(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", here, link[1]))  # as seen from the project's folder
        if target not in DOCUMENTS:
            return link[0]
        return f"]({posixpath.join(home, DOCUMENTS[target])}{link[2] or ''})"

    markdown = SECTION.sub(lambda mark: section(mark[1]), LINK.sub(to_page, markdown))
    return PROMPT.sub("```pycon\n", DIRECTIVE.sub("", markdown))
