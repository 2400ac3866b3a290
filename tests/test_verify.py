"""What `verify` takes for a difference between a row that stands and the one that should."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import orjson
import pytest

from mailecho.pipeline.landing.insert import EVENTS, SETTINGS
from mailecho.pipeline.verify.compare import compare_events
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.landing.kit import TODAY, row

pytestmark = pytest.mark.clickhouse


@pytest.mark.parametrize(
    ("whole", "changed", "differs"),
    [
        (False, {"raw_offset": 9, "received_at": f"{TODAY} 00:00:02.000"}, False),
        (True, {"raw_offset": 9, "received_at": f"{TODAY} 00:00:02.000"}, True),
        (False, {"raw_offset": 0, "received_at": f"{TODAY} 00:00:00.000"}, True),
        (False, {"raw_offset": 9, "received_at": f"{TODAY} 00:00:02.000", "kind": "delay"}, True),
    ],
    ids=[
        "an earlier copy that expired stands",
        "nothing has expired",
        "a later copy stands",
        "and says something else",
    ],
)
def test_where_something_expired_an_earlier_copy_may_stand(
    clickhouse: EmbeddedClickHouse, whole: bool, changed: dict[str, object], differs: bool
) -> None:
    topic = uuid.uuid4().hex
    client = clickhouse.write_client()
    standing = row(topic, 3)
    client.raw_insert(EVENTS, insert_block=standing, settings=SETTINGS, fmt="JSONEachRow")
    wanted = orjson.loads(standing) | changed
    part = SimpleNamespace(whole=whole, rows={wanted["event_id"]: orjson.dumps(wanted)})
    found = compare_events(client, [part], set()).differences  # type: ignore[list-item]
    assert bool(found) is differs, found
