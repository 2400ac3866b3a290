"""A coverage-guided fuzzer over the classifier, for an environment with atheris in it.

    python -m tests.fuzz.atheris_target CORPUS_DIR tests/samples/reports -max_len=20000 -max_total_time=600

atheris is no dependency of the project: it is installed for the run (`pip install atheris`).
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tests.fuzz.mutate import fault_of


def one_input(data: bytes) -> None:
    """Read one message; AssertionError with the fault where a rule of the fuzzers is broken."""
    fault = fault_of(data)
    if fault:
        raise AssertionError(fault)


def main() -> None:
    """Run until atheris ends; arguments are libFuzzer's."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["mailecho.pipeline.message", "mailecho.pipeline.classify"]):
        for name in list(sys.modules):
            if name.startswith(("mailecho.pipeline.message", "mailecho.pipeline.classify")):
                del sys.modules[name]
        mutate = importlib.reload(importlib.import_module("tests.fuzz.mutate"))
    globals()["fault_of"] = mutate.fault_of
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
