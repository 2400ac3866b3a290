"""`python -m mailecho.pipeline.supervise.guard PARENT_PID COMMAND…`: a command that dies with its parent.

A supervisor that is killed by SIGKILL cannot stop its children. On Linux the kernel does it
(PR_SET_PDEATHSIG, kept across exec); elsewhere this process stays, watches its parent and passes signals on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_SECONDS = 1.0


def command(argv: list[str]) -> list[str]:
    """The command line that runs `argv` guarded, as a child of this process."""
    return [sys.executable, "-m", __name__, str(os.getpid()), *argv]


def main() -> int:
    """Run the command of sys.argv; does not return where the kernel keeps the guard."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # SIGKILL, not SIGTERM: every part survives it, and a part that hangs must not outlive `up`
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return 1  # the parent died before the kernel was told
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            print(f"cannot run {argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - the child's own stderr
            return 127
    child = subprocess.Popen(argv)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while True:
        try:
            code = child.wait(POLL_SECONDS)
            return code if code >= 0 else 128 - code
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                child.kill()


if __name__ == "__main__":
    sys.exit(main())
