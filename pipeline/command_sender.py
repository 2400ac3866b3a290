"""Sends commands to the ledger: `feedback.commands`, acknowledged by the broker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.schemas.command import Add, PolicyChange, Release
from mailecho.schemas.headers import schema_header
from mailecho.schemas.topics import COMMANDS

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings


async def send(settings: Settings, commands: Iterable[Add | Release | PolicyChange]) -> None:
    """Append the commands in this order; returns when all are acknowledged.

    A command is applied once, however often it is sent with its id. Raises NotRunning and KafkaError.
    """
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap(settings), enable_idempotence=True, acks="all")
    try:
        await producer.start()
        for command in commands:
            value = command.model_dump_json().encode()
            await producer.send_and_wait(COMMANDS, value, headers=[schema_header("command")])
    finally:
        await producer.stop()
