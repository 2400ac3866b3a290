"""What `agents.transport` overrides or leans on in Faust, nailed down: an upgrade must be read, not hoped for.

When a line here fails after an upgrade of faust-streaming: read the method's change, adapt
`agents/transport.py` if need be, run the fault tests, then put the new digest here.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from types import SimpleNamespace
from typing import Any

import faust
import faust.streams
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import IllegalStateError
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from hypothesis import given
from hypothesis import strategies as st

from mailecho.agents.transport import BatchConsumer, Progress

OVERRIDDEN = (
    "_add_gap",
    "_filter_tps_with_pending_acks",
    "_new_offset",
    "_to_message",
    "ack",
    "getmany",
    "on_partitions_revoked",
    "seek",
    "seek_to_committed",
)

DIGESTS = {
    Consumer._add_gap: "4df2573ded7c",
    Consumer._commit_offsets: "1a6979904118",
    Consumer._commit_tps: "a20e230b05ae",
    Consumer._drain_messages: "44a2500309e8",
    Consumer._filter_committable_offsets: "dc5e9baf5d99",
    Consumer._filter_tps_with_pending_acks: "f6f923977423",
    Consumer._new_offset: "1d2c7ea89a7a",
    Consumer._should_commit: "5ce941793947",
    Consumer._wait_next_records: "6218e1969a63",
    Consumer.ack: "5fcf41cf4515",
    Consumer.force_commit: "cc094614d22c",
    Consumer.getmany: "4b168d84882a",
    Consumer.on_partitions_revoked: "d04b7ae72c6f",
    Consumer.on_stop: "45b1d2210ce2",
    Consumer.perform_seek: "0e8c130ff4b0",
    Consumer.seek: "b86a9fe05f95",
    Message.ack: "4751b72c4ed8",
    Recovery._resume_streams: "d986a6710c1a",
    ThreadDelegateConsumer.seek_to_committed: "f1d483b861b0",
    driver.AIOKafkaConsumerThread._commit: "932852ce7a23",
    driver.AIOKafkaConsumerThread._create_worker_consumer: "c2701bfc3e6f",
    driver.AIOKafkaConsumerThread.seek_to_committed: "775ab0adc4b0",
    driver.Consumer._to_message: "7c24f6511b2f",
    faust.streams.Stream._py_aiter: "3a48ee257a65",
    faust.streams.Stream.noack: "921a6f5c674d",
}


def digest(method: object) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]  # type: ignore[arg-type]


@pytest.mark.parametrize("method", list(DIGESTS), ids=lambda m: m.__qualname__)
def test_faust_is_as_we_read_it(method: object) -> None:
    assert digest(method) == DIGESTS[method], f"{method} changed in faust-streaming {faust.__version__}"


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_each_override_overrides_something(name: str) -> None:
    assert name in vars(BatchConsumer)
    assert getattr(driver.Consumer, name) is not getattr(BatchConsumer, name)


def test_every_override_is_listed() -> None:
    own = {name for name, value in vars(BatchConsumer).items() if callable(value) and not name.startswith("__")}
    inherited = {name for name in own if hasattr(driver.Consumer, name)}
    assert inherited == set(OVERRIDDEN)


PARTITION = TP("topic", 0)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    takes=st.integers(1, 5),
)
def test_only_the_longest_done_run_is_committed(sizes: list[int], order: object, takes: int) -> None:
    progress = Progress()
    ends = []
    offset = 7
    for size in sizes:
        progress.delivered(PARTITION, offset, offset + size - 1)
        offset += size
        ends.append(offset - 1)
    done: set[int] = set()
    shuffled = list(ends)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    committed = None
    for number, end in enumerate(shuffled):
        progress.done(PARTITION, end)
        done.add(end)
        if number % takes == 0:
            committed = progress.take(PARTITION) or committed
            prefix = [e for i, e in enumerate(ends) if all(x in done for x in ends[: i + 1])]
            assert committed == (prefix[-1] + 1 if prefix else None)
    progress.take(PARTITION)
    assert list(progress.pending()) == []


def test_what_an_earlier_assignment_finished_is_not_committed() -> None:
    progress = Progress()
    progress.delivered(PARTITION, 0, 9)
    progress.forget_all()
    progress.delivered(PARTITION, 0, 4)
    progress.done(PARTITION, 9)
    assert progress.take(PARTITION) is None
    progress.done(PARTITION, 4)
    assert progress.take(PARTITION) == 5


def test_what_was_done_before_an_assignment_is_committed_though_nothing_follows() -> None:
    progress = Progress()
    progress.reached(PARTITION, 7)
    assert list(progress.pending()) == [PARTITION]
    progress.delivered(PARTITION, 7, 9)
    assert progress.take(PARTITION) == 7
    progress.done(PARTITION, 9)
    assert progress.take(PARTITION) == 10


def test_a_seek_in_a_partition_that_was_revoked_meanwhile_is_no_error() -> None:
    async def seek() -> dict[TP, int | None]:
        client = SubscriptionState()
        client.assign_from_user([TopicPartition("t", 1)])
        with pytest.raises(IllegalStateError):
            client.seek(TopicPartition("t", 0), 5)
        consumer: Any = BatchConsumer.__new__(BatchConsumer)
        consumer._thread = SimpleNamespace(seek=client.seek)
        consumer._read_offset = {}
        await consumer.seek(TP("t", 0), 5)
        return dict(consumer._read_offset)

    assert asyncio.run(seek()) == {}
