"""Drivers are tested on the event loop that daemons run on: its transports are not asyncio's own."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

# Test modules are not part of a package; what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}
