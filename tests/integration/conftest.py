"""Shared by the integration tests: one small checkpoint, and a copy of it for a test that changes it."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of all three heads."""
    from tests.checkpoints import config, write

    return write(tmp_path_factory.mktemp("checkpoint"), config())


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """The test's own."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copied"))
