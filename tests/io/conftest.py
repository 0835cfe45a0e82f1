"""What the tests of files share."""

import os

import pytest


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk():
    """Waiting is for power cuts, and no test here cuts the power; it would take a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield
