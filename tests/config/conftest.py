"""A host that is the same everywhere, so that defaults are."""

from pathlib import Path

import pytest

from tetherd.config.host import Host
from tetherd.config.paths import find


@pytest.fixture
def host() -> Host:
    home = Path("/home/ada")
    return Host(name="w-1", cores=4, memory=10 * 2**30, home=home, paths=find({}, uid=0, home=home))
