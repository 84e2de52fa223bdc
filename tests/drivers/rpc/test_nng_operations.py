import pytest

from tetherd.drivers.rpc import nng_operations
from tetherd.errors import TooLarge


def test_a_message_is_its_parts_one_after_the_other() -> None:
    message = nng_operations.pack([b"ab", bytearray(b"cd"), memoryview(b"efgh")[::1], b""], 8)
    assert nng_operations.unpack(message)[0] == b"abcdefgh"
    with pytest.raises(TooLarge, match="9 bytes"):
        nng_operations.pack([b"abcdefgh", b"i"], 8)
