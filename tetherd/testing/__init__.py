"""An in-memory world: a whole cluster in one event loop, with time that passes only when nothing else is to be done.

simulate(main)      run a coroutine in simulated time: an hour of waiting takes no time at all
Cluster             a real orchestrator and real workers, their runners played by ``FakeRunner``
FakeEngine          a model that answers what it is asked to
Connection          calls as from another process, with a connection that can be cut
FakeManager         a catalog that the test publishes
FakeSurroundings    orchestrators that come and go, and sources that move
MemoryBlobs         content-addressed storage in dictionaries
ManualClock         time that stands still until the test moves it
"""

from tetherd.testing.bench import Bench
from tetherd.testing.blobs import MemoryBlobs
from tetherd.testing.cluster import Cluster, Connection, FakeManager, FakeSurroundings, request
from tetherd.testing.runners import FakeEngine, FakeLauncher, FakeRunner
from tetherd.testing.time import Deadlock, LoopClock, ManualClock, simulate, simulated

__all__ = [
    "Bench",
    "Cluster",
    "Connection",
    "Deadlock",
    "FakeEngine",
    "FakeLauncher",
    "FakeManager",
    "FakeRunner",
    "FakeSurroundings",
    "LoopClock",
    "ManualClock",
    "MemoryBlobs",
    "request",
    "simulate",
    "simulated",
]
