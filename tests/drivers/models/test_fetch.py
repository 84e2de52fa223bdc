"""A blob from several hosts: whatever some of them do, it arrives right or not at all."""

import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from certificates import Network, home
from sources import Answer, Hosts, blob_of, head, shelf

import tetherd
from tetherd.drivers.models.drafts import Draft, Drafts
from tetherd.drivers.models.fetch import BulkClient, Fetched, FleetOrigin
from tetherd.drivers.models.link import Pace
from tetherd.drivers.tcp.mutual import dialling
from tetherd.errors import DigestMismatch, Unavailable
from tetherd.types import Credentials
from tetherd.wire.chunks import CHUNK, Blob, BlobSource, Ways
from tetherd.wire.manifest import digest_of

DATA = os.urandom(5 * CHUNK) + b"rest"
BLOB = blob_of(DATA)
UNLISTED = Blob(BLOB.digest, BLOB.size)
QUICK = Pace(connect=1.0, rate=64 * 1024, over=0.5, stuck=3.0)


@pytest.fixture
def client() -> BulkClient:
    context = dialling(home().node())
    return BulkClient(lambda: context, QUICK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "blob"


def right(start: int, end: int) -> bytes:
    return head(206, end - start, content_range=f"bytes {start}-{end - 1}/{len(DATA)}") + DATA[start:end]


def dies(connection, start, end) -> None:
    connection.sendall(right(start, end)[:10_000])
    raise ConnectionResetError


def lies(connection, start, end) -> None:
    good = right(start, end)
    connection.sendall(good[:-1] + bytes([good[-1] ^ 1]))


def drips(connection, start, end) -> None:
    good = right(start, end)
    while True:
        for at in range(len(good)):
            connection.sendall(good[at : at + 1])
            time.sleep(0.02)


def hangs(connection, start, end) -> None:
    connection.recv(1)


def truncates(connection, start, end) -> None:
    connection.sendall(
        head(206, end - start - 1, content_range=f"bytes {start}-{end - 1}/{len(DATA)}") + DATA[start:end]
    )


def shifts(connection, start, end) -> None:
    connection.sendall(head(206, end - start, content_range=f"bytes {start + 1}-{end}/{len(DATA)}") + DATA[start:end])


def displaces(connection, start, end) -> None:
    """Says what was asked for, and sends bytes from elsewhere that overlap it."""
    good = right(start, end)
    connection.sendall(good[: -(end - start)] + (DATA[1:] + DATA[:1])[start:end])


def overflows(connection, start, end) -> None:
    connection.sendall(right(start, end) + b"more than was announced")


def sends_all(connection, start, end) -> None:
    connection.sendall(head(200, len(DATA)) + DATA)


def babbles(connection, start, end) -> None:
    connection.sendall(b"\x00\xff" * 10_000)


def never_heads(connection, start, end) -> None:
    connection.sendall(b"HTTP/1.1 206 Partial\r\n" + b"x: y\r\n" * 20_000)


def redirects(connection, start, end) -> None:
    connection.sendall(head(302, 0, location="http://127.0.0.1:1/"))


def huge(connection, start, end) -> None:
    connection.sendall(head(206, 2**64, content_range=f"bytes {start}-{end - 1}/{2**64}") + DATA[start:end])


def counts(connection, start, end) -> None:
    connection.sendall(right(start, end).replace(b"length: ", b"length: " + b"9" * 5000, 1))


HOSTILE = [
    dies,
    lies,
    drips,
    hangs,
    truncates,
    shifts,
    displaces,
    sends_all,
    babbles,
    never_heads,
    redirects,
    huge,
    overflows,
]
HOSTILE += [sends_all, babbles, never_heads, redirects, huge, overflows, counts]


def test_one_source_gives_all_of_it(hosts: Hosts, client: BulkClient, path: Path) -> None:
    source = hosts.fair(shelf(DATA))
    found = client.fetch(Draft(BLOB, path), [source])
    assert found.bytes_from == {source.node: len(DATA)}
    assert found.banned == {}
    assert path.read_bytes() == DATA


def test_several_sources_share_the_work(hosts: Hosts, client: BulkClient, path: Path) -> None:
    sources = [hosts.fair(shelf(DATA)) for _ in range(3)]
    found = client.fetch(Draft(BLOB, path), sources)
    assert sum(found.bytes_from.values()) == len(DATA)
    assert len(found.bytes_from) >= 2
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_every_size(hosts: Hosts, client: BulkClient, path: Path, size: int) -> None:
    data = DATA[:size]
    client.fetch(Draft(blob_of(data), path), [hosts.fair(shelf(data))])
    assert path.read_bytes() == data


@pytest.mark.parametrize("answer", HOSTILE)
def test_a_source_that_breaks_its_word_costs_nothing_but_itself(
    hosts: Hosts, client: BulkClient, path: Path, answer: Answer
) -> None:
    fair, hostile = hosts.fair(shelf(DATA)), hosts.hostile(BLOB, answer)
    found = client.fetch(Draft(BLOB, path), [hostile, fair])
    assert path.read_bytes() == DATA
    assert found.bytes_from[fair.node] >= len(DATA) - 2 * CHUNK
    assert len(found.bytes_from) == 1 or answer is overflows
    if answer is drips:
        assert found.banned == {hostile.node: "sends less than 65,536 bytes a second"}
    if answer in (lies, displaces):
        assert found.banned == {hostile.node: "sent wrong bytes"}
        assert hosts.asked(hostile) <= 2  # once on each connection


@pytest.mark.parametrize("answer", HOSTILE)
@pytest.mark.parametrize("blob", [BLOB, UNLISTED], ids=["listed", "unlisted"])
def test_alone_it_gives_nothing_and_is_named(
    hosts: Hosts, client: BulkClient, path: Path, answer: Answer, blob: Blob
) -> None:
    hostile = hosts.hostile(blob, answer)
    with pytest.raises(Unavailable, match=hostile.node[:12]) as caught:
        client.fetch(Draft(blob, path), [hostile])
    assert list(caught.value.details["sources"]) == [hostile.node]
    stored = path.read_bytes()
    assert len(stored) == len(Draft(BLOB, path).have) * CHUNK  # nothing but chunks that are right
    assert not stored or answer is overflows


def test_a_source_that_dies_half_way_is_replaced(hosts: Hosts, client: BulkClient, path: Path) -> None:
    mortal, other, asked = hosts.fair(shelf(DATA)), hosts.fair(shelf(DATA)), threading.Event()

    class Watched(Draft):
        def put(self, index, data):
            if not asked.is_set():
                asked.set()
                hosts.kill(mortal)
            super().put(index, data)

    client.fetch(Watched(BLOB, path), [mortal, other])
    assert path.read_bytes() == DATA


def test_lines_that_break_in_every_chunk_are_good_enough(hosts: Hosts, client: BulkClient, path: Path) -> None:
    source = hosts.fair(shelf(DATA))
    line = hosts.badly(source, CHUNK * 2 // 3)
    found = client.fetch(Draft(BLOB, path), [BlobSource(source.node, line.address)])
    assert path.read_bytes() == DATA
    assert found.banned == {}
    assert line.cuts >= 5
    assert line.sent <= len(DATA) * 1.01 + line.cuts * CHUNK


def test_a_connection_that_falls_silent_is_replaced(hosts: Hosts, path: Path) -> None:
    """As when a host gets another address, or its router forgets: nobody is told, and nothing comes any more."""
    fell, context = threading.Event(), dialling(home().node())

    def falls(connection, start, end) -> None:
        if not fell.is_set() and start >= 2 * CHUNK:
            fell.set()
            connection.sendall(right(start, end)[: CHUNK // 2])
            connection.recv(1)
        else:
            connection.sendall(right(start, end))

    source = hosts.hostile(BLOB, falls)
    client = BulkClient(lambda: context, Pace(silent=0.5))
    found = client.fetch(Draft(BLOB, path), [source])
    assert fell.is_set()
    assert path.read_bytes() == DATA
    assert found == Fetched({source.node: len(DATA)}, {})


def test_a_line_that_breaks_at_once_is_given_up(hosts: Hosts, client: BulkClient, path: Path) -> None:
    source = hosts.fair(shelf(DATA))
    line = hosts.badly(source, 32 * 1024)
    with pytest.raises(Unavailable, match=source.node[:12]):
        client.fetch(Draft(BLOB, path), [BlobSource(source.node, line.address)])
    assert line.cuts <= 2 * 3 + 2


def test_a_source_that_moves_in_the_middle_is_followed(hosts: Hosts, path: Path) -> None:
    """The rest comes from its new address, and what it brought before stays."""
    member, context = home().node(), dialling(home().node())
    first, elsewhere = hosts.fair(shelf(DATA), credentials=member), hosts.fair(shelf(DATA), credentials=member)
    known, stored = [first.address], []

    class Watched(Draft):
        def put(self, index, data):
            stored.append(index)
            if len(stored) == 2:
                hosts.kill(first)
                known[:] = [elsewhere.address]
            super().put(index, data)

    client = BulkClient(lambda: context, QUICK, ways=lambda _: Ways(tuple(known)))
    found = client.fetch(Watched(BLOB, path), [first])
    assert path.read_bytes() == DATA
    assert sorted(stored) == list(range(len(BLOB)))  # every chunk once
    assert found.bytes_from == {member.node: len(DATA)}


def test_another_node_than_the_expected_one_is_not_believed(hosts: Hosts, client: BulkClient, path: Path) -> None:
    impostor = hosts.fair(shelf(DATA))
    with pytest.raises(Unavailable, match="another node"):
        client.fetch(Draft(BLOB, path), [BlobSource(home().node().node, impostor.address)])


def test_another_network_is_not_believed(hosts: Hosts, client: BulkClient, path: Path) -> None:
    foreign = Network("other").node()
    theirs = Credentials(foreign.node, foreign.key_pem, foreign.chain_pem, home().root.pem)
    with pytest.raises(Unavailable, match="certificate verify failed"):
        client.fetch(Draft(BLOB, path), [hosts.fair(shelf(DATA), credentials=theirs)])


def test_without_anybody_there_it_says_so_soon(hosts: Hosts, client: BulkClient, path: Path) -> None:
    began = time.monotonic()
    gone = BlobSource(home().node().node, "127.0.0.1:1")
    with pytest.raises(Unavailable, match="refused"):
        client.fetch(Draft(BLOB, path), [gone])
    empty = hosts.fair(shelf())
    with pytest.raises(Unavailable, match="answered 404"):
        client.fetch(Draft(BLOB, path), [empty])
    with pytest.raises(Unavailable, match="no source"):
        client.fetch(Draft(BLOB, path), [])
    assert time.monotonic() - began < 10


def test_what_others_have_so_far_is_used(hosts: Hosts, client: BulkClient, path: Path, tmp_path: Path) -> None:
    """Two hosts have half each, a third all but is refused to us until the halves are used up."""
    drafts = [Drafts(), Drafts()]
    for place, some in enumerate(drafts):
        draft = Draft(BLOB, tmp_path / f"part{place}")
        some.add(draft)
        for index in range(place, len(BLOB), 2):
            start, length = BLOB.span(index)
            draft.put(index, DATA[start : start + length])
    sources = [hosts.fair(shelf(), drafts=some) for some in drafts]
    found = client.fetch(Draft(BLOB, path), sources)
    assert path.read_bytes() == DATA
    assert set(found.bytes_from) == {source.node for source in sources}


def test_a_part_that_grows_is_asked_again(hosts: Hosts, client: BulkClient, path: Path, tmp_path: Path) -> None:
    drafts, draft = Drafts(), Draft(BLOB, tmp_path / "part")
    drafts.add(draft)
    source = hosts.fair(shelf(), drafts=drafts)

    def grow() -> None:
        for index in range(len(BLOB)):
            start, length = BLOB.span(index)
            draft.put(index, DATA[start : start + length])
            time.sleep(0.05)

    grower = threading.Thread(target=grow)
    grower.start()
    client.fetch(Draft(BLOB, path), [source])
    grower.join()
    assert path.read_bytes() == DATA


def test_hosts_that_wait_for_each_other_give_up(hosts: Hosts, client: BulkClient, path: Path, tmp_path: Path) -> None:
    drafts, draft = Drafts(), Draft(BLOB, tmp_path / "part")
    drafts.add(draft)
    draft.put(0, DATA[:CHUNK])
    with pytest.raises(Unavailable, match="no source has all of it"):
        client.fetch(Draft(BLOB, path), [hosts.fair(shelf(), drafts=drafts)])
    assert Draft(BLOB, path).have == {0}  # kept for the next time


def test_only_what_is_missing_is_fetched(hosts: Hosts, client: BulkClient, path: Path) -> None:
    path.write_bytes(DATA[: 2 * CHUNK] + b"damaged")
    found = client.fetch(Draft(BLOB, path), [hosts.fair(shelf(DATA))])
    assert sum(found.bytes_from.values()) == len(DATA) - 2 * CHUNK
    assert path.read_bytes() == DATA


def test_a_manifest_that_contradicts_itself_is_found_out(hosts: Hosts, client: BulkClient, path: Path) -> None:
    other = DATA[:-1] + b"!"
    mixed = Blob(BLOB.digest, len(other), blob_of(other).chunks)
    store = shelf(DATA)
    store._blobs[BLOB.digest] = other
    with pytest.raises(DigestMismatch, match="do not make up"):
        client.fetch(Draft(mixed, path), [hosts.fair(store)])
    assert path.read_bytes() == b""


def test_without_chunk_digests_the_whole_decides(hosts: Hosts, client: BulkClient, path: Path) -> None:
    hostile, empty, fair = hosts.hostile(BLOB, lies), hosts.fair(shelf()), hosts.fair(shelf(DATA))
    found = client.fetch(Draft(UNLISTED, path), [hostile, empty, fair])
    assert path.read_bytes() == DATA
    assert found.bytes_from == {fair.node: len(DATA)}
    assert found.banned == {hostile.node: "sent wrong bytes", empty.node: "answered 404"}


def test_a_full_disk_is_not_the_sources_fault(hosts: Hosts, client: BulkClient, path: Path) -> None:
    class Full(Draft):
        def put(self, index, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        client.fetch(Full(BLOB, path), [hosts.fair(shelf(DATA))])


def test_progress_is_told_and_threads_end(hosts: Hosts, client: BulkClient, path: Path) -> None:
    told: list[int] = []
    source = hosts.fair(shelf(DATA))
    client.fetch(Draft(BLOB, path), [source, hosts.hostile(BLOB, hangs)], progress=lambda: told.append(1))
    assert told
    fetching = {thread.name for thread in threading.enumerate() if "_work" in thread.name}
    assert not fetching


def test_a_document_comes_from_who_has_it_right(hosts: Hosts, client: BulkClient) -> None:
    text = b"a manifest"
    good, bad = shelf(text), shelf(text)
    bad._blobs[digest_of(text)] = b"another"
    sources = [hosts.fair(shelf()), hosts.fair(bad), hosts.fair(good)]
    assert client.document(digest_of(text), 100, sources) == text
    with pytest.raises(Unavailable, match="announced '10' bytes instead of 5"):
        client.document(digest_of(text), 5, sources[2:])
    with pytest.raises(Unavailable, match=r"404.*wrong bytes"):
        client.document(digest_of(text), 100, sources[:2])


def test_a_fetch_that_is_killed_goes_on_where_it_was(hosts: Hosts, tmp_path: Path) -> None:
    """kill -9, again and again: each time some more chunks are there, and nothing that is wrong."""
    data = os.urandom(24 * CHUNK)
    blob, member = blob_of(data), home().node()
    sources = [hosts.fair(shelf(data)) for _ in range(2)]
    target = tmp_path / "blob"
    task = tmp_path / "task"
    task.write_bytes(msgspec.msgpack.encode([blob, member, sources, str(target)]))
    kills, done = 0, b""
    while not done:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(task)],
            env={"PYTHONPATH": str(Path(tetherd.__file__).parents[1])},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        began = int(process.stdout.readline())
        while line := process.stdout.readline():
            if line == b"done\n":
                done = line
            elif int(line) >= began + 3 and kills < 4:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        process.stdout.close()
        process.wait()
        assert len(Draft(blob, target).have) >= began
    assert kills >= 2
    assert sha256(target.read_bytes()).digest() == sha256(data).digest()


CHILD = """
import sys, pathlib, msgspec
from tetherd.drivers.models.drafts import Draft
from tetherd.drivers.models.fetch import BulkClient
from tetherd.drivers.tcp.mutual import dialling
from tetherd.types import Credentials
from tetherd.wire.chunks import Blob, BlobSource
blob, member, sources, target = msgspec.msgpack.decode(
    pathlib.Path(sys.argv[1]).read_bytes(), type=tuple[Blob, Credentials, list[BlobSource], str])
context = dialling(member)
draft = Draft(blob, pathlib.Path(target))
print(len(draft.have), flush=True)
BulkClient(lambda: context).fetch(draft, sources, progress=lambda: print(len(draft.have), flush=True))
print("done", flush=True)
"""


def test_a_version_comes_from_the_fleet(hosts: Hosts, client: BulkClient, tmp_path: Path) -> None:
    source = hosts.fair(shelf(DATA, b"config"))
    origin = FleetOrigin(client, [source], lambda: None)
    assert origin.manifest(digest_of(b"config")) == b"config"
    assert origin.document(digest_of(b"config"), 6) == b"config"
    origin.bring(BLOB, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
