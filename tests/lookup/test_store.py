from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailecho.pipeline.lookup import store as store_module
from mailecho.pipeline.lookup.record import Change
from mailecho.pipeline.lookup.store import Store, Stored, StoreLocked, StoreUnusable, stored_key, unpack
from mailecho.schemas.suppression import State
from tests.lookup.entries import DAY, NOW, change, entry, removal


def apply(store: Store, changes: list[Change], offset: int = 1, **more: Any) -> int:
    return store.apply(changes, {0: offset}, now_ms=NOW, forget_ms=30 * DAY, **more)


def everything(store: Store) -> dict[bytes, Stored]:
    with store.env.begin(db=store.entries) as txn:
        return {k: unpack(v) for k, v in txn.cursor()}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], list[Change]]:
    """Changes of a few keys, each version of a key once; and the same with repeats in any order."""
    changes = []
    for number in range(draw(st.integers(1, 4))):
        versions = draw(st.sets(st.integers(0, 2**40), min_size=1, max_size=5))
        for version in versions:
            values = entry(f"user{number}@example.com", version=version, state=draw(st.sampled_from(State)))
            values["reason"] = draw(st.sampled_from(["complaint", "hard_bounce"]))
            changes.append(removal(values, version) if draw(st.booleans()) else change(values))
    mixed = draw(st.permutations(changes + draw(st.lists(st.sampled_from(changes), max_size=6))))
    return changes, mixed


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_order_and_repetition_gives_the_highest_version_of_each_key(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[Change], list[Change]], dice: random.Random
) -> None:
    changes, mixed = history
    store = Store(tmp_path_factory.mktemp("store"))
    try:
        while mixed:
            size = dice.randint(1, len(mixed))
            apply(store, mixed[:size])
            mixed = mixed[size:]
        highest: dict[bytes, Change] = {}
        for one in changes:
            if one.key not in highest or one.version > highest[one.key].version:
                highest[one.key] = one
        found = everything(store)
        assert {key: (v, s) for key, (v, s, _) in found.items()} == {
            k: (c.version, c.state) for k, c in highest.items()
        }
        assert all(found[k][2] == c.body for k, c in highest.items() if c.state is not None)
        kept = [c for c in highest.values() if c.state is not None]
        assert sum(count for _, _, count in store.counts()) == len(kept)
        for state in State:
            of_state = sum(count for name, _, count in store.counts() if name == state)
            assert of_state == sum(c.state is state for c in kept)
    finally:
        store.close()


def test_a_restart_resumes_with_entries_offsets_and_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    apply(store, [change(entry("a@example.com")), change(entry("b@example.com", state="watch"))], 7, meta={"x": b"1"})
    before = everything(store), store.offsets(), store.counts(), store.meta()
    store.close()
    store = Store(tmp_path)
    assert (everything(store), store.offsets(), store.counts(), store.meta()) == before
    assert store.offsets() == {0: 7}
    assert dict(store.meta())["x"] == b"1"
    store.close()


def test_a_transaction_that_fails_leaves_neither_entries_nor_offsets(tmp_path: Path) -> None:
    store = Store(tmp_path)
    apply(store, [change(entry("a@example.com"))], 1)

    def breaks() -> Any:
        yield change(entry("b@example.com"))
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        store.apply(breaks(), {0: 2}, now_ms=NOW, forget_ms=DAY)
    assert len(everything(store)) == 1
    assert store.offsets() == {0: 1}
    store.close()


def test_kill_9_in_the_middle_of_writing_leaves_a_map_that_fits_its_offset(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from mailecho.pipeline.lookup.store import Store
from tests.lookup.entries import change, entry, DAY, NOW
store = Store(Path(sys.argv[1]))
for n in range(1, 100_000):
    changes = [change(entry(f"user{n}-{i}@example.com")) for i in range(20)]
    store.apply(changes, {0: n}, now_ms=NOW, forget_ms=DAY)
    print(n, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        for line in child.stdout:
            if int(line) == 20:
                child.kill()
                break
    store = Store(tmp_path)
    assert store.offsets()[0] >= 20
    assert len(everything(store)) == 20 * store.offsets()[0]
    store.close()


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, 12288, 0.5, 0.95])
def test_a_truncated_file_is_detected_and_made_again(tmp_path: Path, keep: float) -> None:
    store = Store(tmp_path)
    apply(store, [change(entry(f"user{n}@example.com")) for n in range(3000)], 9, meta={"complete": b"1"})
    store.close()
    file = tmp_path / "data.mdb"
    size = file.stat().st_size
    os.truncate(file, int(size * keep) if isinstance(keep, float) else keep)
    with pytest.raises(StoreUnusable, match=r"data\.mdb|no lookup map"):
        Store(tmp_path, readonly=True)
    store = Store(tmp_path)
    assert everything(store) == {}
    assert store.offsets() == {}
    assert "complete" not in store.meta()
    apply(store, [change(entry())], 1)
    assert len(everything(store)) == 1
    store.close()


def test_a_file_of_garbage_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"\xa5" * 40_000)
    store = Store(tmp_path)
    apply(store, [change(entry())])
    assert len(everything(store)) == 1
    store.close()


def test_a_sound_file_never_looks_truncated(tmp_path: Path) -> None:
    """LMDB may end a file before its last page where it freed that page again."""
    dice = random.Random(7)
    store = Store(tmp_path)
    for version in range(1, 40):
        who = dice.sample(range(400), 60)
        padding = "x" * dice.choice([10, 3000, 9000])
        some = [entry(f"user{n}@example.com", version=version, note=padding) for n in who]
        apply(store, [removal(e, version) if dice.random() < 0.4 else change(e) for e in some], version)
        if version % 5 == 0:
            store.clear({})
        held = store.offsets()
        store.close()
        store = Store(tmp_path)
        assert store.offsets() == held
    store.close()


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    apply(store, [change(entry())])
    with pytest.raises(StoreLocked, match="data_dir"):
        Store(tmp_path)
    read = "import sys; from pathlib import Path; from mailecho.pipeline.lookup.store import Store; "
    read += "s = Store(Path(sys.argv[1]), readonly=True); print(s.offsets()); s.close()"
    out = subprocess.run([sys.executable, "-c", read, str(tmp_path)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{0: 1}"
    store.close()


def test_a_reader_without_a_map_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="mailecho serve"):
        Store(tmp_path / "none", readonly=True)


def test_tombstones_are_kept_for_as_long_as_the_topic_keeps_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept, gone, back = entry("kept@example.com"), entry("gone@example.com"), entry("back@example.com")
    store.apply([removal(gone, 5), removal(back, 5)], {}, now_ms=NOW, forget_ms=30 * DAY)
    store.apply([change(back | {"version": 6})], {}, now_ms=NOW + 1, forget_ms=30 * DAY)
    store.apply([removal(back, 7)], {}, now_ms=NOW + 20 * DAY, forget_ms=30 * DAY)
    assert store.apply([change(gone | {"version": 4})], {}, now_ms=NOW + 29 * DAY, forget_ms=30 * DAY) == 0
    store.apply([change(kept)], {}, now_ms=NOW + 31 * DAY, forget_ms=30 * DAY)
    found = everything(store)
    assert {key.rpartition(b"/")[2].decode() for key in found} == {kept["subject_key"], back["subject_key"]}
    assert store.apply([change(back | {"version": 6})], {}, now_ms=NOW + 31 * DAY, forget_ms=30 * DAY) == 0
    store.close()


def test_a_key_longer_than_lmdb_takes_is_kept(tmp_path: Path) -> None:
    long = entry(scope="stream", scope_id="é" * 200 + "/" + "ü" * 200)
    store = Store(tmp_path)
    apply(store, [change(long)])
    apply(store, [change(long | {"version": 0, "state": "released"})])
    page = store.page(state=None, limit=10)
    assert [e["scope_id"] for e in page.entries] == [long["scope_id"]]
    assert page.entries[0]["state"] == "active"
    assert stored_key(change(long).key) in everything(store)
    store.close()


def test_a_map_of_another_format_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    apply(store, [change(entry())])
    store.close()
    monkeypatch.setattr(store_module, "FORMAT", b"2")
    store = Store(tmp_path)
    assert everything(store) == {}
    store.close()


def test_pages_go_through_the_list_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    states = ["active", "watch", "held"]
    apply(store, [change(entry(f"user{n}@example.com", state=states[n % 3])) for n in range(100)])
    apply(store, [removal(entry("user0@example.com"), 2)])
    for state, expected in ((None, 99), (State.ACTIVE, 33), (State.RELEASED, 0)):
        seen: list[str] = []
        cursor = b""
        while True:
            page = store.page(state=state, limit=10, after=cursor, look_at=7)
            seen += [e["address"] for e in page.entries]
            if page.cursor is None:
                break
            cursor = page.cursor
        assert len(seen) == len(set(seen)) == expected
    store.close()
