"""The limits of the dead letters: a broken release stops the worker, a few bad records never do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.agents.breaker import Breaker
from mailecho.agents.exits import REFUSED
from mailecho.pipeline.config import DeadLetterSettings
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.topics import RAW_DELIVERY, dlq
from tests.agents.harness import Cluster, Worker, wait_until
from tests.agents.test_classify_worker import SOURCE, all_committed, delivery, lines

SHORT = "x.brk"


class Feed:
    """Gives a breaker the records of one partition in chunks; what it says of the first chunk that it refuses."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.offset = 0

    def __call__(self, pattern: str) -> str:
        failed = {self.offset + i: Reason.UNREADABLE for i, what in enumerate(pattern) if what == "x"}
        why = self.breaker.judge([("t", 0, (self.offset, self.offset + len(pattern) - 1), failed)])
        if not why:
            self.offset += len(pattern)
        return why


def limits(consecutive: int = 0, ratio: float = 1.0, window: int = 10) -> DeadLetterSettings:
    return DeadLetterSettings(max_consecutive=consecutive, max_ratio=ratio, window=window)


def test_a_run_is_counted_across_chunks_and_ends_with_a_good_record(tmp_path: Path) -> None:
    feed = Feed(Breaker(limits(consecutive=4), tmp_path / SHORT))
    assert not feed("..xxx")
    assert not feed(".xxx")
    said = feed("x..")
    assert "t[0]: 4 records in a row up to offset 11" in said
    assert "from offset 9 on" in said
    assert "MAILECHO_DEAD_LETTERS__MAX_CONSECUTIVE (now 4" in said
    assert Feed(Breaker(limits(consecutive=4), tmp_path / "other"))("..xxxx......"), "also in the middle of a chunk"


def test_nothing_of_a_step_is_counted_in_which_one_chunk_passes_a_limit(tmp_path: Path) -> None:
    breaker = Breaker(limits(consecutive=3), tmp_path / SHORT)
    bad: dict[int, Reason] = {0: Reason.UNREADABLE, 1: Reason.UNREADABLE}
    step = [("t", 0, (0, 1), bad), ("t", 1, (0, 2), {**bad, 2: Reason.UNREADABLE})]
    assert "t[1]: 3 records in a row" in breaker.judge(step)
    # what was neither sent nor acknowledged comes again
    again = Breaker(limits(consecutive=3), tmp_path / SHORT)
    assert not again.judge(step[:1])
    assert "t[0]: 3 records in a row" in again.judge([("t", 0, (2, 2), {2: Reason.UNREADABLE})])


def test_a_share_counts_only_once_the_window_is_full(tmp_path: Path) -> None:
    feed = Feed(Breaker(limits(ratio=0.5, window=10), tmp_path / SHORT))
    assert not feed("xxxx")
    assert not feed("xxx.")
    assert "8 of the last 10 records" in feed("x.")
    good_before = Feed(Breaker(limits(ratio=0.5, window=10), tmp_path / "other"))
    assert not good_before(".....")
    assert not good_before(".....")
    assert not good_before("xxxxx")
    assert good_before("x"), "what is older than the window no longer counts"


def test_a_restart_meets_the_same_limit_at_once_and_a_mended_one_goes_on(tmp_path: Path) -> None:
    settings = limits(consecutive=4)
    feed = Feed(Breaker(settings, tmp_path / SHORT))
    assert not feed("xxx")
    assert feed("x")
    for _ in range(3):
        again = Feed(Breaker(settings, tmp_path / SHORT))
        assert again("x"), "nothing more goes to the dead letters"
    mended = Feed(Breaker(settings, tmp_path / SHORT))
    assert not mended(".")
    assert not (tmp_path / SHORT).exists()
    assert not Feed(Breaker(settings, tmp_path / SHORT))("xxx"), "what was counted is forgotten"


def test_a_damaged_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / SHORT).write_bytes(b'[["t",0,')
    assert not Feed(Breaker(limits(consecutive=2), tmp_path / SHORT))("x")


@given(st.lists(st.text("x.", min_size=1, max_size=12), max_size=20), st.integers(1, 6))
def test_no_run_of_the_limit_ever_passes(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[str], most: int
) -> None:
    file = tmp_path_factory.getbasetemp() / SHORT
    file.unlink(missing_ok=True)
    feed = Feed(Breaker(limits(consecutive=most), file))
    passed = ""
    for chunk in chunks:
        refused = bool(feed(chunk))
        assert refused == ("x" * most in passed + chunk and "x" in chunk)
        if refused:
            break
        passed += chunk


def refused(worker: Worker) -> bool:
    wait_until(lambda: not worker.running, "it stops")
    return worker.process.returncode == REFUSED


@pytest.mark.kafka
def test_a_broken_release_stops_the_worker_and_drains_nothing(cluster: Cluster) -> None:
    strict = {"MAILECHO_DEAD_LETTERS__MAX_CONSECUTIVE": "60"}
    cluster.produce(RAW_DELIVERY, [delivery(n) for n in range(20)] + [b'{"kind":"party"}'] * 40, 0, SOURCE)
    worker = cluster.worker("classify", **strict)
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "a few bad records are dead-lettered")
    cluster.produce(RAW_DELIVERY, [b'{"kind":"party"}'] * 200 + [delivery(n) for n in range(20, 30)], 0, SOURCE)
    assert refused(worker)
    assert "in a row" in worker.said()
    assert "MAILECHO_DEAD_LETTERS__MAX_CONSECUTIVE (now 60" in worker.said()
    before = len(cluster.records(dlq(RAW_DELIVERY)))
    assert 40 <= before < 60
    assert refused(cluster.worker("classify", **strict))
    assert len(cluster.records(dlq(RAW_DELIVERY))) == before, "restarts drain nothing"
    assert not all_committed(cluster, RAW_DELIVERY)

    worker = cluster.worker(
        "classify", MAILECHO_DEAD_LETTERS__MAX_CONSECUTIVE="0", MAILECHO_DEAD_LETTERS__MAX_RATIO="1"
    )
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "a person has decided")
    assert worker.stop() == 0, worker.said()
    origins = {h.get(letter.headers, h.ORIGIN_OFFSET) for letter in cluster.records(dlq(RAW_DELIVERY))}
    assert origins == {str(offset) for offset in range(20, 260)}, "every one of them, none lost"
    assert {line["row"]["raw_offset"] for _, line in lines(cluster)} == {*range(20), *range(260, 270)}


@pytest.mark.kafka
def test_a_redrive_of_many_bad_letters_stops_nothing(cluster: Cluster) -> None:
    strict = {"MAILECHO_DEAD_LETTERS__MAX_CONSECUTIVE": "10"}
    cluster.produce(RAW_DELIVERY, [b"{}"] * 30, 0, [*SOURCE, (h.REDRIVEN, b"1")])
    worker = cluster.worker("classify", **strict)
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "all is committed")
    assert worker.stop() == 0, worker.said()
    assert len(cluster.records(dlq(RAW_DELIVERY))) == 30
