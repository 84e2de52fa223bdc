"""How blobs in memory differ from those on disk; what they have in common is in the contract of ports.Blobs."""

import hashlib

from tetherd.testing.blobs import MemoryBlobs
from tetherd.types import Digest


def test_time_is_what_the_test_says() -> None:
    blobs = MemoryBlobs(hold=10)
    data = b"data"
    digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
    blobs.append(digest, 0, len(data), data)
    assert blobs.discard([digest]) == {digest}
    blobs.now = 11
    assert blobs.discard([digest]) == set()
    assert not blobs.stat(digest).complete
