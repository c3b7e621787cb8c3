from __future__ import annotations

import html.parser

import pytest
from conftest import encoded, picture
from test_manifest import FAILED, ROW

from beam_adacompress import report, summary


class Strict(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(rows, pair):
    stats = summary.collect(rows)
    text = report.render(summary.summarise(stats, {"quality": 35}, {}, 1.0), stats, pair)
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    return text, parser.tags


def test_it_is_self_contained_and_shows_both_sides():
    before, after = encoded(picture()), encoded(picture(), quality=20)
    text, tags = page([ROW, FAILED], lambda row: (before, after))
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 4  # before and after, in the sample and among the largest savings
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert images[0]["alt"] == "a/ü #1.jpg, original"
    assert not [attributes for _, attributes in tags if "href" in attributes or "://" in attributes.get("src", "")]
    assert "75.0 % of the bytes saved" in text
    assert "no &#34;picture&#34;" in text


def test_names_cannot_smuggle_markup():
    evil = ROW._replace(key="<script>alert(1)</script>.jpg")
    text, _ = page([evil], lambda row: (encoded(picture()), encoded(picture())))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_large_and_odd_originals_are_shown_scaled_down():
    large = encoded(picture(1600, 1200), "TIFF")
    text, _ = page([ROW], lambda row: (large, encoded(picture(1600, 1200), quality=20)))
    assert "shown scaled down" in text
    assert len(text) < 600_000


def test_a_kept_image_is_one_picture():
    kept = ROW._replace(status="kept", reason="alpha")
    _, tags = page([kept], lambda row: (encoded(picture(mode="RGBA"), "PNG"), b"not looked at"))
    assert len([tag for tag, _ in tags if tag == "img"]) == 1


@pytest.mark.parametrize("pair", [lambda row: None, lambda row: (b"damaged", b"damaged")])
def test_originals_that_are_gone_or_unreadable_are_left_out(pair):
    _, tags = page([ROW], pair)
    assert not [tag for tag, _ in tags if tag == "img"]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_345_678, "2.3 MB"), (5e12, "5.0 TB")]
)
def test_megabytes(size, text):
    assert report.megabytes(size) == text
