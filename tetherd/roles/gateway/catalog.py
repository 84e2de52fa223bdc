"""The gateway's view of the catalog: versions with what every request for them needs made ready."""

from typing import Final, TypeAlias

from tetherd.policy import catalog
from tetherd.types import Signature
from tetherd.wire.catalog import Version
from tetherd.wire.openinference import Served
from tetherd.wire.templates import Templates

PLATFORMS: Final = {"onnx": "onnxruntime_onnx"}


class Entry:
    """One version, with what every request for it needs made ready once."""

    __slots__ = ("served", "signature", "templates", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.signature: Signature = version.signature
        self.served = Served(version.model, str(version.number), version.signature)
        self.templates = Templates(version.signature)


Model: TypeAlias = catalog.Model[Entry]
View: TypeAlias = catalog.View[Entry]
