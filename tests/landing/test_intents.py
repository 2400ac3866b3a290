"""The metadata of a commit: what goes in comes out, within the size that Kafka takes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.landing.intents import (
    METADATA_BYTES,
    SKEW_MS,
    STALE_MS,
    Intent,
    IntentTooLarge,
    Progress,
    count,
    positions,
    to_runs,
    token,
)

NUMBERS = st.integers(0, 2**53)
RUNS = st.sets(st.integers(0, 500), max_size=40).map(to_runs)
INTENTS = st.builds(
    Intent,
    end=NUMBERS,
    timestamp=NUMBERS,
    at=NUMBERS,
    refused=RUNS,
    refused_changes=RUNS,
    present=RUNS,
    present_changes=RUNS,
    gap=st.booleans(),
)
PROGRESS = st.builds(
    Progress,
    watermark=st.none() | NUMBERS,
    jump=st.booleans(),
    lookup_below=NUMBERS,
    resumed=st.booleans(),
    intent=st.none() | INTENTS,
)


@given(PROGRESS)
def test_metadata_round_trip(progress: Progress) -> None:
    assert Progress.loads(progress.dumps()) == progress


@given(st.sets(st.integers(0, 1000)))
def test_runs_hold_exactly_the_positions(wanted: set[int]) -> None:
    runs = to_runs(wanted)
    assert list(positions(runs)) == sorted(wanted)
    assert count(runs) == len(wanted)
    assert all(a + n < b for (a, n), (b, _) in pairwise(runs))


@given(st.text())
def test_foreign_metadata_is_a_value_error(text: str) -> None:
    try:
        Progress.loads(text)
    except ValueError:
        return
    assert '"w"' in text


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "1", "null", '{"w":1,"e":2}', '{"w":1,"e":2,"t":0,"at":0,"x":[[3,0]]}']
)
def test_incomplete_metadata_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Progress.loads(text)


def test_usual_metadata_is_small() -> None:
    progress = Progress(
        watermark=10**9, intent=Intent(end=10**9 + 50_000, timestamp=1_700_000_000_000, at=1_700_000_000_000)
    )
    assert len(progress.dumps()) <= 80


def test_too_many_exclusions_are_refused_not_cut() -> None:
    runs = to_runs(range(0, 2_000, 2))
    with pytest.raises(IntentTooLarge, match=str(METADATA_BYTES)):
        Progress(0, intent=Intent(1, 0, 0, refused=runs)).dumps()


def test_an_intent_is_stale_by_age_and_by_a_clock_that_cannot_tell() -> None:
    intent = Intent(end=1, timestamp=0, at=10**12)
    assert not intent.stale(10**12)
    assert not intent.stale(10**12 + STALE_MS)
    assert intent.stale(10**12 + STALE_MS + 1)
    assert not intent.stale(10**12 - SKEW_MS)
    assert intent.stale(10**12 - SKEW_MS - 1)


def test_tokens_differ_by_all_that_makes_an_insert_another_one() -> None:
    usual = Intent(end=9, timestamp=5, at=0)
    tokens = {
        token("t", 0, 1, usual, "events"),
        token("t", 0, 1, usual, "landed"),
        token("t", 1, 1, usual, "events"),
        token("t", 0, 2, usual, "events"),
        token("t", 0, 1, Intent(end=8, timestamp=5, at=0), "events"),
        token("t", 0, 1, Intent(end=9, timestamp=6, at=0), "events"),
        token("t", 0, 1, usual, "events", rest=True),
    }
    assert len(tokens) == 7
    assert token("t", 0, 1, Intent(end=9, timestamp=5, at=7, refused=((1, 1),)), "events") in tokens


def test_after_a_range_flags_last_only_as_long_as_they_mean_something() -> None:
    progress = Progress(5, jump=True, lookup_below=20, resumed=True, intent=Intent(10, 0, 0))
    assert progress.after(10, 5) == Progress(5, jump=True, lookup_below=20)
    assert progress.after(20, 6) == Progress(6)
    assert Progress(5, intent=Intent(10, 0, 0, gap=True)).after(10, 5) == Progress(5, jump=True)
