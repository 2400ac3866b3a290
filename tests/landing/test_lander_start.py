"""Where a partition goes on, or why not: every way in which Kafka and ClickHouse can disagree."""

from __future__ import annotations

import pytest

from mailecho.pipeline.landing.intents import Intent, Progress
from mailecho.pipeline.landing.resume import place
from mailecho.pipeline.landing.start import Facts, Landed, Refused, Start, decide

STANDS = Progress(19)
LAST = Landed(10, 20, 19, 66)
OPEN = Intent(end=30, timestamp=77, at=5)


def facts(
    committed: int | None = 20,
    progress: Progress | str = STANDS,
    landed: Landed | None = LAST,
    first: int = 0,
    end: int = 100,
) -> Facts:
    metadata = progress if isinstance(progress, str) else progress.dumps()
    return Facts("t", 0, first, end, committed, metadata, landed)


def start(known: Facts, accept_gap: bool = False) -> Start:
    return decide(known, accept_gap=accept_gap, now=1_000)


def test_the_first_start_begins_at_the_beginning() -> None:
    assert start(facts(None, "", None)) == Start(0, Progress())


def test_goes_on_where_both_agree() -> None:
    assert start(facts()) == Start(20, Progress(19))


def test_goes_on_with_an_open_intent() -> None:
    progress = Progress(19, intent=OPEN)
    assert start(facts(progress=progress)) == Start(20, progress)


def test_goes_on_with_the_very_first_intent() -> None:
    progress = Progress(None, intent=OPEN)
    assert start(facts(0, progress, None)) == Start(0, progress)


def test_an_intent_that_landed_needs_only_its_commit() -> None:
    landed = Landed(20, 30, 29, 77)
    progress = Progress(19, intent=OPEN)
    assert start(facts(progress=progress, landed=landed)) == Start(20, progress, landed)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (facts(None, ""), "offsets were deleted or expired"),
        (facts(progress=""), "carries no metadata"),
        (facts(progress="set by hand"), "carries no metadata"),
        (facts(end=19), "the topic was recreated"),
        (facts(progress=Progress(19, intent=OPEN), end=29), "lost its tail"),
        (facts(landed=None), "knows nothing of this partition"),
        (facts(landed=Landed(0, 10, 9, 1)), "ClickHouse was restored"),
        (facts(landed=Landed(20, 40, 39, 1)), "set back or forward"),
        (facts(landed=Landed(10, 20, 18, 66)), "watermark 18"),
        # a row of the same offsets from before the topic was recreated is another range
        (facts(progress=Progress(19, intent=OPEN), landed=Landed(20, 30, 29, 1)), "ClickHouse was restored"),
        (facts(None, "", None, first=7), "7 records expired unread"),
        (facts(first=27), "7 records expired unread"),
        (facts(progress=Progress(19, intent=OPEN), first=25), "5 records expired unread"),
    ],
)
def test_refuses_and_says_the_way_on(known: Facts, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        start(known)
    assert "lander --resume" in str(refused.value) or "ACCEPT_GAP" in str(refused.value)


def test_an_accepted_gap_is_an_intent_of_its_own() -> None:
    begun = start(facts(first=27), accept_gap=True)
    gap = Intent(end=27, timestamp=0, at=1_000, gap=True)
    assert begun == Start(20, Progress(19, intent=gap))
    # found again after a crash, before and after its row of `landed`
    assert start(facts(progress=begun.progress, first=27)) == begun
    row = Landed(20, 27, 19, 0)
    assert start(facts(progress=begun.progress, first=27, landed=row)) == Start(20, begun.progress, row)


def test_an_expired_intent_is_looked_up_above_the_gap() -> None:
    begun = start(facts(progress=Progress(19, intent=OPEN), first=25), accept_gap=True)
    assert begun.progress.lookup_below == OPEN.end
    assert begun.progress.intent is not None
    assert begun.progress.intent.end == 25


def test_an_accepted_gap_at_the_first_start() -> None:
    assert start(facts(None, "", None, first=7), accept_gap=True) == Start(7, Progress())


@pytest.mark.parametrize("landed", [None, Landed(10, 20, 19, 66), Landed(500, 600, 599, 66)])
def test_where_resume_sets_it_the_lander_goes_on(landed: Landed | None) -> None:
    offset, progress = place(5, 100, landed)
    assert start(facts(offset, progress, landed, first=5)) == Start(offset, progress)
    assert progress.lookup_below == 100
    assert offset == (20 if landed and landed.end == 20 else 5)
