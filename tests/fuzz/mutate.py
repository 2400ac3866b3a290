"""A mutation fuzzer: the samples of this repository, damaged, nested, repeated, re-encoded, and read.

    python -m tests.fuzz.mutate --count 100000 --seed 1 [--keep DIR]

What must hold for any input: nothing but Unreadable is raised, at least one finding comes back, it can be
written as JSON, and reading takes at most 50 ms for each 100 kB. A message that breaks this is kept in DIR under
the number that makes it again with `--only N`. The exit code is 1 where there was one.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from mailecho.pipeline.classify import Unreadable, classify_message
from mailecho.pipeline.classify.files import jsonl_lines

SAMPLES = sorted((Path(__file__).parent.parent / "samples" / "reports").glob("*.eml"))

#: Seconds for each 100 kB, and for a message of any size: the clock of a shared machine is no finer.
PER_100_KB = 0.05
FLOOR = 0.05
#: A slow reading counts where it is slow this often in a row: other processes take the processor away.
TRIES = 4
#: Kilobytes by which the process may grow after it is warm.
GROWTH = 200 * 1024

_TOKENS = (
    b"\n\n", b"\r\n", b"\r", b"\0", b"\xff\xfe", b"--", b"=?utf-8?q?=FF?=", b"=?", b"?=", b"@", b"<", b">", b"<>", b";",
    b"Content-Type: multipart/report; boundary=b\n", b"Content-Type: message/rfc822\n\n", b"Content-Type: text/html\n",
    b"Content-Transfer-Encoding: base64\n", b"Content-Transfer-Encoding: quoted-printable\n", b"charset=iso-2022-jp",
    b"charset=utf-7", b"charset=utf-16", b"charset=hz", b"charset=idna", b"charset=punycode", b"charset=unicode_escape",
    b"Final-Recipient: rfc822; a@example.com\n", b"Status: 5.1.1\n", b"Action: failed\n", b"\x1b$B", b"<script>",
    b"Diagnostic-Code: smtp; 550-5.1.1 x\n 550 5.1.1 y\n", b"Feedback-Type: abuse\n", b"&#x110000;", b"<br>", b"(((",
    b"mailer-daemon@example.com", "İı".encode(), "\u2028\u0130".encode(), b"\xed\xa0\x80", b"9" * 400,
)  # fmt: skip


_MIXED = b'multipart/mixed; boundary="n%d"\n\n--n%d\nContent-Type: message/rfc822\n\n'


def _flip(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    for _ in range(rng.randint(1, 30)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _cut(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return bytes(data[:start] if rng.random() < 0.5 else data[:start] + data[rng.randrange(start, len(data) + 1) :])


def _double(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = rng.randrange(start, min(len(data), start + 2000) + 1)
    return bytes(data[:end] + data[start:end] * rng.randint(1, 4) + data[end:])


def _insert(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        data[at:at] = rng.choice(_TOKENS)
    return bytes(data)


def _splice(data: bytearray, rng: random.Random, other: bytes) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)]) + other[rng.randrange(len(other) + 1) :]


def _nest(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    raw = bytes(data)
    for depth in range(rng.randint(1, 8)):
        head = b"From: a@example.com\nSubject: fwd\nContent-Type: "
        raw = head + b"message/rfc822\n\n" + raw if rng.random() < 0.5 else head + _MIXED % (depth, depth) + raw
    return raw


def _fold(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    if rng.random() < 0.5:
        return bytes(data).replace(b"\n ", b" ").replace(b"\n\t", b" ")
    return bytes(data).replace(b" ", b"\n ", rng.randint(1, 200))


def _ends(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    return bytes(data).replace(b"\n", rng.choice((b"\r\n", b"\r", b"\r\r\n", b"\n\n", b"\n\r", b"")))


def _repeat(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    unit = rng.choice(_TOKENS) if rng.random() < 0.5 else bytes(data[: rng.randint(1, 60)]) or b"x"
    at = rng.randrange(len(data) + 1)
    return bytes(data[:at]) + unit * (rng.randint(1, 100_000) // len(unit) + 1) + bytes(data[at:])


def _charset(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    name = rng.choice(("utf-16", "iso-2022-jp", "utf-7", "latin-1", "koi8-r", "gb18030", "shift_jis"))
    return bytes(data).decode("utf-8", "replace").encode(name, "replace")


def _lines(data: bytearray, rng: random.Random, _other: bytes) -> bytes:
    lines = bytes(data).split(b"\n")
    for _ in range(rng.randint(1, 10)):
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


_MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], bytes], ...] = (
    _flip, _cut, _double, _insert, _splice, _nest, _fold, _ends, _charset, _lines, _insert, _lines, _flip,
)  # fmt: skip
#: A giant repetition costs a thousand others: one in so many messages has one.
_GIANT = 400


def mutants(count: int, seed: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(number, message) for so many messages; a number and a seed give the same message on every machine."""
    samples = [file.read_bytes() for file in SAMPLES]
    for number in range(start, start + count):
        rng = random.Random(f"{seed}:{number}")
        raw = rng.choice(samples)
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            raw = rng.choice(_MUTATIONS)(bytearray(raw), rng, rng.choice(samples))[:400_000]
        if rng.randrange(_GIANT) == 0:
            raw = _repeat(bytearray(raw), rng, b"")
        yield number, raw


def seconds(raw: bytes) -> float:
    """The processor time that reading takes. Raises what the classifier raises, Unreadable apart."""
    start = time.process_time()
    try:
        findings = classify_message(raw)
    except Unreadable:
        return time.process_time() - start
    took = time.process_time() - start
    if not findings:
        raise AssertionError("no finding")
    orjson.dumps(jsonl_lines("x", findings))
    return took


def allowed(raw: bytes) -> float:
    """The seconds that reading may take."""
    return max(FLOOR, PER_100_KB * len(raw) / 100_000)


def fault_of(raw: bytes) -> str:
    """What is wrong with how a message is read; "" where nothing is."""
    try:
        took = seconds(raw)
        if took > allowed(raw):
            took = min(seconds(raw) for _ in range(TRIES))
            if took > allowed(raw):
                return f"{took * 1000:.0f} ms for {len(raw)} bytes"
    except Exception:  # any exception is what is looked for
        return traceback.format_exc()
    return ""


def main() -> int:
    """The command line: see the module. Prints one line for each fault and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first message")
    parser.add_argument("--only", type=int, help="make and read one message, by its number")
    parser.add_argument("--keep", type=Path, help="directory for messages that break a rule")
    args = parser.parse_args()
    if args.only is not None:
        args.start, args.count = args.only, 1
    faults = done = 0
    base = 0
    begin = time.monotonic()
    for number, raw in mutants(args.count, args.seed, args.start):
        done += 1
        fault = fault_of(raw)
        if fault:
            faults += 1
            print(f"message {number}: {fault}", flush=True)  # noqa: T201
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{args.seed}-{number}.eml").write_bytes(raw)
        if done % 50_000 == 0:
            print(f"{done} messages, {faults} faults", flush=True)  # noqa: T201
        if done == 2000:
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base if base else 0
    if grown > GROWTH:
        faults += 1
        print(f"the process grew by {grown} kB")  # noqa: T201
    print(f"{done} messages, {faults} faults, grew {grown} kB, {time.monotonic() - begin:.0f} s", flush=True)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
