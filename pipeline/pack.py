"""Micro-batches: lines of `classified`, joined into record values by partition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailecho.schemas.topics import BATCH_BYTES


def pack(lines: Iterable[bytes], limit: int = BATCH_BYTES) -> Iterator[bytes]:
    """Record values of at most `limit` bytes, in order; a longer line is a value of its own."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) + 1 > limit:
            yield b"\n".join(batch)
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    if batch:
        yield b"\n".join(batch)
