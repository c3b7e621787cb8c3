from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import remembering
from PIL import Image

from beam_adacompress.jpeg import native, source
from beam_adacompress.jpeg import picture as by_pictures
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.pipelines import cli, credentials
from beam_adacompress.transforms.runs import read_rows

# Processes that tests start take the installed package, as pytest does, and not the checkout that they are started in,
# which has no native core. (Python 3.11 and later.)
os.environ["PYTHONSAFEPATH"] = "1"

remembering.remember()

IN_PROCESS = ["--runner=FnApiRunner", "--direct_num_workers=1"]


def picture(width: int = 96, height: int = 64, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Gradients and texture: something that JPEG shrinks, different for each seed."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    channels = [across, down, (across + down) / 2 + random.normal(0, 12, (height, width))]
    rgb = np.clip(np.stack(channels, -1) + 10 * seed % 40, 0, 255).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    if form == "JPEG":
        options = {"quality": 95, **options}
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(params=[native.NATIVE, native.PILLOW])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the native core, and as if it had not been built."""
    if request.param == native.PILLOW:
        monkeypatch.setattr(native, "_native", None)
    elif not native.is_installed():
        pytest.skip("the native core was not built: no C compiler, or no libjpeg-turbo headers")
    return str(request.param)


def watch_decoding(monkeypatch: pytest.MonkeyPatch, saw: Callable[[bytes], object]) -> None:
    """Calls `saw` with each file that is decoded, by whichever engine; those that Pillow has just made are none."""
    decode, read, rewrite = source.Source._decode, native.open_coded, by_pictures._rewritten
    made = threading.local()

    def pixels(self: source.Source) -> Image.Image:
        saw(self.data)
        return decode(self)

    def coefficients(data: bytes, max_pixels: int | None = None) -> native.Coded | None:
        found = read(data, max_pixels)
        if found is not None and data is not getattr(made, "data", None):
            saw(data)
        return found

    def rewritten(data: bytes, *how: Any) -> bytes:
        made.data = data
        return rewrite(data, *how)

    monkeypatch.setattr(source.Source, "_decode", pixels)
    monkeypatch.setattr(native, "open_coded", coefficients)
    monkeypatch.setattr(by_pictures, "_rewritten", rewritten)


def said_beside_progress(stderr: str) -> list[str]:
    """The lines but for those about progress, which a slow machine has time for."""
    return [line for line in stderr.splitlines() if " images, " not in line]


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def psnr(first: Image.Image, second: Image.Image) -> float:
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (first, second))
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a - b) ** 2))))


def manifest_rows(output: Path) -> dict[str, ManifestRow]:
    rows = [row for part in sorted((output / "manifest").glob("*.parquet")) for row in read_rows(str(part))]
    by_key = {row.key: row for row in rows}
    assert len(by_key) == len(rows), "a key stands twice in the manifest"
    return by_key


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_corpus(folder: Path) -> Path:
    for index in range(6):
        path = folder / ("ab"[index % 2]) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed=index)))
    return folder


# What is run where it is asked for, and by .ci/run.
ASKED_FOR = {
    "docs": "builds the documentation, or takes minutes: pytest -m docs, with the extra docs",
    "heavy": "kills a job's processes, runs an emulator, or trains in earnest, and takes long: pytest -m heavy",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, reason in ASKED_FOR.items():
        if marker not in config.option.markexpr:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the answers of another in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test looks for whoever runs it in Google Cloud; where paths in buckets are only refused, nothing is opened."""
    monkeypatch.setattr(credentials, "_logged_in", lambda: True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six photographs' stand-ins in two folders."""
    return make_corpus(tmp_path / "in")


@pytest.fixture
def compress(tmp_path: Path) -> Callable[..., int]:
    """Runs `adacompress compress` in this process, on one worker; at quality 35, where no other choice is asked for."""

    def run(source: object, output: Path = tmp_path / "out", *options: str) -> int:
        chosen = any(option.startswith(("--quality", "--policy")) for option in options)
        fixed = [] if chosen else ["--quality=35"]
        return cli.main(["compress", "--input", str(source), "--output", str(output), *IN_PROCESS, *fixed, *options])

    return run


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus `in` and a compress run of it at quality 35, `out`; not to be changed."""
    folder = tmp_path_factory.mktemp("compressed")
    make_corpus(folder / "in")
    assert (
        cli.main(["compress", f"--input={folder / 'in'}", f"--output={folder / 'out'}", "--quality=35", *IN_PROCESS])
        == 0
    )
    return folder


@pytest.fixture
def run(compressed: Path, tmp_path: Path) -> Path:
    """A copy of the compress run; its originals are not copied."""
    return shutil.copytree(compressed / "out", tmp_path / "out")


@pytest.fixture
def vision(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A paid service on this machine: a scoring.Vision, with its `uri` and its `server`."""
    from loopback import serving
    from scoring import Vision

    monkeypatch.setenv("FACEPP_API_KEY", "the-key")
    monkeypatch.setenv("FACEPP_API_SECRET", "the-secret")
    vision = Vision()
    with serving(vision.answer) as server:
        vision.server, vision.uri = server, f"facepp?endpoint={server.url}&price=0.5"
        yield vision
