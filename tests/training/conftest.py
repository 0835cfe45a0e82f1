import pytest
from support import worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model and data files for every kind of training."""
    return worlds.world(tmp_path_factory.mktemp("world"))
