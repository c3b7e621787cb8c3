"""A prediction for people: a table of what is predicted with its intervals, and the arithmetic of hours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from beam_adacompress import report
from beam_adacompress.estimates import Interval
from beam_adacompress.prediction import BUSY, STARTUP, VERIFY, Calls, Prediction
from beam_adacompress.records import COMPRESSED, FAILED, KEPT


def said(found: Prediction) -> Iterator[str]:
    """A prediction in lines for people."""
    of = f"all {found.sample:,}" if found.exact else f"{found.sample:,} of {_whole(found.images)}"
    yield f"dry run: {of} images tried (seed {found.seed}); nothing was written"
    yield f"{'':<18} {'predicted':>12}   {'95 % interval'}"
    yield _row("images", found.images, _number)
    for status in (COMPRESSED, KEPT, FAILED):
        why = ", ".join(f"{reason} {count}" for reason, count in found.reasons.get(status, {}).items())
        yield _row(f"  {status}", getattr(found, status), _number, f"in the sample: {why}" if why else "")
    yield _row("bytes before", found.bytes_in, report.megabytes)
    yield _row("bytes after", found.bytes_out, report.megabytes)
    yield _row("bytes saved", found.saved, report.megabytes)
    if found.size_ratio is not None:
        yield _row("size ratio", found.size_ratio, _decimals)
    yield from _said_of_agreement(found)
    for calls in found.calls:
        yield _row(f"calls to {calls.what}", calls.calls, _number, _said_of_price(calls))
    if any(calls.price for calls in found.calls):
        yield "at most so many calls, retries not counted: the cache may have answers; no paid call was made"
    if any(calls.what == VERIFY and not calls.measured for calls in found.calls):
        yield "bytes and time are those of the proposals, which a paid backend would verify: the results may differ"
    yield from _said_of_time(found)


def _said_of_agreement(found: Prediction) -> Iterator[str]:
    if found.agreement is not None:
        yield _row("agreement", found.agreement, _decimals, f"measured on {found.agreed_on:,} images of the sample")
    if (promised := found.promised) is not None:
        yield (
            f"agreement promised: at least {promised.agreement:g} with a confidence of {promised.confidence:g}, by "
            f"{promised.images:,} calibration images of the policy {promised.policy}"
        )
    elif any(calls.what == VERIFY for calls in found.calls):
        yield "agreement: each result will have been verified before it is written"
    elif found.agreement is None:
        yield "agreement: not known; a policy promises one, and --score-with a local network measures it"


def _said_of_price(calls: Calls) -> str:
    if not calls.price:
        return f"of {calls.backend}, for nothing"
    cost = calls.cost
    return (
        f"of {calls.backend} at {calls.price:g} USD: {report.dollars(cost.mean)} ({report.dollars(cost.low)} to "
        f"{report.dollars(cost.high)})"
    )


def _said_of_time(found: Prediction) -> Iterator[str]:
    machines = found.machines
    if found.cpu is None or found.cpu_per_image is None or found.seconds_here is None:
        yield "CPU time: not known; a larger --sample measures it"
        return
    yield _row("CPU an image", found.cpu_per_image, _milliseconds)
    yield _row("CPU", found.cpu, _duration, "writing not counted")
    if machines.dataflow:
        yield from _said_of_dataflow(found)
    else:
        workers = f"with {machines.here} workers here" if machines.here > 1 else "with one worker here"
        yield _row("time", found.seconds_here, _duration, f"{workers}, start-up not counted")


def _said_of_dataflow(found: Prediction) -> Iterator[str]:
    """The arithmetic, line by line."""
    machines, hours = found.machines, found.dataflow
    assert found.cpu is not None, found
    assert hours is not None, found
    yield "on Dataflow, if a vCPU there is as fast as a core here:"
    yield (
        f"  {found.cpu.mean:,.1f} CPU s / 3,600 / {BUSY:g} busy = {_hours(hours.vcpu_hours)} vCPU hours"
        f" ({_hours(hours.vcpu_hours, True)})"
    )
    if hours.worker_hours is None or hours.hours is None:
        yield f"  how many vCPUs {machines.machine_type} has is not known, so worker hours are not, either"
        return
    count = "one worker" if machines.workers == 1 else f"{machines.workers} workers"
    yield (
        f"  {_hours(hours.vcpu_hours)} / {machines.vcpus} vCPUs of {machines.machine_type} + {count} "
        f"x {STARTUP:g} s start-up / 3,600 "
        f"= {_hours(hours.worker_hours)} worker hours ({_hours(hours.worker_hours, True)})"
    )
    yield f"  {_hours(hours.worker_hours)} / {count} = {_hours(hours.hours)} hours"
    if hours.cost is None:
        yield "  price: give --worker-price USD, that of one worker and hour with its memory and disk"
    else:
        yield (
            f"  {_hours(hours.worker_hours)} x {machines.price:g} USD = {report.dollars(hours.cost.mean)} "
            f"({report.dollars(hours.cost.low)} to {report.dollars(hours.cost.high)})"
        )


def _row(name: str, value: Interval, shown: Callable[[float], str], note: str = "") -> str:
    high = "unknown" if math.isinf(value.high) else shown(value.high)
    interval = "exact" if value.low == value.high and shown not in _MEASURED else f"{shown(value.low)} to {high}"
    return f"{name:<18} {shown(value.mean):>12}   {interval:<23} {note}".rstrip()


def _whole(images: Interval) -> str:
    return f"{images.mean:,.0f}" if images.low == images.high else f"about {images.mean:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _decimals(value: float) -> str:
    return f"{value:.3f}"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.1f} ms"


def _duration(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


_MEASURED = (_milliseconds, _duration)


def _hours(value: Interval, ends: bool = False) -> str:
    return f"{value.low:,.3f} to {value.high:,.3f}" if ends else f"{value.mean:,.3f}"
