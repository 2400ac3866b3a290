"""The line format of `feedback.classified`.

A record's value is newline-delimited JSON; every line is for that partition. Four kinds of line:

* event:   `{"row":{"event_id":"…",…},"address":"user@example.com"}`, the row exactly as
           `feedback.events` will have it, and beside it what must not reach ClickHouse;
* command: `{"command":{…}}`, see `command.Command`;
* copy:    `{"copy":{"event_id":…,"domain":…,…}}`, a domain fact for the domain's own partition;
* marker:  a command that concerns everyone, written to every partition.

`row` comes first, and inside it `event_id`, so that the id stands at a fixed position and the row
can be cut out as bytes. A quote inside a JSON string is always escaped, so the bytes `},"address":`
can only be the end of the row.
"""

from __future__ import annotations

import orjson

ROW_PREFIX = b'{"row":{"event_id":"'
ID_AT = len(ROW_PREFIX)
ID_END = ID_AT + 36
ROW_AT = len(b'{"row":')
_ROW_END = b'},"address":'
COMMAND_PREFIX = b'{"command":'
COPY_PREFIX = b'{"copy":'


def event_line(row: bytes, address: str) -> bytes:
    """An event line from the row's bytes (an `event.Event`) and the recipient's address ("" if none)."""
    return b'{"row":' + row + b',"address":' + orjson.dumps(address) + b"}"


def row_of(line: bytes) -> bytes:
    """The row of an event line, as bytes. Raises ValueError where the line is not one."""
    end = line.rfind(_ROW_END)
    if end < 0 or not line.startswith(ROW_PREFIX):
        raise ValueError("not an event line")
    return line[ROW_AT : end + 1]
