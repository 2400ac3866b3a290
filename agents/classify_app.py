"""The classify app: `mailecho worker classify`."""

from __future__ import annotations

from typing import Any

from mailecho.agents.app import Worker, add_agent, make_app, run_worker
from mailecho.agents.breaker import Breaker
from mailecho.agents.classify import ClassifyAgent
from mailecho.agents.exits import refuse
from mailecho.agents.known import classified_above
from mailecho.agents.outputs import Outputs
from mailecho.agents.poison import Inflight
from mailecho.pipeline.classify.warm import load
from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.raw import reader_of
from mailecho.schemas.topics import CLASSIFIED, CLASSIFY_INPUT, EVENTS, GROUP_CLASSIFY

ROLE = "classify"


def build(settings: Settings) -> Worker:
    """The worker with its one agent. Raises IdentityKeyError, NotRunning."""
    bootstrap = kafka_bootstrap(settings)
    app: Any = make_app(settings, GROUP_CLASSIFY, ROLE)
    reading = reader_of(settings)
    load()
    outputs = Outputs(bootstrap, f"mailecho-{ROLE}-{settings.instance}")
    handler = ClassifyAgent(
        reading.reader,
        outputs,
        Inflight(settings.data_dir / "run" / f"inflight-{ROLE}-{settings.instance}"),
        Breaker(settings.dead_letters, settings.data_dir / "run" / f"breaker-{ROLE}-{settings.instance}"),
        partitions=settings.kafka.partitions,
        rules_version=reading.rules,
        fingerprint=reading.fingerprint,
    )

    async def check() -> None:
        # `events` is the last to grow: until then the new partitions of `classified` are being filled
        for topic in (CLASSIFIED, EVENTS):
            found = await outputs.partitions(topic)
            if found != settings.kafka.partitions:
                refuse(
                    f"kafka.partitions is {settings.kafka.partitions}, but {topic} has {found}: "
                    + ("run `mailecho topics apply` first" if not found else f"set it to {found}")
                )

    async def learn(sender: Any, **_: Any) -> None:
        assigned = app.consumer.assignment()
        handler.known = await classified_above(bootstrap, settings.kafka.partitions, assigned, reading.rules)

    app.on_rebalance_complete.connect(learn, weak=False)

    add_agent(app, ROLE, CLASSIFY_INPUT, handler.handle)
    return Worker(ROLE, app, outputs, check)


def run(settings: Settings) -> None:
    """Run the worker until it is told to stop. See `run_worker`."""
    run_worker(build, settings)
