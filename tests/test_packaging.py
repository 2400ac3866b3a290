"""The wheel: only `mailecho/` on top, with its data files and without tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("agents", "pipeline", "schemas")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built, offline, from a copy of the tree: the build leaves nothing behind here."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("src", *PACKAGES):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    assert all((tree / "src" / "mailecho" / name).is_symlink() for name in PACKAGES)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    [file] = (tree / "dist").iterdir()
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_only_mailecho_is_on_top(wheel: list[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert len(top) == 2, top
    assert "mailecho" in top
    assert next(iter(top - {"mailecho"})).endswith(".dist-info")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_in_it(wheel: list[str], package: str) -> None:
    there = {
        f"mailecho/{path.relative_to(ROOT)}"
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there, package
    assert there - set(wheel) == set(), "pyproject.toml: tool.setuptools.package-data lacks the kind of file"


def test_it_is_typed_and_has_no_tests(wheel: list[str]) -> None:
    assert "mailecho/py.typed" in wheel
    assert [name for name in wheel if "test" in name.partition("/")[2].split("/")[0]] == []
    assert [name for name in wheel if name.endswith(".pyc")] == []
