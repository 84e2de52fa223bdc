"""What joining hosts prove: that they have the secret, here and now, for this key and this listener."""

from hypothesis import given
from hypothesis import strategies as st

from tetherd.wire.enrolment import proof, proof_key, proves, transcript

parts = st.binary(max_size=40)


@given(st.text(max_size=8), parts, parts, parts, st.text(max_size=8), parts, parts, parts)
def test_two_transcripts_are_the_same_only_if_all_their_parts_are(
    p1: str, a1: bytes, b1: bytes, c1: bytes, p2: str, a2: bytes, b2: bytes, c2: bytes
) -> None:
    same = (p1, a1, b1, c1) == (p2, a2, b2, c2)
    assert (transcript(p1, a1, b1, c1) == transcript(p2, a2, b2, c2)) == same


@given(parts, parts, parts)
def test_a_proof_is_about_one_thing_with_one_key(secret: bytes, about: bytes, other: bytes) -> None:
    key = proof_key(secret)
    assert proves(key, about, proof(key, about))
    assert proves(key, about, proof(key, other)) == (about == other)
    assert not proves(proof_key(secret + b"x"), about, proof(key, about))
    assert not proves(key, about, b"")


def test_the_secret_is_not_what_is_kept_of_it() -> None:
    assert b"secret" not in proof_key(b"secret")
