"""What one command works with: its settings, its output and a client of the daemon."""

import sys
from collections.abc import Mapping

from tetherctl.client import Client
from tetherctl.endpoint import find_endpoint
from tetherctl.errors import Declined, Usage
from tetherctl.output import Output, is_terminal
from tetherctl.settings import Settings


class Session:
    """Built once per command line; the connection is made when it is first needed."""

    def __init__(self, settings: Settings, env: Mapping[str, str], out: Output) -> None:
        self.settings = settings
        self.env = env
        self.out = out
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The one connection of this command. Raises Usage and Unreachable."""
        if self._client is None:
            self._client = self.connect()
        return self._client

    def connect(self, timeout: float | None = None) -> Client:
        """Return a further client of the same endpoint; ``timeout`` beats what the operator set."""
        return Client(find_endpoint(self.settings.endpoint, self.env), timeout or self.settings.timeout)

    def close(self) -> None:
        """Hang up."""
        if self._client:
            self._client.close()

    def require_yes(self, question: str, instead: str) -> None:
        """Go on only after a yes. Raises Usage where nobody can be asked; ``instead`` is what to type then."""
        if self.settings.no_input or self.out.machine or not is_terminal(sys.stdin):
            raise Usage("this needs a confirmation, and nobody can be asked", fix=instead)
        if not self.out.confirm(question):
            raise Declined("not confirmed; nothing was changed", fix=instead)
