from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.parts import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.store.close()
