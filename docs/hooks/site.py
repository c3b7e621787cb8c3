"""What mkdocs does with the pages beside rendering them; see mkdocs.yml.

- ```math``` fences become MathML, which browsers draw by themselves: nothing is fetched, neither here nor by readers.
- What the code knows (options, columns, metrics) and what the benchmarks found is filled in anew, see blocks.py.
- A link to a file of the checkout that is no page leads to a page that shows it, so that the site is whole by itself
  and the same links work where the repository is read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blocks
import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).parent.parent.parent
DOCS = "docs"
SHOWN = "files"  # where files of the checkout are in the site

_LANGUAGES = {".py": "python", ".sh": "bash", ".json": "json", ".yaml": "yaml", ".toml": "toml"}
_CODE = re.compile(r"(^ *(?:```|~~~).*?^ *(?:```|~~~) *$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draws formulas."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": formula})
    return config


def formula(source: str, language: str, css_class: str, options: Any, md: Any, **kwargs: Any) -> str:
    """A LaTeX formula as MathML; one on each line."""
    lines = [latex2mathml.converter.convert(line, display="block") for line in source.splitlines() if line.strip()]
    return f'<div class="{css_class}">{"".join(lines)}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file of the checkout that a page links to."""
    waiting = [posixpath.join(DOCS, file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        origin = waiting.pop()
        for path in sorted(_links(origin) - seen):
            seen.add(path)
            if not path.startswith(f"{DOCS}/"):
                files.append(File.generated(config, _address(path), content=_shown(path)))
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in the blocks, and leads links to files of the checkout to their pages."""
    origin = _origin(page.file.src_uri)
    markdown = blocks.filled(markdown)
    if not origin.endswith(".md"):
        return markdown

    def lead(link: re.Match[str]) -> str:
        address = _address(_target(origin, link[2]))
        return link[1] + posixpath.relpath(address, posixpath.dirname(page.file.src_uri) or ".") + link[3]

    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _LINK.sub(lead, part) for index, part in enumerate(parts))


def _target(origin: str, link: str) -> str:
    """What a link of a file leads to; both are paths in the checkout. A folder's README stands for the folder."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    readme = posixpath.join(path, "README.md")
    return readme if (CHECKOUT / readme).exists() else path


def _address(path: str) -> str:
    """Where a file of the checkout is in the site."""
    if path.startswith(f"{DOCS}/"):
        return path[len(DOCS) + 1 :]
    return posixpath.join(SHOWN, path if path.endswith(".md") else f"{path}.md")


def _origin(address: str) -> str:
    """The inverse of `_address`."""
    if not address.startswith(f"{SHOWN}/"):
        return posixpath.join(DOCS, address)
    path = address[len(SHOWN) + 1 :]
    return path if (CHECKOUT / path).exists() else path.removesuffix(".md")


def _links(origin: str) -> set[str]:
    path = CHECKOUT / origin
    return set(_found_links(origin, path.read_text())) if path.suffix == ".md" and path.exists() else set()


def _found_links(origin: str, text: str) -> Iterator[str]:
    for part in _CODE.split(text)[::2]:
        yield from (_target(origin, link[2]) for link in _LINK.finditer(part))


def _shown(path: str) -> str:
    """The page of a file or a folder; what is not there is left to mkdocs, which says which link is broken."""
    place = CHECKOUT / path
    if place.is_dir():
        names = sorted(each.name for each in place.iterdir() if not each.name.startswith(("_", ".")))
        return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names)])
    text = place.read_text()
    if place.suffix == ".md":
        return text
    language = _LANGUAGES.get(place.suffix, "text")
    return f"# {path}\n\n~~~~~~ {{ .{language} }}\n{text}\n~~~~~~\n"
