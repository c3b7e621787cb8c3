"""What the tests of score runs share: a compress run, a service on this machine, recorded replies."""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs

from conftest import IN_PROCESS
from loopback import Reply, Request, json_reply

from beam_adacompress.pipelines import cli

CLI = [sys.executable, "-m", "beam_adacompress"]


def recorded(path: Path, replies: dict[tuple[str, int | None], str | None]) -> str:
    """A file of replies: labels by (image, quality); None for an error."""
    rows = [
        {
            "service": "s",
            "dataset": "d",
            "image": image,
            "quality": quality,
            "bytes": 1,
            "error": int(labels is None),
            "labels": [[name, 0.5] for name in (labels or "").split()],
        }
        for (image, quality), labels in replies.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"replay:{path}"


REPLIES = {
    ("a/0.jpg", None): "cat dog",
    ("a/0.jpg", 35): "cat dog",  # agrees
    ("b/1.jpg", None): "cat dog",
    ("b/1.jpg", 35): "dog cat",  # agrees, but not strictly
    ("a/2.jpg", None): "cat",
    ("a/2.jpg", 35): "fox",  # disagrees
    ("b/3.jpg", None): "cat",
    ("b/3.jpg", 35): "",  # sees nothing any more
    ("a/4.jpg", None): "",  # nothing to compare with
    ("b/5.jpg", None): "cat",
    ("b/5.jpg", 35): None,  # fails
}


def scored(run: Path, output: Path, backend: str, *options: str) -> int:
    arguments = ["--input", str(run), "--output", str(output), "--sample-rate", "1"]
    arguments += [] if "--backend" in options else ["--backend", backend]
    return cli.main(["score", *arguments, *IN_PROCESS, *options])


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


class Vision:
    """Face++ on this machine: sees a cat in everything."""

    def __init__(self, delay: float = 0.0) -> None:
        self.asked: collections.Counter[str] = collections.Counter()  # by sha256 of the image
        self.delay = delay

    def answer(self, request: Request) -> Reply:
        (image,) = parse_qs(request.body.decode())["image_base64"]
        self.asked[hashlib.sha256(base64.b64decode(image)).hexdigest()] += 1
        objects = [{"value": "cat", "confidence": 90.0}]
        return json_reply({"request_id": "1", "objects": objects, "scenes": []}, delay=self.delay)
