"""DragonFly Mail Agent: `There was an error delivering your mail to <a>.`, then the reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "dragonfly"
MARKS = (r"there\s+was\s+an\s+error\s+delivering\s+your\s+mail\s+to\s+<",)

_REPORT = re.compile(
    rf"(?is)error\s+delivering\s+your\s+mail\s+to\s+<({ADDRESS.pattern})>\.?\s*(.{{0,2000}}?)"
    r"(?=\n\s*message\s+headers\s+follow|there\s+was\s+an\s+error\s+delivering|\Z)"
)


def read(letter: Letter) -> list[Row]:
    """Rows of a DragonFly report."""
    return [Row(tidy(m[1]), " ".join(m[2].split())) for m in _REPORT.finditer(letter.text)][:100]
