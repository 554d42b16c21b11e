"""Shared by the tests of SQL."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lakes import FakeLake


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> "FakeLake":
    """A lake that no test changes; one that does makes its own."""
    from tests.statements import wide_lake

    return wide_lake(tmp_path_factory.mktemp("wide"))
