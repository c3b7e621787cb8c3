"""HTML pages in tests: whole, self-contained, and what is in them."""

from __future__ import annotations

import html.parser
import re
from typing import Any

VOID = {"meta", "img", "br", "path", "use", "circle"}


class Strict(html.parser.HTMLParser):
    """Knows every tag with its attributes, and that each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(page: str) -> list[tuple[str, dict[str, Any]]]:
    """The tags of a page, which is whole and asks nobody for anything."""
    assert page.startswith("<!doctype html>"), page[:100]
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert "http:" not in page
    assert "https:" not in page
    for tag, attributes in parser.tags:
        assert attributes.get("src", "data:").startswith("data:"), tag
        assert attributes.get("href", "#").startswith("#"), tag
        assert tag not in ("link", "iframe", "object", "embed"), tag
    assert not re.findall(r"url[(](?!#)|@import", page)
    names = [attributes["id"] for _, attributes in parser.tags if "id" in attributes]
    assert len(names) == len(set(names)), "a name stands twice"
    return parser.tags
