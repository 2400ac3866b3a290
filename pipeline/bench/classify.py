"""The full classification of messages, one process, beside flufl.bounce's scan and flanker's parse."""

from __future__ import annotations

import email
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from types import FrameType
from typing import Any

from mailecho.pipeline import demo_mail
from mailecho.pipeline.bench.harness import Progress, Result, percentile, silent, take_turns
from mailecho.pipeline.classify import Unreadable, classify_message
from mailecho.pipeline.classify.files import iter_messages

Messages = list[tuple[str, bytes]]

#: A peer that takes longer for one message is taken to hang, and does not get that message again.
PATIENCE_SECONDS = 2.0

#: Passes in which each message is timed on its own: the least of them is its time.
TIMED_PASSES = 3

OURS, FLUFL, FLANKER = "mailecho", "flufl.bounce scan_message", "flanker mime.from_string and walk"
HOW_TO_INSTALL = "flufl.bounce is not installed (pip install flufl.bounce==6.0.0): the baseline is flanker"

_REPLIES = (
    ("5.1.1", "550 5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table"),
    ("5.2.2", "552 5.2.2 <{to}>: mailbox full, {n} bytes over quota"),
    ("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.{b}] blocked using zen.spamhaus.org"),
    ("5.7.26", "550 5.7.26 Unauthenticated email from example.com is not accepted due to domain's DMARC policy. {n}"),
    ("4.7.0", "421 4.7.0 [TSS{b}] Messages from 192.0.2.{b} temporarily deferred due to user complaints"),
    ("5.0.0", "550 Requested action not taken, reference {n}"),
)

_COLD = """
import resource, sys, time
scale = 1024 if sys.platform != "darwin" else 1024 * 1024
began = time.perf_counter()
from mailecho.pipeline.classify import Unreadable, classify_message
first = time.perf_counter() - began
from mailecho.pipeline.bench.classify import messages_of
for number, (_, raw) in enumerate(messages_of(sys.argv[1])):
    began = time.perf_counter()
    try:
        classify_message(raw)
    except Unreadable:
        pass
    if not number:
        first += time.perf_counter() - began
print(first * 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale)
"""


def run(corpus: str, runs: int = 5, progress: Progress = silent) -> Result:
    """Messages a second of classify_message over a corpus: a path as `mailecho classify` takes it, "" for made-up mail.

    Seconds are of processor time: wall time where nothing else runs, and the same beside other load. A run meets each
    message once and with empty caches, as a worker meets mail; `warm` is with caches that know all of it. `first_ms`
    is wall time, imports included; the patterns are compiled once for a machine, and `first_without_cache_ms` has that
    in it. Raises ValueError for a corpus without messages.
    """
    messages = messages_of(corpus)
    if not messages:
        raise ValueError(f"--corpus {corpus}: no messages in it")
    progress("a fresh process")
    first_ms, peak_rss_mb = _fresh(corpus, {})
    progress("a fresh process without compiled patterns")
    with tempfile.TemporaryDirectory(prefix="mailecho-bench-") as empty:
        first_without_cache_ms, _ = _fresh(corpus, {"XDG_CACHE_HOME": empty})
    peers = dict(readers())
    usable = {}
    for name, peer in peers.items():
        progress(f"what {name} can read")
        usable[name] = [raw for _, raw in messages if _survives(peer, raw)]
    raws = [raw for _, raw in messages]
    measures: dict[str, Callable[[], float]] = {OURS: lambda: _speed(_classify, raws, cold=True)}
    for name, peer in peers.items():
        measures[name] = lambda peer=peer, name=name: _speed(peer, usable[name])  # type: ignore[misc]
    _speed(_classify, raws)
    found = take_turns(runs, measures, progress)
    progress("each message")
    times = _times(messages)
    slowest, seconds = max(times, key=lambda timed: timed[1])
    micros = sorted(each * 1e6 for _, each in times)
    baseline = FLUFL if FLUFL in peers else FLANKER
    more: dict[str, Any] = {
        "messages": len(messages),
        "mean_bytes": round(sum(map(len, raws)) / len(raws)),
        "warm": round(_speed(_classify, raws), 1),
        "p50_us": round(percentile(micros, 0.5), 1),
        "p99_us": round(percentile(micros, 0.99), 1),
        "slowest": {"name": Path(slowest).name, "ms": round(seconds * 1e3, 3)},
        "first_ms": round(first_ms, 1),
        "first_without_cache_ms": round(first_without_cache_ms, 1),
        "peak_rss_mb": round(peak_rss_mb, 1),
        "peers": {
            name: {
                "runs": [round(speed, 1) for speed in found[name]],
                "median": round(median(found[name]), 1),
                "failed": len(messages) - len(usable[name]),
            }
            for name in peers
        },
    }
    if baseline == FLANKER:
        more["note"] = HOW_TO_INSTALL
    return Result("classify", "messages/s", found[OURS], baseline, found[baseline], more)


def messages_of(corpus: str) -> Messages:
    """The messages of a corpus in memory, made up where it is ""."""
    return list(iter_messages([corpus])) if corpus else list(islice(made_up(), 500))


def made_up(seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Reports as the demo's receivers send them, without end, the same for the same seed."""
    rng = Random(seed)
    number = 0
    while True:
        number += 1
        status, reply = rng.choice(_REPLIES)
        sent = demo_mail.Sent(
            recipient=f"user{rng.randrange(10**6)}@example.{rng.choice(('com', 'net', 'org'))}",
            message_id=f"m{number}.{rng.randrange(10**9)}@example.com",
            sender=f"bounce-{number}@example.com",
            subject=f"Offer of the week {number}",
            ip=f"192.0.2.{rng.randrange(1, 255)}",
            campaign="weekly",
            remote_host=f"mx{rng.randrange(9)}.example.org",
            at=1_790_000_000 + number,
        )
        diagnostic = reply.format(to=sent.recipient, n=rng.randrange(10**9), b=rng.randrange(1, 255))
        share = rng.random()
        if share < 0.8:
            bounce = rng.choice(demo_mail.BOUNCES)
            yield f"{number} {bounce.__name__}", bounce(sent, status, diagnostic)
        else:
            others = (demo_mail.delay_notice, demo_mail.complaint, demo_mail.auto_reply, demo_mail.human_reply)
            other = rng.choice(others)
            yield f"{number} {other.__name__}", other(sent)


# --- ours -----------------------------------------------------------------------------------------------------


def _classify(raw: bytes) -> None:
    with suppress(Unreadable):
        classify_message(raw)


def _forget() -> None:
    """Empty the caches of what was seen; those of one entry hold rules, which a worker has too."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("mailecho.pipeline.classify", "mailecho.pipeline.message")):
            for value in vars(module).values():
                if hasattr(value, "cache_clear") and value.cache_info().maxsize != 1:
                    value.cache_clear()


#: The CPU clock of some kernels ticks in hundredths of a second: less than this is no measurement.
_CLOCK_SECONDS = 0.1


def _speed(read: Callable[[bytes], object], raws: list[bytes], *, cold: bool = False) -> float:
    began = time.process_time()
    passes, spent = 0, 0.0
    while spent < _CLOCK_SECONDS:
        if cold:
            _forget()
        for raw in raws:
            read(raw)
        passes += 1
        spent = time.process_time() - began
    return passes * len(raws) / spent


def _times(messages: Messages) -> list[tuple[str, float]]:
    least = [float("inf")] * len(messages)
    for _ in range(TIMED_PASSES):
        _forget()
        for at, (_, raw) in enumerate(messages):
            began = time.process_time()
            _classify(raw)
            least[at] = min(least[at], time.process_time() - began)
    return [(name, seconds) for (name, _), seconds in zip(messages, least, strict=True)]


def _fresh(corpus: str, environment: dict[str, str]) -> tuple[float, float]:
    """(milliseconds to import the classifier and classify a first message, MB of a process that classifies all)."""
    command = [sys.executable, "-c", _COLD, corpus]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    first, peak = ran.stdout.split()
    return float(first), float(peak)


# --- the others -----------------------------------------------------------------------------------------------


def readers() -> Iterator[tuple[str, Callable[[bytes], object]]]:
    """What others read a message with, by name: flanker's parse, and flufl.bounce where it is installed."""
    from mailecho.pipeline.message.fallback import flanker_mime

    mime = flanker_mime()

    def parse(raw: bytes) -> None:
        for part in mime.from_string(raw).walk(with_self=True):
            part.content_type  # noqa: B018, what a walk is for

    yield FLANKER, parse
    try:
        scan_message = import_module("flufl.bounce").scan_message
    except ImportError:
        return
    logging.getLogger("flufl.bounce").addHandler(logging.NullHandler())
    yield FLUFL, lambda raw: scan_message(email.message_from_bytes(raw))


class _Hangs(Exception):
    pass


@contextmanager
def _patience() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Hangs

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _survives(peer: Callable[[bytes], object], raw: bytes) -> bool:
    """Whether a peer reads a message without an error and in time."""
    try:
        with _patience():
            peer(raw)
    except Exception:  # whatever a peer raises: its speed is taken over what it reads
        return False
    return True
