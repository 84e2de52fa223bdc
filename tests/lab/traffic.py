"""Requests of a real client library, sent from a host without a pause while its network is broken and mended.

Run as a program it takes the gateway's address and how many clients to be, prints one JSON line for each answer, and
ends with its standard input.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from namespaces import Namespace

DIGITS: Final = Path(__file__).parents[2] / "models/digits"

PATIENCE: Final = 30.0
"""Seconds after which a request counts as lost, and a process as stuck."""


@dataclass(frozen=True)
class Answer:
    """When it came (monotonic), how long it took, and what was wrong with it; empty: it was right."""

    ended: float
    took: float
    error: str


class Traffic:
    """Clients on a host that ask its gateway for the digits model; as a context, until the end of it."""

    def __init__(self, space: Namespace, address: str, clients: int = 4) -> None:
        self.answers: list[Answer] = []
        words, pipe = [sys.executable, __file__, address, str(clients)], subprocess.PIPE
        self._process = space.call(lambda: subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error:
            self._process.kill()
        code = self.end()
        assert error or code == 0, f"the clients ended with {code}"

    def end(self) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._reader.join()
        self._process.stdout.close()
        return self._process.wait(PATIENCE)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.answers.append(Answer(*json.loads(line)))

    def wait(self, count: int = 50) -> None:
        """Wait for so many right answers to requests that end from now on."""
        began = time.monotonic()
        while sum(not one.error and one.ended > began for one in list(self.answers)) < count:
            assert self._process.poll() is None, "the clients ended"
            assert time.monotonic() < began + PATIENCE, f"too few right answers; the last: {self.answers[-3:]}"
            time.sleep(0.01)

    def errors(self) -> list[str]:
        return [one.error for one in self.answers if one.error]

    def longest_gap(self) -> float:
        """Return the longest time, in seconds, without a right answer."""
        ends = sorted(one.ended for one in self.answers if not one.error)
        return max(after - before for before, after in itertools.pairwise(ends))


# --- the program ---------------------------------------------------------------------------------------------------


async def _ask(client: Any, image: Any, label: int) -> str:
    """Send one request, and return what was wrong with its answer."""
    import aiohttp
    from tritonclient.utils import InferenceServerException

    try:
        async with asyncio.timeout(PATIENCE):
            answer = await client.infer("digits", [image])
    except (InferenceServerException, aiohttp.ClientError, OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if list(answer.as_numpy("label")) == [label] else f"it is no {answer.as_numpy('label')}"


async def _work(address: str, ended: asyncio.Event) -> None:
    import numpy as np
    import tritonclient.http.aio as triton

    pixels = np.array(json.loads((DIGITS / "example.json").read_text())["inputs"]["pixels"], np.float32)
    (label,) = json.loads((DIGITS / "expected.json").read_text())["outputs"]["label"]
    image = triton.InferInput("pixels", list(pixels.shape), "FP32")
    image.set_data_from_numpy(pixels)
    async with triton.InferenceServerClient(address) as client:
        while not ended.is_set():
            began = time.monotonic()
            error = await _ask(client, image, label)
            now = time.monotonic()
            print(json.dumps([now, now - began, error]), flush=True)
            if error:
                await asyncio.sleep(0.01)


async def _main(address: str, clients: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await asyncio.gather(*(_work(address, ended) for _ in range(clients)))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
