"""The file in which a node remembers over a restart where its peers proved their keys. Losing it loses time only."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tetherd.discovery.peers import Remembered
from tetherd.drivers.host import durable
from tetherd.errors import MALFORMED, TetherError

NAME: Final = "peers.json"
MAX_PEERS: Final = 4096

_log = logging.getLogger("tetherd.peering")


def load(directory: Path) -> list[Remembered]:
    """Return what was remembered; nothing where there is no file, or none that can be read."""
    path = directory / NAME
    try:
        data = durable.read(path)
        return [] if data is None else msgspec.json.decode(data, type=list[Remembered])[:MAX_PEERS]
    except (TetherError, *MALFORMED) as error:
        _log.warning("the peers remembered in %s cannot be read, and are found anew: %s", path, error)
        return []


def save(directory: Path, peers: Sequence[Remembered]) -> None:
    """Remember these. Raises StorageFull, StorageFailed."""
    durable.write(directory / NAME, msgspec.json.encode(list(peers)[:MAX_PEERS]))
