"""Every message there is, wherever it is defined."""

import importlib
import pkgutil
from typing import Final

from tetherd import wire
from tetherd.wire.messages import Message, Request


def _all() -> list[type[Message]]:
    modules = [
        importlib.import_module(f"{wire.__name__}.{found.name}") for found in pkgutil.iter_modules(wire.__path__)
    ]
    found = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    kinds = [kind for kind in found if issubclass(kind, Message) and kind not in (Message, Request)]
    return sorted(kinds, key=lambda kind: (kind.__module__, kind.__name__))


MESSAGES: Final = _all()
REQUESTS: Final = [kind for kind in MESSAGES if issubclass(kind, Request)]
