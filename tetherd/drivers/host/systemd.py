"""What systemd wants to know of a service, sent to the socket it names; says nothing when there is none."""

import asyncio
import os
import socket
from collections.abc import Mapping

from tetherd.types import Seconds


class Notifier:
    """Tells the service manager how this process is doing. A lost message is never an error of the service."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """``environ`` is the environment this process was started with."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._period = _period(environ) if self._address else None

    def ready(self) -> None:
        """Say that requests can be served."""
        self._send("READY=1")

    def stopping(self, deadline: Seconds) -> None:
        """Say that this process stops and may take ``deadline`` seconds for it."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(deadline * 1e6)}")

    def status(self, text: str) -> None:
        """Say in one line what this process is doing; ``systemctl status`` shows it."""
        self._send("STATUS=" + " ".join(text.split()))

    async def watchdog(self) -> None:
        """Show at half the period the manager asked for that the event loop still turns; return if it did not ask."""
        while self._period:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._period / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(message.encode(), self._address)
            except OSError:
                return


def _address(name: str) -> str:
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _period(environ: Mapping[str, str]) -> Seconds | None:
    # The variable names the process it is meant for, because children inherit it.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    period = environ.get("WATCHDOG_USEC", "")
    return int(period) / 1e6 if period.isascii() and period.isdigit() and int(period) > 0 else None
