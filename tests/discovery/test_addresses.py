import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.addresses import (
    MAX_DIALS,
    MAX_PER_NODE,
    Address,
    DialBudget,
    parse,
    refusal,
    sift,
)
from tetherd.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.168.1.5:7443", "192.168.1.5:7443"),
        ("[fd00::0005]:7443", "[fd00::5]:7443"),
        ("[FD00:0:0::5]:7443", "[fd00::5]:7443"),
        ("[::ffff:10.0.0.1]:7443", "10.0.0.1:7443"),
        ("box.example.org:7443", "box.example.org:7443"),
    ],
)
def test_addresses_have_one_form(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@pytest.mark.parametrize(
    "text",
    ["", ":7443", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4:7 443", "fd00::1:7443", "a b:7443",
     "1.2.3.4:٣", "-x:7443", "\0:7443", "a" * 300 + ":7443", "[fd00::1:7443"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:7443", "loopback"),
        ("127.8.8.8:7443", "loopback"),
        ("[::1]:7443", "loopback"),
        ("[::ffff:127.0.0.1]:7443", "loopback"),
        ("0.0.0.0:7443", "unspecified"),
        ("0.1.2.3:7443", "reserved"),
        ("[::]:7443", "unspecified"),
        ("224.0.0.251:7443", "multicast"),
        ("[ff02::fb]:7443", "multicast"),
        ("255.255.255.255:7443", "broadcast"),
        ("250.1.1.1:7443", "reserved"),
        ("169.254.169.254:7443", "metadata"),
        ("[::ffff:169.254.169.254]:7443", "metadata"),
        ("[fe80::1]:7443", "link-local"),
        ("[fec0::1]:7443", "link-local"),
        ("[fd00:ec2::254]:7443", "metadata"),
        ("100.100.100.200:7443", "metadata"),
        ("[64:ff9b::7f00:1]:7443", "hidden"),
        ("[2002:7f00:1::]:7443", "hidden"),
        ("[::7f00:1]:7443", "hidden"),
        ("10.0.0.1:22", "port 22"),
        ("10.0.0.1:1023", "port 1023"),
        ("localhost:7443", "a name"),
        ("metadata.google.internal:7443", "a name"),
        ("2130706433:7443", "a name"),
    ],
)
def test_discovery_never_leads_there(text: str, reason: str) -> None:
    assert reason in refusal(parse(text))
    sifted = sift([text])
    assert sifted.accepted == ()
    assert reason in sifted.refused[0].reason


@pytest.mark.parametrize("text", ["10.0.0.1:7443", "192.168.0.9:1024", "203.0.113.7:65535", "[2a00::1]:7443"])
def test_addresses_of_hosts_pass(text: str) -> None:
    assert refusal(parse(text)) == ""


@pytest.mark.parametrize("text", ["127.0.0.1:443", "localhost:7443", "169.254.3.4:7443", "box:22", "[::1]:7443"])
def test_the_operator_may_name_them(text: str) -> None:
    assert sift([text], trusted=True).accepted == (parse(text),)


def test_a_name_that_is_known_to_be_a_peers_is_looked_up() -> None:
    assert refusal(parse("box:7443"), names={"box"}) == ""
    assert "name" in refusal(parse("box:7443"), names={"other"})
    assert "port" in refusal(parse("box:22"), names={"box"})
    assert "loopback" in refusal(parse("127.0.0.1:7443"), names={"127.0.0.1"})


@pytest.mark.parametrize("text", ["0.0.0.0:7443", "[::]:7443", "224.0.0.1:7443", "255.255.255.255:7443"])
def test_even_the_operator_cannot_dial_everybody(text: str) -> None:
    assert sift([text], trusted=True).accepted == ()


def test_one_node_has_few_addresses_and_every_other_a_reason() -> None:
    texts = [f"10.0.0.{i}:7443" for i in range(1, 13)]
    sifted = sift([texts[0], *texts])
    assert [str(address) for address in sifted.accepted] == texts[:MAX_PER_NODE]
    assert [refused.text for refused in sifted.refused] == texts[MAX_PER_NODE:]
    assert all("more than" in refused.reason for refused in sifted.refused)


def test_a_list_without_end_is_not_read_to_its_end() -> None:
    def forever():  # type: ignore[no-untyped-def]
        while True:
            yield "x" * 10_000

    sifted = sift(forever())
    assert sifted.accepted == ()
    assert all(len(refused.text) <= 80 and len(refused.reason) <= 200 for refused in sifted.refused)


@given(
    st.lists(
        st.one_of(st.text(), st.ip_addresses().map(lambda ip: f"[{ip}]:7443" if ip.version == 6 else f"{ip}:7443"))
    )
)
def test_whatever_is_accepted_may_be_dialled(texts: list[str]) -> None:
    sifted = sift(texts)
    assert len(sifted.accepted) <= MAX_PER_NODE
    for address in sifted.accepted:
        assert refusal(address) == ""
        assert parse(str(address)) == address


@given(st.lists(st.floats(0, 10), max_size=200))
def test_dials_are_counted_in_every_window(pauses: list[float]) -> None:
    budget, now, dials = DialBudget(), 0.0, []
    for pause in pauses:
        now += pause
        wait = budget.wait(now)
        taken = budget.take(now)
        assert taken == (wait == 0)
        if taken:
            dials.append(now)
        assert len([dial for dial in dials if dial > now - 60]) <= MAX_DIALS


def test_a_minute_has_room_for_so_many_dials() -> None:
    budget = DialBudget()
    assert [budget.take(0.0) for _ in range(MAX_DIALS + 1)] == [True] * MAX_DIALS + [False]
    assert budget.wait(45.0) == 15.0
    assert not budget.take(59.9)
    assert budget.take(60.0)


def test_other_ports_of_a_host() -> None:
    assert Address("fd00::1", 7443).at(7445) == Address("fd00::1", 7445)


def test_on_a_host_of_its_own_a_fleet_is_on_loopback() -> None:
    assert sift(["127.0.0.1:7443", "[::1]:7443"], loopback=True).refused == ()
    assert sift(["127.0.0.1:22", "169.254.169.254:7443", "localhost:7443"], loopback=True).accepted == ()
