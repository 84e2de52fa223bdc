"""What can go wrong on the operator's side, in the same tree as the daemon's errors.

``details["why"]`` holds the reason where it is worth a line of its own.
"""

from typing import Final

from tetherd.errors import Conflict, InvalidInput, TetherError, Unreachable


class Usage(InvalidInput):
    """The command line itself is wrong."""

    code = "USAGE"


class NotRunning(Unreachable):
    """No control socket exists where one is looked for, or nobody listens on the one that does."""

    code = "NOT_RUNNING"


class SocketDenied(Unreachable):
    """The control socket exists and this user may not use it."""

    code = "SOCKET_DENIED"
    exit_code = 4
    retryable = False


class NotAnswering(Unreachable):
    """Something accepted the connection and then said nothing in time."""

    code = "NOT_ANSWERING"


class ConnectionLost(Unreachable):
    """The connection broke before the answer was complete."""

    code = "CONNECTION_LOST"


class NotTether(Unreachable):
    """What answers there does not speak Tether's HTTP."""

    code = "NOT_TETHER"
    retryable = False


class Partial(TetherError):
    """Some of several targets failed; each was reported."""

    code = "PARTIAL"
    exit_code = 9
    retryable = True


class LocalConflict(Conflict):
    """A file on this machine is in the way."""

    code = "FILE_EXISTS"


class Declined(TetherError):
    """The question was not answered with yes."""

    code = "DECLINED"
    exit_code = 1


class LocalIO(TetherError):
    """A file on this machine cannot be read or written."""

    code = "LOCAL_IO"
    exit_code = 1


LOCAL: Final[tuple[type[TetherError], ...]] = (
    Usage,
    NotRunning,
    SocketDenied,
    NotAnswering,
    ConnectionLost,
    NotTether,
    Partial,
    LocalConflict,
    Declined,
    LocalIO,
)
"""The errors only ``tetherctl`` raises, for ``tetherctl help errors``."""
