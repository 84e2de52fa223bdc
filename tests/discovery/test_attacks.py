"""What hostile strangers, and hostile holders of the network key, can do to a node: nothing that lasts.

The attacks on the hash table, multicast and relays, by number, wherever they are tried.

92  a bad signature: refused
        test_a_bad_signature_is_refused
93  a record that expired: refused
        test_times_and_numbers_out_of_bounds_are_refused
94  an older number: refused
        test_an_older_record_does_not_replace_a_newer_one
95  the largest number: refused; it may grow by 2^20 a day
        test_times_and_numbers_out_of_bounds_are_refused
96  an hour ahead: refused; five minutes are forgiven
        test_times_and_numbers_out_of_bounds_are_refused
97  another network: refused
        test_a_record_of_another_network_is_refused
98  a record of 1 MB: refused
        test_a_huge_record_fits_no_datagram_and_a_large_one_no_store
99  a million records for one key: 20 kept, 10,000 in all, the nearest
        test_a_million_records_fill_no_more_than_their_share
100  addresses that lead elsewhere: never dialled
        tests/discovery/test_addresses.py::test_discovery_never_leads_there
101  1,000 invented nodes near a key: what was announced is found
        test_a_thousand_invented_nodes_near_a_key_hide_nothing
102  amplification: no answer is longer than its request
        test_no_answer_is_longer_than_the_request_of_an_unverified_source
103  floods of multicast: bounded memory, live peers stay
        tests/drivers/discovery/test_mdns.py::test_a_flood_costs_little_and_drops_no_live_peer
104  two nodes of one id: whoever proves the key wins, with an alarm
        test_a_claimed_id_is_not_believed_without_its_key
105  a relay that tampers, replays, reorders: the connection ends
        tests/drivers/relay/test_relay_tls.py::test_a_relay_that_changes_anything_breaks_the_connection
106  a relay as an open proxy: refused
        tests/roles/test_relay.py::test_only_members_ask_and_only_members_are_led_to
107  a router that forgets its mappings: new connections within 6 s, no request fails (routers_forget_their_connections)
        tests/lab/test_network.py::test_a_small_network_outlives_that
"""

import tracemalloc
from hashlib import sha256

import pytest
from world import EPOCH, KEY, NETWORK, Pretender, World, pretended, rules

from tetherd.discovery.contacts import Address
from tetherd.discovery.exchange import Conflict
from tetherd.discovery.ids import number
from tetherd.discovery.limits import BURST
from tetherd.discovery.store import MAX_RECORDS, PER_KEY, STRIDE, Store
from tetherd.wire.datagrams import (
    MAX_DATAGRAM,
    NONCE,
    OVERHEAD,
    PROVE,
    SERVES,
    Answer,
    Ask,
    Code,
    Keyring,
    Ping,
    Put,
    Seek,
    decode,
    encode,
    hello,
    padded,
)
from tetherd.wire.records import ANNOUNCEMENT, IMMUTABLE, BadRecord, Body, Record, read, write
from tetherd.wire.signatures import identify

TOPIC = sha256(b"topic").digest()
NOW = int(EPOCH)


class Insider:
    """Somebody who holds the network key and says what it likes from an address of its own."""

    def __init__(self, world: World, address: Address = ("10.9.9.9", 7443), network: str = NETWORK) -> None:
        self.world = world
        self.address = address
        self.signer = Pretender(b"%r" % (address,))
        self.id = identify(self.signer.public)
        self.keyring = Keyring(network, {1: KEY})
        self.count = int(EPOCH * 1e6)
        world.taps[address] = []

    def seal(self, body: Ping | Seek | Put, **other: object) -> bytes:
        """Return a request as a datagram; ``other`` replaces fields of it."""
        self.count += 1
        sent = int((EPOCH + self.world.now) * 1000)
        ask = Ask(self.world.random.randbytes(8), self.id, 0, self.count, sent, b"", body)
        for name, value in other.items():
            setattr(ask, name, value)
        plain = encode(ask) if ask.token or other.get("pad") == b"" else padded(ask)
        return self.keyring.seal(plain, self.world.random.randbytes(NONCE), 1)

    def say(self, to: Address, data: bytes) -> list[Answer]:
        """Send a datagram; return what comes back."""
        heard = self.world.taps[self.address]
        heard.clear()
        self.world.send(data, self.address, to)
        self.world.run(0.1)
        messages = [decode(self.keyring.open(each)[1]) for each in heard]
        return [each for each in messages if isinstance(each, Answer)]

    def put(self, to: Address, record: Record | bytes, **other: object) -> Code:
        """Fetch a token and have a record kept; return what came of it."""
        token = self.say(to, self.seal(Ping()))[0].token
        blob = record.blob if isinstance(record, Record) else record
        return Code(self.say(to, self.seal(Put(blob), token=token, **other))[0].code)


def announcement(signer: Pretender, network: str = NETWORK, **other: object) -> Record:
    fields = {"name": TOPIC, "public": signer.public, "seq": NOW, "issued": NOW, "ttl": 600, "value": b"x", **other}
    return write(Body(ANNOUNCEMENT, **fields), signer, network)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World(seed=7)


@pytest.fixture
def victim(world: World) -> Address:
    return world.add()


@pytest.fixture
def insider(world: World) -> Insider:
    return Insider(world)


def test_a_stranger_gets_no_answer(world: World, victim: Address, insider: Insider) -> None:
    insider.keyring = Keyring(NETWORK, {1: b"guessed!" * 4})
    world.send(insider.seal(Ping()), insider.address, victim)
    for length in (0, 1, OVERHEAD, 900, MAX_DATAGRAM, MAX_DATAGRAM + 1, 65507):
        world.send(world.random.randbytes(length), insider.address, victim)
    world.run(1)
    assert not world.taps[insider.address]
    assert world.counters(victim)["dropped.forged"] == 1
    assert world.counters(victim)["dropped.size"] == 4


def test_another_network_is_told_by_its_tag(world: World, victim: Address) -> None:
    other = Insider(world, network="ffff0000ffff0000")
    assert not other.say(victim, other.seal(Ping()))
    assert world.counters(victim)["dropped.network"] == 1


def test_a_bad_signature_is_refused(victim: Address, insider: Insider, world: World) -> None:
    good = announcement(insider.signer)
    for position in range(0, len(good.blob), 7):
        bad = bytearray(good.blob)
        bad[position] ^= 1
        assert insider.put(victim, bytes(bad)) == Code.INVALID
    assert not len(world.nodes[victim].exchange.store)
    assert world.counters(victim)["record.signature"]


def test_a_record_of_another_network_is_refused(victim: Address, insider: Insider) -> None:
    assert insider.put(victim, announcement(insider.signer, network="ffff0000ffff0000")) == Code.INVALID


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"issued": NOW - 700}, Code.EXPIRED),
        ({"issued": NOW + 3600}, Code.CLOCK),
        ({"issued": NOW + 200}, Code.OK),
        ({"seq": 2**63 - 1}, Code.SEQ_FAR),
        ({"seq": 0}, Code.OK),
        ({"ttl": 7200}, Code.OK),
    ],
)
def test_times_and_numbers_out_of_bounds_are_refused(
    victim: Address, insider: Insider, fields: dict[str, int], code: Code
) -> None:
    assert insider.put(victim, announcement(insider.signer, **fields)) == code


def test_an_older_record_does_not_replace_a_newer_one(victim: Address, insider: Insider) -> None:
    assert insider.put(victim, announcement(insider.signer, seq=NOW)) == Code.OK
    assert insider.put(victim, announcement(insider.signer, seq=NOW - 1)) == Code.SEQ_LOW
    assert insider.put(victim, announcement(insider.signer, seq=NOW, value=b"y")) == Code.SEQ_REUSED
    assert insider.put(victim, announcement(insider.signer, seq=NOW + STRIDE + 1)) == Code.SEQ_FAR
    assert insider.put(victim, announcement(insider.signer, seq=NOW + STRIDE)) == Code.OK


def test_what_was_taken_back_is_not_brought_back(victim: Address, insider: Insider, world: World) -> None:
    first = announcement(insider.signer, seq=NOW, ttl=7200)
    assert insider.put(victim, first) == Code.OK
    assert insider.put(victim, announcement(insider.signer, seq=NOW + 1, gone=True, value=b"", ttl=60)) == Code.OK
    world.run(100)
    assert insider.put(victim, first) == Code.SEQ_LOW
    assert not world.lookup(victim, TOPIC)


def test_a_huge_record_fits_no_datagram_and_a_large_one_no_store(victim: Address, insider: Insider) -> None:
    assert insider.put(victim, bytes(1033)) == Code.INVALID
    assert insider.put(victim, b"\x92" * 1000) == Code.INVALID
    with pytest.raises(BadRecord) as refused:
        read(announcement(insider.signer).blob + bytes(2**20), NETWORK, pretended)
    assert refused.value.reason == "oversize"


def test_no_key_holds_more_than_its_share(victim: Address, insider: Insider, world: World) -> None:
    for index in range(3 * PER_KEY):
        assert insider.put(victim, announcement(Pretender(b"%d" % index))) == Code.OK
    store = world.nodes[victim].exchange.store
    assert len(store) == len(store.find(ANNOUNCEMENT, TOPIC, EPOCH)) == PER_KEY


@pytest.mark.parametrize("count", [30_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_million_records_fill_no_more_than_their_share(count: int) -> None:
    store = Store(sha256(b"own").digest())
    crowd = [Pretender(b"%d" % index).public for index in range(1000)]
    owners = [identify(public) for public in crowd]
    tracemalloc.start()
    for index in range(count):
        # One key has the half of them; the others have keys everywhere. Proven they are before they come here.
        name = TOPIC if index % 2 else sha256(b"%d" % (index // 40)).digest()
        owner = owners[index // 2 % 1000]
        body = Body(ANNOUNCEMENT, name, crowd[index // 2 % 1000], NOW, NOW, 600, b"x")
        store.put(Record(body, name, owner, b"blob"), EPOCH)
        assert len(store) <= MAX_RECORDS
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()
    assert len(store.find(ANNOUNCEMENT, TOPIC, EPOCH)) <= PER_KEY
    held = {number(key) ^ store._own for _, key in store._places}
    others = {number(sha256(b"%d" % (index // 40)).digest()) ^ store._own for index in range(0, count, 2)} | {
        number(TOPIC) ^ store._own
    }
    assert held == set(sorted(others)[: len(held)]), "those of the nearest keys are kept"


def test_records_of_strangers_to_the_roster_are_refused(world: World, insider: Insider) -> None:
    victim = world.add(who=rules(member=lambda node: node == insider.id))
    assert insider.put(victim, announcement(Pretender(b"nobody"))) == Code.STRANGER
    assert insider.put(victim, announcement(insider.signer)) == Code.OK


def test_nothing_is_stored_without_a_token(victim: Address, insider: Insider, world: World) -> None:
    record = announcement(insider.signer)
    answer = insider.say(victim, insider.seal(Put(record.blob)))[0]
    assert answer.code == Code.UNVERIFIED
    other = Insider(world, ("10.9.9.8", 7443))
    assert other.say(victim, other.seal(Put(record.blob), token=answer.token))[0].code == Code.UNVERIFIED
    assert not len(world.nodes[victim].exchange.store)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("body", [Ping(), Seek(TOPIC), Seek(TOPIC, ANNOUNCEMENT), Put(b"x" * 300)])
def test_no_answer_is_longer_than_the_request_of_an_unverified_source(
    world: World, insider: Insider, body: Ping | Seek | Put, full: bool
) -> None:
    alive = world.grow(20)
    world.run(2)
    for index in range(5):
        assert insider.put(alive[0], announcement(Pretender(b"%d" % index), value=bytes(200))) == Code.OK
    data = insider.seal(body, flags=PROVE) if full else insider.seal(body, flags=PROVE, pad=b"")
    assert (len(data) == MAX_DATAGRAM) == full
    world.taps[insider.address].clear()
    world.send(data, insider.address, alive[0])
    world.run(0.1)
    answered = world.taps[insider.address]
    assert all(len(each) <= len(data) for each in answered)
    assert len(answered) == (0 if type(body) is Ping and not full else 1)


def test_a_replayed_request_is_heard_once(victim: Address, insider: Insider, world: World) -> None:
    data = insider.seal(Ping())
    assert len(insider.say(victim, data)) == 1
    assert not insider.say(victim, data)
    assert world.counters(victim)["dropped.replayed"] == 1


@pytest.mark.parametrize("off", [-3600, 3600])
def test_a_request_of_another_time_is_not_heard(victim: Address, insider: Insider, world: World, off: int) -> None:
    assert not insider.say(victim, insider.seal(Ping(), sent=int((EPOCH + off) * 1000)))
    assert world.counters(victim)["dropped.clock"] == 1


def test_a_flood_is_cut_and_others_are_still_heard(victim: Address, insider: Insider, world: World) -> None:
    node = world.nodes[victim]
    for _ in range(int(3 * BURST)):
        node.receive(insider.seal(Ping()), insider.address, world.now)
    assert world.counters(victim)["dropped.flood"] >= BURST
    node.exchange.outbox.clear()
    other = Insider(world, ("10.9.9.8", 7443))
    assert other.say(victim, other.seal(Ping()))


def test_an_answer_nobody_asked_for_changes_nothing(victim: Address, insider: Insider, world: World) -> None:
    near = b"".join(world.random.randbytes(32) + b"\x0a\x09\x09\x09\x1d\x13" for _ in range(8))
    answer = Answer(bytes(8), insider.id, SERVES, b"", b"", near4=near)
    world.send(insider.keyring.seal(encode(answer), bytes(NONCE), 1), insider.address, victim)
    world.run(1)
    assert world.counters(victim)["dropped.unexpected"] == 1
    assert not len(world.nodes[victim].exchange.table)


def test_a_claimed_id_is_not_believed_without_its_key(world: World, insider: Insider) -> None:
    alive = world.grow(6)
    world.run(2)
    target = world.nodes[alive[0]].exchange
    claimed = world.nodes[alive[3]].exchange.id
    honest = next(peer.address for peer in target.table if peer.id == claimed)
    asks = insider_answers(world, insider, alive[0], claimed)
    assert asks, "it was greeted, to prove its id"
    assert next(peer.address for peer in target.table if peer.id == claimed) == honest
    assert any(isinstance(each, Conflict) and not each.proven for each in world.events[alive[0]])
    assert world.counters(alive[0])["dropped.unproven"]


def insider_answers(world: World, insider: Insider, victim: Address, claimed: bytes) -> list[Ask]:
    """Claim an id, and answer the greeting with a proof made with another key."""
    world.taps[insider.address].clear()
    world.send(insider.seal(Ping(), sender=claimed, flags=SERVES), insider.address, victim)
    world.run(0.1)
    messages = [decode(insider.keyring.open(each)[1]) for each in world.taps[insider.address]]
    asks = [each for each in messages if isinstance(each, Ask)]
    for ask in asks:
        answer = Answer(ask.tid, claimed, SERVES, bytes(8), b"")
        world.send(insider.keyring.seal(encode(answer), world.random.randbytes(NONCE), 1), insider.address, victim)
    world.run(0.1)
    return asks


def test_two_holders_of_one_key_raise_an_alarm(world: World) -> None:
    alive = world.grow(4)
    world.run(2)
    twin = world.add(alive[:1])
    copied = world.nodes[alive[2]]
    world.nodes[twin] = type(copied)(copied._signer, copied.exchange.keyring, rules(), world.random.randbytes)
    world.nodes[twin].tick(world.now, EPOCH)
    world.nodes[twin].join(alive[:1], (), world.now)
    world.settle(twin)
    world.run(5)
    alarms = [each for each in world.events[alive[0]] if isinstance(each, Conflict)]
    assert any(each.proven and each.node == copied.exchange.id for each in alarms)
    assert alive[2] in {peer.address for peer in world.nodes[alive[0]].exchange.table}


def test_a_thousand_invented_ids_near_a_key_hide_nothing(world: World) -> None:
    members: set[bytes] = set()
    who = rules(member=lambda node: node in members)
    alive = []
    for _ in range(20):
        alive.append(world.add(alive[:2], who))
        members.add(world.nodes[alive[-1]].exchange.id)
    world.run(3)
    liar = Liar(world, alive[5])
    asked = world.taps["10.8.8.8", 7443] = []
    world.announce(alive[3], TOPIC)
    assert [each.owner for each in world.lookup(alive[12], TOPIC)] == [world.nodes[alive[3]].exchange.id]
    assert liar.named >= 1000
    assert not asked, "who is no member is not even asked"


def test_a_seed_that_is_no_member_is_not_believed(world: World) -> None:
    stranger = world.add()
    node = world.add([stranger], rules(member=lambda _: False))
    world.run(5)
    assert world.counters(node)["dropped.stranger"]
    assert not len(world.nodes[node].exchange.table)


def test_a_thousand_invented_nodes_near_a_key_hide_nothing(world: World) -> None:
    """They hold the network's key and keys of their own, answer everybody, and are members of nothing."""
    members: set[bytes] = set()
    who = rules(member=lambda node: node in members)
    alive = []
    for _ in range(20):
        alive.append(world.add(alive[:2], who))
        members.add(world.nodes[alive[-1]].exchange.id)
    crowd = [world.add(alive[:2]) for _ in range(1000)]
    target = number(TOPIC)
    near = sorted(crowd, key=lambda each: number(world.nodes[each].exchange.id) ^ target)
    world.run(2)
    for each in near[:100]:
        world.nodes[each].exchange._responder._store.find = lambda *_: []  # type: ignore[method-assign]
    world.announce(alive[3], TOPIC)
    assert [each.owner for each in world.lookup(alive[12], TOPIC)] == [world.nodes[alive[3]].exchange.id]
    assert {peer.id for peer in world.nodes[alive[12]].exchange.table} <= members
    kept = [each for each in alive if len(world.nodes[each].exchange.store)]
    assert kept
    assert not any(len(world.nodes[each].exchange.store) for each in crowd)


class Liar:
    """Makes a member of the network name only ids that it invented, all nearer to any key than anyone can be."""

    def __init__(self, world: World, address: Address) -> None:
        self.named = 0
        self._responder = world.nodes[address].exchange._responder
        self._honest = self._responder.answer
        self._responder.answer = self._lie  # type: ignore[method-assign]

    def _lie(self, ask: Ask, source: Address, length: int, now: float, wall: float) -> tuple[Answer, bool]:
        answer, verified = self._honest(ask, source, length, now, wall)
        if isinstance(ask.body, Seek):
            self.named += 1000
            answer.records = []
            near, where = ask.body.target[:31], b"\x0a\x08\x08\x08\x1d\x13"
            answer.near4 = b"".join(near + bytes([index]) + where for index in range(8))
        return answer, verified


def test_a_proof_made_for_somebody_else_proves_nothing() -> None:
    signer = Pretender(b"x")
    mine = signer.sign(hello(NETWORK, b"t" * 8, b"a" * 32, identify(signer.public)))
    assert not pretended(signer.public, mine, hello(NETWORK, b"t" * 8, b"b" * 32, identify(signer.public)))
    assert not pretended(signer.public, mine, hello(NETWORK, b"u" * 8, b"a" * 32, identify(signer.public)))


def test_a_search_takes_nothing_that_lies_elsewhere(world: World) -> None:
    alive = world.grow(10)
    world.run(2)
    insider = Insider(world)
    stray = announcement(insider.signer, name=bytes(32))
    immutable = write(Body(IMMUTABLE, value=b"v"), insider.signer, NETWORK)
    for address in alive:
        responder = world.nodes[address].exchange._responder
        responder._store.page = lambda *_: ([stray.blob, immutable.blob, b"junk"], False)  # type: ignore[method-assign]
        responder._store.find = lambda *_: [stray]  # type: ignore[method-assign]
    world.nodes[alive[4]].exchange._responder._store.find = lambda *_: []  # type: ignore[method-assign]
    assert not world.lookup(alive[4], TOPIC)
    assert world.counters(alive[4])["record.unfit"]
    assert world.counters(alive[4])["record.malformed"]


def test_a_stranger_to_the_roster_gets_no_answer_though_it_holds_the_network_key(
    world: World, insider: Insider
) -> None:
    victim = world.add(who=rules(member=lambda node: node != insider.id))
    assert not insider.say(victim, insider.seal(Ping()))
    assert world.counters(victim)["dropped.stranger"] == 1


def test_an_answer_in_the_name_of_another_node_is_dropped(world: World) -> None:
    alive = world.grow(3)
    world.run(2)
    liar = world.nodes[alive[1]].exchange
    liar._responder._own = bytes(32)
    asker = world.nodes[alive[0]].exchange
    peer = next(each for each in asker.table if each.id == liar.id)
    world.lookup(alive[0], TOPIC)
    assert world.counters(alive[0])["dropped.impostor"]
    assert peer.failures
