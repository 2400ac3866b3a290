"""The ledger app: `mailecho worker ledger`."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from faust.types import TP

from mailecho.agents.app import Worker, add_agent, make_app, run_worker
from mailecho.agents.exits import refuse
from mailecho.agents.guardian import Guardian
from mailecho.agents.ledger import LedgerAgent
from mailecho.agents.outputs import Outputs, Record
from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.ledger.fold import Fold
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.ledger.policy import Policy, load_policy, parse_policy
from mailecho.pipeline.side import committed_offsets
from mailecho.schemas import headers as h
from mailecho.schemas.command import PolicyChange
from mailecho.schemas.topics import CLASSIFIED, COMMANDS, EVENTS, GROUP_LEDGER, SUPPRESSIONS

log = logging.getLogger(__name__)

ROLE = "ledger"


def build(settings: Settings) -> Worker:
    """The worker with its one agent. Raises IdentityKeyError, PolicyError, NotRunning."""
    bootstrap = kafka_bootstrap(settings)
    policy = load_policy(settings.policy_file)
    fold = Fold(settings.dedupe_windows, policy, keep_addresses=settings.addresses == "clear")
    outputs = Outputs(bootstrap, f"mailecho-{ROLE}-{settings.instance}")
    # A directory an instance: a partition that comes from another is replayed, so that no process
    # ever waits for another's lock (a stopped one holds it).
    directory = settings.data_dir / "ledger" / settings.instance
    identity = load_identity(settings)
    places = Places(identity, settings.kafka.partitions)
    agent = LedgerAgent(bootstrap, fold, outputs, places, directory, identity.fingerprint)
    guardian = Guardian(bootstrap, outputs, lambda: agent.owned)

    async def take_over(assigned: set[TP]) -> dict[TP, int]:
        committed = await committed_offsets(bootstrap, GROUP_LEDGER)
        partitions = {tp.partition for tp in assigned if tp.topic == CLASSIFIED}
        found = await agent.take_over(partitions, {p: committed.get((CLASSIFIED, p), 0) for p in partitions})
        return {TP(CLASSIFIED, p): offset for p, offset in found.items()}

    app: Any = make_app(settings, GROUP_LEDGER, ROLE, take_over)

    async def check() -> None:
        counts = {topic: await outputs.partitions(topic) for topic in (CLASSIFIED, EVENTS, SUPPRESSIONS)}
        if set(counts.values()) != {settings.kafka.partitions}:
            refuse(
                f"kafka.partitions is {settings.kafka.partitions}, but the topics have {counts}: a recipient's place "
                "follows from that number, so all three and the setting must agree (`mailecho topics apply` makes them)"
            )

    async def prepare(sender: Any, **_: Any) -> None:
        # Here, since Faust gives the seek that follows (and asks `take_over` again) only 40 s.
        await take_over(set(app.consumer.assignment()))
        await _announce(agent, fold, outputs, policy)

    app.on_rebalance_complete.connect(prepare, weak=False)

    add_agent(app, ROLE, (CLASSIFIED,), agent.handle)
    return Worker(ROLE, app, outputs, check, guardian.run)


async def _announce(agent: LedgerAgent, fold: Fold, outputs: Outputs, policy: Policy) -> None:
    """Send the configured policy as a command where another is in force; the owner of partition 0 does it."""
    owned = agent.owned.get(0)
    if owned is None:
        return
    with owned.store.begin() as tx:
        explicit, count = fold.explicit_policy(tx), fold.totals(tx).commands
    old = parse_policy(orjson.loads(explicit)).fingerprint() if explicit else "none"
    if old == policy.fingerprint():
        return
    log.info("policy %s comes into force", policy.version)
    command = PolicyChange(
        # the same for every try, until it has come
        id=f"policy-{policy.fingerprint()}-{old}-{count}",
        actor="ledger",
        policy=policy.model_dump(mode="json"),
    )
    record = Record(command.model_dump_json().encode(), headers=[h.schema_header("command")])
    await outputs.send([(COMMANDS, 0, [record])])


def run(settings: Settings) -> None:
    """Run the worker until it is told to stop. See `run_worker`."""
    run_worker(build, settings)
