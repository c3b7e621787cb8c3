"""Scoring beside what is possible: a limited service beside its limit, and a network in the worker beside a bare loop.

    python benchmarks/score.py service --images ../shared/data/images
    python benchmarks/score.py network --images ../shared/data/images --model MODEL.tflite --pairs 5

`service` scores 1,000 images with a service on this machine that takes 100 ms for each call and refuses whatever
comes above 50 calls in any second; then again with 5 % of the calls failing. The ideal time is calls / 50 s, of those
that were not refused. `network` takes turns with a bare loop over the same files: read, decode, resize, invoke, for
original and result; ratios are above 1 where ours is faster. Start-up is what a run over a single image takes.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from throughput import CORES, files_below, link, spread

QUALITY = 35
LATENCY = 0.1  # seconds
CALLS_PER_SECOND = 50
SECRETS = {"FACEPP_API_KEY": "key", "FACEPP_API_SECRET": "secret"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["service", "network", "serve", "bare"])
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=1000, help="images to score")
    parser.add_argument("--model", type=Path, help="a LiteRT classifier")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--failing", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "serve":
        serve(options.failing)
    elif options.what == "bare":
        bare_loop(options.images, options.run, options.model)
    else:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            photographs = files_below(options.images)
            link(photographs[: options.count], scratch / "in")
            link(photographs[:1], scratch / "in1")
            for suffix in ("", "1"):
                adacompress("compress", scratch / f"in{suffix}", scratch / f"run{suffix}", f"--quality={QUALITY}")
            if options.what == "service":
                service(scratch, 0.0)
                service(scratch, 0.05)
            else:
                network(scratch, options.model, options.pairs)


def adacompress(command: str, source: Path, output: Path, *arguments: str) -> float:
    """Wall time of a command in seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "beam_adacompress", command, f"--input={source}", f"--output={output}", *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, **SECRETS},
    )
    return time.perf_counter() - start


def service(scratch: Path, failing: float) -> None:
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", "--failing", str(failing)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    backend = [f"--backend=facepp?endpoint={url}", "--sample-rate=1", f"--calls-per-second={CALLS_PER_SECOND}"]
    try:
        name = f"{failing:g}"
        alone = adacompress(
            "score", scratch / "run1", scratch / f"one{name}", *backend, f"--cache={scratch}/cache-one{name}"
        )
        before = stats(url)
        wall = adacompress(
            "score", scratch / "run", scratch / f"all{name}", *backend, f"--cache={scratch}/cache-all{name}"
        )
        after = stats(url)
    finally:
        server.kill()
    calls = after["calls"] - before["calls"]
    refused = after["refused"] - before["refused"]
    ideal = (calls - refused) / CALLS_PER_SECOND
    startup = alone - 2 * LATENCY
    summary = json.loads((scratch / f"all{name}" / "summary.json").read_text())
    images = summary["images"]
    print(
        f"{failing:.0%} failing: {images['sampled']} images sampled, {images['scored']} scored, {images['failed']} "
        f"lost; {calls} calls, {after['failed'] - before['failed']} of them failed, {refused} refused above the limit, "
        f"at most {after['most']} in any second"
    )
    print(
        f"  start-up {startup:.2f} s; scoring {wall - startup:.2f} s, ideal {ideal:.2f} s: "
        f"{(wall - startup) / ideal:.3f} of the ideal time ({wall / ideal:.3f} with start-up)"
    )


def stats(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url + "/stats") as answer:
        return dict(json.load(answer))


def serve(failing: float) -> None:
    """Face++ as far as scoring needs it, with a strict limit: no more than so many calls in any second."""
    counts = {"calls": 0, "refused": 0, "failed": 0, "most": 0}
    recent: collections.deque[float] = collections.deque()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.answer(200, counts)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                now = time.monotonic()
                while recent and recent[0] <= now - 1:
                    recent.popleft()
                recent.append(now)
                counts["calls"] += 1
                counts["most"] = max(counts["most"], len(recent))
                refused = len(recent) > CALLS_PER_SECOND
                counts["refused"] += refused
                # By content and moment, so that a call that is repeated is another draw.
                draw = int.from_bytes(hashlib.blake2b(body + str(now).encode()).digest()[:4], "big") / 2**32
                fails = not refused and draw < failing
                counts["failed"] += fails
            if refused:
                self.answer(403, {"error_message": "CONCURRENCY_LIMIT_EXCEEDED"})
                return
            time.sleep(LATENCY)
            if fails:
                self.answer(500, {"error_message": "INTERNAL_ERROR"})
            else:
                self.answer(200, {"objects": [{"value": "thing", "confidence": 80.0}], "scenes": []})

        def answer(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def network(scratch: Path, model: Path, pairs: int) -> None:
    images = len(files_below(scratch / "run" / "images"))
    print(f"{images} images and their results, {model.name}, {CORES} cores; {pairs} pairs")
    backend = [f"--backend=litert:{model}", "--sample-rate=1"]
    excluded, included = [], []
    for pair in range(pairs):
        start = time.perf_counter()
        loop = subprocess.run(
            [sys.executable, __file__, "bare", f"--images={scratch}/in", f"--run={scratch}/run", f"--model={model}"],
            check=True,
            capture_output=True,
            text=True,
        )
        bare_total, bare_inner = time.perf_counter() - start, float(loop.stdout)
        cache = f"--cache={scratch}/cache{pair}"
        startup = adacompress("score", scratch / "run1", scratch / f"one{pair}", *backend, cache)
        total = adacompress("score", scratch / "run", scratch / f"all{pair}", *backend, cache)
        included.append(bare_total / total)
        excluded.append(bare_inner / (total - startup))
        print(
            f"pair {pair + 1}: bare {images / bare_inner:.1f} images/s, ours {images / (total - startup):.1f}, "
            f"start-up {startup:.2f} s; ratio {excluded[-1]:.3f} without start-ups, {included[-1]:.3f} with them"
        )
    print(f"ratio without start-ups: {spread(excluded)}")
    print(f"ratio with start-ups:    {spread(included)}")
    print(
        f"sizes: {statistics.mean(path.stat().st_size for path in files_below(scratch / 'in')) / 1000:.0f} kB originals"
    )


def bare_loop(originals: Path, run: Path, model: Path) -> None:
    names = [str(path.relative_to(originals)) for path in files_below(originals)]
    with multiprocessing.Pool(CORES, initializer=Bare.load, initargs=(str(model),)) as pool:
        pool.map(time.sleep, [0.5] * CORES)  # all processes are up
        start = time.perf_counter()
        for _ in pool.imap_unordered(Bare(str(originals), str(run / "images")), names, chunksize=8):
            pass
        print(time.perf_counter() - start)


class Bare:
    """Read, decode, resize, crop, invoke, best five: nothing else."""

    def __init__(self, *folders: str) -> None:
        self.folders = folders

    @staticmethod
    def load(model: str) -> None:
        global interpreter, size, feed, scores
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=model, num_threads=1)
        interpreter.allocate_tensors()
        size = int(interpreter.get_input_details()[0]["shape"][1])
        feed = interpreter.get_input_details()[0]["index"]
        scores = interpreter.get_output_details()[0]["index"]

    def __call__(self, name: str) -> list[int]:
        best = []
        for folder in self.folders:
            image = Image.open(os.path.join(folder, name)).convert("RGB")
            side = 0.875 * min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            pixels = image.resize(
                (size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side), reducing_gap=2.0
            )
            interpreter.set_tensor(feed, np.asarray(pixels)[None])
            interpreter.invoke()
            best += np.argsort(-interpreter.get_tensor(scores)[0].astype(int), kind="stable")[:5].tolist()
        return best


if __name__ == "__main__":
    main()
