"""A report mailbox as maildir (https://cr.yp.to/proto/maildir.html): new mail is sent, then moved to `cur`.

Moving is the progress mark: it happens after the broker's acknowledgement, so a run that was
killed goes on where it was, and a mail that it had sent and not yet moved is sent again (and
dropped downstream as a duplicate).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mailecho.pipeline.intake.record import IntakeError, RawRecord, Skipped, Tags, message_record, read_message


def maildir_records(
    directory: str | Path, tags: Tags | None = None, *, topic: str | None = None
) -> Iterator[RawRecord | Skipped]:
    """The mails in `new` of a maildir, oldest name first; each is moved to `cur` once it is acknowledged.

    What stands in `cur` already is left alone (`file_records` reads it). A mail that another
    process has taken meanwhile is passed over. Raises IntakeError where the directory is no maildir.
    """
    root = Path(directory)
    new, cur = root / "new", root / "cur"
    for folder in (new, cur):
        if not folder.is_dir():
            raise IntakeError(f"{root} is no maildir: {folder} is not a directory")
    return _records(new, cur, tags or Tags(), topic)


def _records(new: Path, cur: Path, tags: Tags, topic: str | None) -> Iterator[RawRecord | Skipped]:
    for name in sorted(os.listdir(new)):
        path = new / name
        if name.startswith(".") or not path.is_file():
            continue
        try:
            message, size = read_message(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Skipped(str(path), error.strerror or str(error))
            continue
        moved: Callable[[], None] = partial(_move, path, cur / (name if ":2," in name else f"{name}:2,"))
        yield message_record(message, str(path), tags, topic, size=size, acknowledged=moved)


def _move(source: Path, target: Path) -> None:
    # a mail reader may have been faster: then it stands in `cur`, or was deleted
    with contextlib.suppress(FileNotFoundError):
        source.rename(target)
