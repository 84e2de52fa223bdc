"""Join tokens: one text for each value, and for any other text an error that says what to do."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.addresses import parse
from tetherd.errors import InvalidInput, WrongToken
from tetherd.wire.tokens import MAX_TEXT, JoinToken, check_address, decode, encode, network_id

PIN = bytes(range(32))
TOKEN = JoinToken(network_id(PIN), PIN, b"\1\2\3\4\5", bytes(range(16)), ("192.0.2.1:7444", "[2001:db8::1]:7444"))
TEXT = encode(TOKEN)

ports = st.integers(1, 65535)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda found: f"[{found}]"),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
)
addresses = st.lists(st.builds("{}:{}".format, hosts, ports), min_size=1, max_size=8).map(tuple)


@st.composite
def tokens(draw: st.DrawFn) -> JoinToken:
    fixed = [draw(st.binary(min_size=size, max_size=size)) for size in (8, 32, 5, 16)]
    return JoinToken(fixed[0].hex(), fixed[1], fixed[2], fixed[3], draw(addresses))


@given(tokens())
def test_a_token_comes_back(token: JoinToken) -> None:
    text = encode(token)
    assert decode(f"  {text}\n") == token
    assert re.fullmatch(r"[!-~]+", text)


def test_a_token_says_who_it_leads_to() -> None:
    assert TEXT.split(".")[:2] == ["tthj1", PIN.hex()[:16]]


def test_a_token_that_is_logged_keeps_its_secret() -> None:
    assert TEXT.split(".")[4] not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


def refused(text: str) -> WrongToken | None:
    try:
        decode(text)
    except WrongToken as error:
        return error
    return None


@given(st.integers(0, len(TEXT) - 1))
def test_a_token_that_was_cut_off_is_refused_or_only_shorter_in_its_addresses(length: int) -> None:
    if error := refused(TEXT[:length]):
        assert error.fix
    else:
        found = decode(TEXT[:length])
        assert (found.network, found.pin, found.id, found.secret) == (TOKEN.network, PIN, TOKEN.id, TOKEN.secret)


@given(st.text(max_size=300))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(WrongToken):
        decode(text)


@given(st.integers(0, len(TEXT) - 1), st.characters())
def test_a_changed_character_is_noticed_or_read_as_another_token(at: int, character: str) -> None:
    text = TEXT[:at] + character + TEXT[at + 1 :]
    if error := refused(text):
        assert TEXT.split(".")[4] not in error.message
    else:
        assert encode(decode(text)) == text.strip()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("x" * (MAX_TEXT + 1), "at most"),
        ("tthj2" + TEXT[5:], "release"),
        ("SWMTKN-1-abc", "no join token"),
        (TEXT.rsplit(".", 6)[0][:10], "cut off"),
        (TEXT.replace(".aebagbaf.", ".AEBAGBAF."), "token id cannot be read"),
        (TEXT.replace(".aebagbaf.", ".aebagba."), "token id"),
        (TEXT.replace(PIN.hex()[:16], "zz" * 8), "network id"),
        (TEXT + "," + ",".join(["192.0.2.1:1"] * 8), "addresses"),
        (TEXT + "\0", "port"),
        (TEXT.replace("192.0.2.1", "../192"), "no address"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(WrongToken, match=says) as caught:
        decode(text)
    assert caught.value.fix


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a:0", "a:70000", "::1:80", "a b:80", "a:080", "http://a:80", "a" * 260 + ":1"),
        *("a..b:80", ".a:80", "-a:80", "a" * 64 + ":80", "[a:b]:80", "[fe80::1%eth0]:80"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidInput, match="address") as caught:
        check_address(text)
    assert not isinstance(caught.value, WrongToken), "it need not be a token that names it"


@given(st.from_regex(r"[a-z.:-]{1,70}:80", fullmatch=True))
def test_what_is_one_can_be_dialled(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert parse(check_address(text)).port == 80
