"""Reports in plain words, one format family a module.

A module has `NAME`, `MARKS` (patterns over the lower-case text by which it is recognised, see marks.py) and
`read(letter)`, which gives a row for each recipient, [] where it cannot read the report after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mailecho.pipeline.classify.formats import (
    angle,
    aol,
    domino,
    dragonfly,
    exchange,
    exim,
    gmail,
    groupwise,
    imail,
    interscan,
    kddi,
    labelled,
    lists,
    sendmail,
    transcript,
    zoho,
)

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter
    from mailecho.pipeline.classify.row import Row


class Format(Protocol):
    """What a format module offers."""

    @property
    def NAME(self) -> str:  # noqa: N802, a constant of the module
        """The name of its marks."""

    @property
    def MARKS(self) -> Sequence[str]:  # noqa: N802
        """The patterns by which it is recognised."""

    def read(self, letter: Letter) -> list[Row]:
        """The rows of the report."""


#: In order of trial: the more particular first.
FORMATS: tuple[Format, ...] = (
    zoho,
    lists,
    transcript,
    aol,
    interscan,
    dragonfly,
    sendmail,
    exim,
    exchange,
    domino,
    gmail,
    groupwise,
    kddi,
    imail,
    labelled,
    angle,
)
