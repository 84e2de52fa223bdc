"""The one place where sockets of nng are made and dial; what they carry: nng_operations.

NNG is not fork-safe: processes are started by ``subprocess``, never by ``fork``.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, Final

import pynng
from pynng import ffi, lib

from tetherd.drivers.rpc import silence
from tetherd.drivers.rpc.reaching import TLS, Secret
from tetherd.errors import BadConfig, Internal, PermissionDenied
from tetherd.types import Credentials, Seconds, is_node_id

_SETTLED: Final[Seconds] = 1.0
# nng waits for any part of it: whoever is back is dialled within a second, and who stays away costs next to nothing.
_RECONNECT_MS: Final = (100, 800)
# nng starts threads by the number of cores, and every message crosses two of them: on a small host, few threads that
# stay awake are faster than many that have to be woken (a lone request's round trip: 15 % less).
_THREADS: Final = (
    (lib.NNG_INIT_NUM_TASK_THREADS, 2),
    (lib.NNG_INIT_MAX_TASK_THREADS, 2),
    (lib.NNG_INIT_NUM_POLLER_THREADS, 1),
    (lib.NNG_INIT_MAX_POLLER_THREADS, 1),
    (lib.NNG_INIT_NUM_EXPIRE_THREADS, 1),
    (lib.NNG_INIT_MAX_EXPIRE_THREADS, 1),
)
for _parameter, _count in _THREADS:  # only before the first socket do they count
    lib.nng_init_set_parameter(_parameter, _count)

_log = logging.getLogger("tetherd.nng")

# REQ/REP puts up to this many bytes before the body, and they count against recv_max_size.
_PROTOCOL_HEADER: Final = 64


def open_req(max_message: int, node: str = "") -> Any:
    """Return a REQ socket that reports a lost connection instead of sending the request a second time.

    It keeps no connection but one to ``node`` (empty = this host).
    """
    socket: Any = pynng.Req0(resend_time=-1)
    # Unset, the size is unlimited and a length near 2^64 corrupts the heap; pynng swallows errors of the setter.
    wanted = max_message + _PROTOCOL_HEADER
    socket.recv_max_size = wanted
    socket.tcp_keepalive = True  # a host that vanished sends nothing, not even an end
    if socket.recv_max_size != wanted or not socket.tcp_keepalive:
        socket.close()
        raise Internal("nng did not take the limit on message size, or keepalive")
    socket.reconnect_time_min, socket.reconnect_time_max = _RECONNECT_MS
    guard(socket, lambda _, found: found == node)
    if node:
        socket.add_post_pipe_connect_cb(_bound_silence)
    return socket


def _tls(credentials: Credentials, name: str) -> Any:
    try:
        config = pynng.TLSConfig(
            pynng.TLSConfig.MODE_CLIENT,
            server_name=name,
            ca_string=credentials.roots_pem,
            own_key_string=credentials.key_pem,
            own_cert_string=credentials.chain_pem,
        )
        config.set_auth_mode(pynng.TLSConfig.AUTH_MODE_REQUIRED)
        pynng.check_err(lib.nng_tls_config_version(config._tls_config, lib.NNG_TLS_1_3, lib.NNG_TLS_1_3))
    except pynng.exceptions.NNGException as error:
        fix = "the key must be P-256 and belong to the certificate"
        raise BadConfig(f"this node's key, certificate or roots cannot be used: {error}", fix=fix) from None
    return config


def dial(socket: Any, address: str, secret: Secret | None = None) -> None:
    """Connect in the background, and again whenever the connection is lost; ``secret`` for ``tls+tcp://``."""
    if (secret is not None) != address.startswith(TLS):
        raise BadConfig(f"{address}: between hosts is {TLS} with credentials, within one is ipc:// or tcp:// without")
    if secret is not None:
        if not is_node_id(secret.node):
            raise BadConfig(f"cannot dial {address}: it is not said which node is meant")
        socket.tls_config = _tls(secret.credentials, f"{secret.node}.tether")
    try:
        socket.dial(address, block=False)
    except pynng.exceptions.NNGException as error:
        fix = f"addresses look like ipc:///path, tcp://127.0.0.1:7443 or {TLS}host:7443"
        raise BadConfig(f"cannot dial {address}: {error}", fix=fix) from None


def hang_up(socket: Any) -> None:
    """End the connection, if any, and every attempt to connect."""
    for dialer in socket.dialers:
        dialer.close()


def living(socket: Any) -> set[int]:
    """Return the ids of the connections that there are, and end those that are over.

    pynng lists them until it has told of their end, and nng some of those over TLS for ever.
    """
    found = set()
    for pipe in socket.pipes:
        with contextlib.suppress(pynng.exceptions.NNGException):
            if pipe.remote_address:
                found.add(pipe.id)
                continue
        _end(pipe)
    return found


def redial(socket: Any, address: str, secret: Secret | None = None) -> None:
    """Dial anew: nng waits long, or for ever, for a peer that accepts and says nothing, and stays as it was told."""
    hang_up(socket)
    with contextlib.suppress(BadConfig):  # closed, or short of something: there is a next time
        dial(socket, address, secret)


def node_of(pipe: Any) -> str:
    """Return the node id that the certificate at a connection's other end names; empty for ipc and loopback.

    Raises PermissionDenied where it names none. Nothing else of the certificate is asked for: nng never returns from
    some lists of alternative names.
    """
    listener, dialer = lib.nng_pipe_listener(pipe.pipe), lib.nng_pipe_dialer(pipe.pipe)
    if lib.nng_listener_id(listener) >= 0:
        address = _text(lib.nng_listener_get_string, listener, b"url")
    else:
        address = _text(lib.nng_dialer_get_string, dialer, b"url")
    if not address.startswith(TLS):
        return ""
    name = _text(lib.nng_pipe_get_string, pipe.pipe, b"tls-peer-cn")
    if not is_node_id(name):
        raise PermissionDenied(f"a certificate names {name[:80]!r}, which is no node")
    return name


def _text(get: Callable[..., int], holder: Any, option: bytes) -> str:
    pointer = ffi.new("char *[]", 1)
    if get(holder, option, pointer) or pointer[0] == ffi.NULL:
        raise PermissionDenied(f"a connection has no {option.decode()}")
    try:
        return bytes(ffi.string(pointer[0])).decode()
    finally:
        lib.nng_strfree(pointer[0])


def close_pipe(socket: Any, pipe: int) -> None:
    """Close one connection of the socket, if it is still there."""
    for found in socket.pipes:
        if found.id == pipe:
            _end(found)


def _end(pipe: Any) -> None:
    with contextlib.suppress(pynng.exceptions.NNGException):  # it has ended by itself
        pipe.close()


class _Second:
    """Looks at connections once more, a second after they began, and ends those that are over.

    Over TLS nng misses the end of a connection that ends the moment it begins, and takes it for one for ever.
    """

    def __init__(self) -> None:
        self._young: SimpleQueue[tuple[Seconds, Any]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def look_at(self, pipe: Any) -> None:
        self._young.put((time.monotonic() + _SETTLED, pipe))
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="second-look", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while True:
            self._judge(*self._young.get())

    def _judge(self, due: Seconds, pipe: Any) -> None:
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if remote_of(pipe) is None:
                _end(pipe)
        except Exception:
            _log.debug("a connection cannot be looked at", exc_info=True)


_second = _Second()


def guard(socket: Any, welcome: Callable[[int, str], bool]) -> None:
    """Close every connection of which ``welcome`` does not say yes, given its id and the node its certificate names.

    It is asked on nng's threads before a message of the connection is received, and once more after. A connection that
    cannot be asked about is closed: for nng an exception would be a yes.
    """

    def check(pipe: Any) -> str:
        try:
            if welcome(pipe.id, node := node_of(pipe)):
                return node
        except BaseException:
            _log.debug("a connection cannot be judged", exc_info=True)
        _end(pipe)
        return ""

    def check_again(pipe: Any) -> None:
        if check(pipe):
            _second.look_at(pipe)

    socket.add_pre_pipe_connect_cb(check)
    socket.add_post_pipe_connect_cb(check_again)


def _bound_silence(pipe: Any) -> None:
    with contextlib.suppress(pynng.exceptions.NNGException):  # it has ended by itself
        host, _, port = str(pipe.local_address).rpartition(":")
        silence.bound_from(host.strip("[]"), int(port))


def remote_of(pipe: Any) -> tuple[str, int] | None:
    """Return address and port at the other end of a TCP connection; None when it has ended."""
    try:
        host, _, port = str(pipe.remote_address).rpartition(":")
    except pynng.exceptions.NNGException:
        return None
    return host.strip("[]"), int(port)


def watch_pipes(
    socket: Any, loop: asyncio.AbstractEventLoop, gained: Callable[[int], None], lost: Callable[[int], None]
) -> None:
    """Have ``gained`` and ``lost`` called on the loop with the id of every connection that begins and ends."""

    def tell(callback: Callable[[int], None]) -> Callable[[Any], None]:
        def told(pipe: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(callback, pipe.id)

        return told

    socket.add_post_pipe_connect_cb(tell(gained))
    socket.add_post_pipe_remove_cb(tell(lost))


@contextlib.contextmanager
def closing(socket: Any) -> Iterator[Any]:
    """Close the socket at the end; operations under way finish with CLOSED."""
    try:
        yield socket
    finally:
        socket.close()
