from tetherd.types import ROLES
from tetherd.wire.frames import CALL, REPLY, Codec, Header
from tetherd.wire.peering import Ping, Pong


def test_every_member_may_ask_any_other_for_a_sign_of_life() -> None:
    assert frozenset(ROLES) == Ping.ROLES
    assert Ping.REPEATABLE
    assert Ping.REPLY is Pong


def test_question_and_answer_cross_the_wire() -> None:
    codec = Codec()
    for kind, message in ((CALL, Ping()), (REPLY, Pong(1_700_000_000.5, "0.1.0"))):
        frame = codec.split(b"".join(codec.encode(kind, Header(1, Ping.METHOD, 1000), message)))
        assert codec.message(frame, type(message)) == message
