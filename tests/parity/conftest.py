"""The published toy model, once per session."""

import pytest

from tests.parity.toy import Toy, load_toy


@pytest.fixture(scope="session")
def toy() -> Toy:
    return load_toy()
