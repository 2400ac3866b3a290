"""The LMDB store: atomic, locked, recognised when damaged, and equal to the one in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailecho.pipeline.ledger.fold import Fold
from mailecho.pipeline.ledger.policy import load_policy
from mailecho.pipeline.ledger.store import Store, StoreDamaged, StoreInUse, open_or_discard
from mailecho.schemas.topics import DAY_MS, Windows
from tests.ledger.histories import START, Fact, Folded, facts


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(facts(), max_size=25), cut=st.integers(0, 25))
def test_the_same_as_in_memory_also_when_opened_again(
    tmp_path_factory: pytest.TempPathFactory, history: list[Fact], cut: int
) -> None:
    directory = tmp_path_factory.mktemp("store")
    windows = Windows(delivery_ms=3 * DAY_MS, report_ms=15 * DAY_MS)
    memory, fold = Folded(windows), Fold(windows, load_policy())
    received = START + 31 * DAY_MS
    store = Store(directory)
    for offset, fact in enumerate(history):
        if offset == cut:
            store.close()
            store = Store(directory)
        line = fact.line(received + offset * DAY_MS)
        expected = memory.record(line)
        with store.begin() as tx:
            output = fold.apply(tx, offset, line)
        assert (output.rows, output.changes, output.totals) == (expected.rows, expected.changes, expected.totals)
    with store.begin() as tx:
        assert fold.next_offset(tx) == len(history)
    store.close()


def test_an_undone_transaction_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        with store.begin() as tx:
            tx.put("a", b"k", b"1")
        with pytest.raises(RuntimeError, match="half-way"), store.begin() as tx:  # noqa: PT012 - a whole transaction
            tx.put("a", b"k", b"2")
            tx.put("new", b"k", b"2")
            tx.drop("a")
            raise RuntimeError("half-way")
        with store.begin() as tx:
            assert tx.get("a", b"k") == b"1"
            assert not tx.exists("new")
            tx.put("new", b"k", b"3")
        assert store.peek("new", b"k") == b"3"


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with Store(tmp_path / "s"), pytest.raises(StoreInUse, match="another process holds"):
        Store(tmp_path / "s")
    Store(tmp_path / "s").close()


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 8192, 12288])
def test_a_truncated_store_is_recognised_and_made_anew(tmp_path: Path, keep: int) -> None:
    directory = tmp_path / "s"
    with Store(directory) as store:
        for round_ in range(3):
            with store.begin() as tx:
                for number in range(500):
                    tx.put(f"db{round_}", number.to_bytes(16, "big"), os.urandom(40))
    os.truncate(directory / "data.mdb", keep)
    if keep:  # an empty file is a new store to LMDB, and to us
        with pytest.raises(StoreDamaged):
            Store(directory)
    with open_or_discard(directory) as store, store.begin() as tx:
        assert tx.names("") == []


def test_garbage_is_no_store(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    directory.mkdir()
    (directory / "data.mdb").write_bytes(os.urandom(65_536))
    with pytest.raises(StoreDamaged):
        Store(directory)
    open_or_discard(directory).close()


def test_a_reader_beside_a_transaction_sees_the_last_commit(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        with store.begin() as tx:
            tx.put("old", b"k", b"1")
        with store.begin() as tx:
            tx.put("old", b"k", b"2")
            tx.put("new", b"k", b"2")
            assert store.peek("old", b"k") == b"1"
            assert store.peek("new", b"k") is None, "the map is not there yet, for anybody else"
        assert store.peek("new", b"k") == b"2"
