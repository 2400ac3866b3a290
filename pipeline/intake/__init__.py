"""Raw facts -> raw topics: files, maildirs, mboxes, and whatever a pipe gives.

A reader (`files`, `maildir`, `mbox`) yields `RawRecord`s; `producer.produce` sends them and reports what
the broker has acknowledged. What is sent twice has the same event ids, and is dropped downstream.
"""

from mailecho.pipeline.intake.files import file_records
from mailecho.pipeline.intake.maildir import maildir_records
from mailecho.pipeline.intake.mbox import mbox_records
from mailecho.pipeline.intake.producer import Counts, produce
from mailecho.pipeline.intake.record import IntakeError, RawRecord, Skipped, Tags

__all__ = [
    "Counts",
    "IntakeError",
    "RawRecord",
    "Skipped",
    "Tags",
    "file_records",
    "maildir_records",
    "mbox_records",
    "produce",
]
