"""The error tree: one class per cause, with a stable code that crosses the wire.

Each class fixes the HTTP status, the exit code of ``tetherctl`` and whether trying again can help; an error on the
wire is the value ``Failure`` and comes back as the same class on the other side.
"""

from typing import Any, ClassVar, Final, Self

import msgspec

MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what is expected. The last two are none of msgspec's own errors: text
that is no UTF-8, and what is nested without end."""


class Failure(msgspec.Struct, omit_defaults=True):
    """An error as a value: what crosses a process boundary."""

    code: str
    message: str
    fix: str = ""
    retryable: bool = False
    retry_after: float | None = None
    details: dict[str, Any] = {}


class TetherError(Exception):
    """Root of every error a user can meet. ``message`` says what and why; ``fix`` says what to do."""

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, fix: str = "", retry_after: float | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.retry_after = retry_after
        self.details = details or {}

    def failure(self) -> Failure:
        """Return this error as the value that crosses the wire."""
        return Failure(self.code, self.message, self.fix, self.retryable, self.retry_after, self.details)


class Internal(TetherError):
    """A bug in Tether, never the caller's fault."""


class InvalidInput(TetherError):
    """The caller sent something that can never work."""

    code = "INVALID_INPUT"
    status = 400
    exit_code = 2


class ModelNotFound(TetherError):
    """No model of that name."""

    code = "MODEL_NOT_FOUND"
    status = 404
    exit_code = 3


class VersionNotFound(TetherError):
    """The model exists, that version or alias does not."""

    code = "VERSION_NOT_FOUND"
    status = 404
    exit_code = 3


class BlobNotFound(TetherError):
    """No blob of that digest is stored here."""

    code = "BLOB_NOT_FOUND"
    status = 404
    exit_code = 3


class RouteNotFound(TetherError):
    """No such path."""

    code = "NOT_FOUND"
    status = 404
    exit_code = 3


class MethodNotAllowed(TetherError):
    """The path exists, but not for that verb."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    exit_code = 2


class Forbidden(TetherError):
    """The caller may not do this."""

    code = "FORBIDDEN"
    status = 403
    exit_code = 4


class PermissionDenied(Forbidden):
    """The calling node is no member of this network, or has no role that may call this."""

    code = "PERMISSION_DENIED"


class Conflict(TetherError):
    """The current state forbids it; ``details`` carries the state."""

    code = "CONFLICT"
    status = 409
    exit_code = 7


class OffsetConflict(Conflict):
    """An upload continued at the wrong place; ``details['offset']`` is the right one."""

    code = "UPLOAD_OFFSET"


class InUse(Conflict):
    """Another process holds what this one needs alone: a state directory, an address."""

    code = "IN_USE"


class WrongToken(InvalidInput):
    """A join token that is damaged, or that nobody issued."""

    code = "TOKEN_INVALID"


class TokenExpired(Forbidden):
    """A join token whose time is over."""

    code = "TOKEN_EXPIRED"


class TokenUsed(Conflict):
    """A join token that another host has used."""

    code = "TOKEN_USED"


class WrongNetwork(Forbidden):
    """Whoever answers belongs to another network, or this host does."""

    code = "WRONG_NETWORK"


class PinMismatch(Forbidden):
    """Whoever answers does not have the root key that the join token names."""

    code = "PIN_MISMATCH"
    exit_code = 11


class ClockSkew(Forbidden):
    """This host's clock and the network's are too far apart for certificates to be judged."""

    code = "CLOCK_SKEW"


class Revoked(Forbidden):
    """The node is no member of the network any more."""

    code = "REVOKED"


class NodeNotFound(TetherError):
    """No member of that id or name."""

    code = "NODE_NOT_FOUND"
    status = 404
    exit_code = 3


class NotInNetwork(Conflict):
    """This host is in no network, or does not hold its authority."""

    code = "NOT_IN_NETWORK"

    @classmethod
    def outside(cls) -> Self:
        """Return what to say where a host is asked for what only members have."""
        return cls("this host is in no network", fix="tetherctl cluster init, or tetherctl cluster join < token.txt")


class BadRoster(TetherError):
    """A list of members that the authority of the network did not sign, or that cannot be read."""

    code = "ROSTER_INVALID"
    status = 422
    exit_code = 11


class TooLarge(TetherError):
    """A body, file or tensor beyond the configured bound."""

    code = "TOO_LARGE"
    status = 413
    exit_code = 2


class HeadersTooLarge(TooLarge):
    """More headers, or longer ones, than a request may have."""

    code = "HEADERS_TOO_LARGE"
    status = 431


class BadRange(TetherError):
    """A range of bytes that is not there, or not one range."""

    code = "BAD_RANGE"
    status = 416
    exit_code = 2


class UnsupportedMedia(TetherError):
    """A format, encoding or content type that is not accepted."""

    code = "UNSUPPORTED_MEDIA"
    status = 415
    exit_code = 2


class ModelInvalid(TetherError):
    """The model's files are not a model that can be served."""

    code = "MODEL_INVALID"
    status = 422
    exit_code = 1


class DigestMismatch(TetherError):
    """Bytes that are not what their digest promised."""

    code = "DIGEST_MISMATCH"
    status = 422
    exit_code = 11


class QueueFull(TetherError):
    """Too much work is waiting for this model already."""

    code = "QUEUE_FULL"
    status = 429
    exit_code = 8
    retryable = True


class Unavailable(TetherError):
    """Nothing can serve this now."""

    code = "UNAVAILABLE"
    status = 503
    exit_code = 8
    retryable = True


class ModelUnloaded(Unavailable):
    """The model was unloaded on purpose."""

    code = "MODEL_UNLOADED"
    retryable = False


class ModelLoadFailed(Unavailable):
    """The model could not be loaded; the message carries the reason."""

    code = "MODEL_LOAD_FAILED"
    exit_code = 1
    retryable = False


class RunnerLost(Unavailable):
    """The runners that tried this request died, each attempt counted."""

    code = "RUNNER_LOST"


class Unreachable(Unavailable):
    """A process this one depends on does not answer."""

    code = "UNREACHABLE"
    exit_code = 5


class DeadlineExceeded(TetherError):
    """The request's time ran out."""

    code = "DEADLINE_EXCEEDED"
    status = 504
    exit_code = 6
    retryable = True


class RequestTimeout(TetherError):
    """The client was too slow in sending its request."""

    code = "REQUEST_TIMEOUT"
    status = 408
    exit_code = 6


class Cancelled(TetherError):
    """The caller went away."""

    code = "CANCELLED"
    status = 499
    exit_code = 130


class ExecutionFailed(TetherError):
    """The engine refused or failed on this input."""

    code = "EXECUTION_FAILED"
    status = 500
    exit_code = 1


class StorageFull(TetherError):
    """No room left on the disk."""

    code = "STORAGE_FULL"
    status = 507
    exit_code = 1


class StorageFailed(TetherError):
    """The disk or the ledger refused; nothing was acknowledged."""

    code = "STORAGE_FAILED"
    status = 500
    exit_code = 1


class Unimplemented(TetherError):
    """A method or protocol version this build does not know."""

    code = "UNIMPLEMENTED"
    status = 501
    exit_code = 1


class BadFrame(TetherError):
    """Bytes that are not a frame of our protocol."""

    code = "BAD_FRAME"
    status = 400
    exit_code = 1


class BadConfig(TetherError):
    """The configuration cannot be used; ``details['problems']`` lists every cause."""

    code = "BAD_CONFIG"
    status = 500
    exit_code = 78


def _tree(root: type[TetherError]) -> dict[str, type[TetherError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE = _tree(TetherError) | {Internal.code: Internal}


def revive(failure: Failure) -> TetherError:
    """Turn a failure received from another process back into the error it was."""
    kind = BY_CODE.get(failure.code, Internal)
    return kind(failure.message, fix=failure.fix, retry_after=failure.retry_after, details=failure.details)
