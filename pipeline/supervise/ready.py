"""Small questions that `up` asks of what it started."""

from __future__ import annotations

import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mailecho.pipeline.supervise.claim import running

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings


def answers(url: str) -> Callable[[], bool]:
    """A question: does anything answer at the URL? Blocks for at most two seconds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> bool:
        try:
            with opener.open(url, timeout=2.0):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return error.code < 500  # a token is asked for: it listens
        except OSError:
            return False

    return ask


def hints(settings: Settings) -> list[str]:
    """Three commands to try on what runs, as this user can type them."""
    program = _program()
    # the only running `up` is found without being named
    where = "" if len(running()) == 1 else f" --data-dir {settings.data_dir}"
    question = "SELECT provider, kind, cause, count() AS n FROM events GROUP BY ALL ORDER BY n DESC LIMIT 20"
    return [
        f'{program} sql "{question}"{where}',
        f"{program} suppressions list{where}",
        f"{program} status{where}",
    ]


def _program() -> str:
    """`mailecho` where the shell finds this very one by that name, else the path that was typed."""
    typed = Path(sys.argv[0])
    found = shutil.which("mailecho")
    if typed.name != "mailecho" or (found and Path(found).samefile(typed)):
        return "mailecho"
    return str(typed)
