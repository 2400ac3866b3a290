"""Where a partition goes on, or why it must not. Pure: the facts come in, a decision or Refused comes out.

Three things tell how far a partition has landed: the group's committed offset, its metadata, and the
last row of `landed`. They can only disagree when somebody reset offsets, they expired, the topic was
recreated, or ClickHouse was restored or lost its tail. Going on then would lose or double events.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailecho.pipeline.landing.intents import Intent, Progress

RESUME = (
    "To go on from what ClickHouse says: stop all landers, run `mailecho lander --resume`, start "
    "them. It sets the group to where `landed` ends and looks up what is above, so that nothing is counted twice"
)


class Refused(RuntimeError):
    """The lander must not go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Landed:
    """The last row of `landed` for a partition: the range it tells of, and the watermark after it.

    `timestamp` is that of the range's first record (epoch ms), which a recreated topic does not repeat.
    """

    start: int
    end: int
    watermark: int | None
    timestamp: int

    def of(self, offset: int, intent: Intent) -> bool:
        """Whether this is the row of the intent at `offset`: then all of it has landed."""
        return (self.start, self.end, self.timestamp) == (offset, intent.end, intent.timestamp)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a partition at its assignment: offsets as Kafka says, `landed` as ClickHouse says."""

    topic: str
    partition: int
    first: int  # offset of the oldest record that is retained
    end: int  # offset that the next record will have
    committed: int | None
    metadata: str
    landed: Landed | None


@dataclass(frozen=True, slots=True)
class Start:
    """Go on at `offset` with `progress`. `landed`: its open intent has landed, only its commit is missing."""

    offset: int
    progress: Progress
    landed: Landed | None = None


def decide(facts: Facts, *, accept_gap: bool, now: int) -> Start:
    """Where to go on. `now` is epoch ms. Raises Refused."""
    where = f"{facts.topic}[{facts.partition}]"
    landed = facts.landed
    if facts.committed is None:
        if landed is not None:
            raise Refused(
                f"{where}: the group has no committed offset, but `landed` ends at {landed.end}: the group's offsets "
                f"were deleted or expired. {RESUME}"
            )
        if facts.first > 0:
            _expired(where, 0, facts.first, accept_gap)
        return Start(facts.first, Progress())
    offset = facts.committed
    try:
        progress = Progress.loads(facts.metadata)
    except ValueError:
        raise Refused(
            f"{where}: the committed offset {offset} carries no metadata of the lander: the group's offsets were set "
            f"by another tool, and whether a range above was being inserted is not known. {RESUME}"
        ) from None
    intent = progress.intent
    reached = offset if intent is None else intent.end
    if reached > facts.end:
        raise Refused(
            f"{where}: the group stands at {reached}, above the topic's end {facts.end}: the topic was recreated, or "
            f"the broker lost its tail. {RESUME}"
        )
    done = intent is not None and landed is not None and landed.of(offset, intent)
    if not done and not progress.resumed:
        _agree(where, offset, progress, landed)
    if done:
        return Start(offset, progress, landed)
    if offset < facts.first and not (intent is not None and intent.gap and intent.end == facts.first):
        _expired(where, offset, facts.first, accept_gap)
        # what an open intent may have inserted above the gap is looked up
        lookup_below = max(progress.lookup_below, intent.end if intent is not None else 0)
        gap = Intent(end=facts.first, timestamp=0, at=now, gap=True)
        return Start(offset, Progress(progress.watermark, progress.jump, lookup_below, progress.resumed, gap))
    return Start(offset, progress)


def _agree(where: str, offset: int, progress: Progress, landed: Landed | None) -> None:
    if landed is None:
        # before the first range nothing can be in `landed`, and nothing else may be missing from it
        if progress.watermark is None and progress.intent is not None:
            return
        raise Refused(
            f"{where}: the committed offset is {offset}, but `landed` knows nothing of this partition: ClickHouse was "
            f"emptied, or this is another database. {RESUME}"
        )
    if landed.end != offset or landed.watermark != progress.watermark:
        raise Refused(
            f"{where}: the committed offset is {offset} (watermark {progress.watermark}), but `landed` ends at "
            f"{landed.end} (watermark {landed.watermark}): ClickHouse was restored or lost its tail, or the group's "
            f"offsets were set back or forward. {RESUME}"
        )


def _expired(where: str, offset: int, first: int, accept_gap: bool) -> None:
    if not accept_gap:
        raise Refused(
            f"{where}: {first - offset} records expired unread: the lander stands at {offset}, the topic begins at "
            f"{first}. Their events are not in ClickHouse (`mailecho verify` and `classified` may still tell them). "
            "To go on without them: set MAILECHO_ACCEPT_GAP=true once"
        )
