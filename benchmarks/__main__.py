"""``python -m benchmarks`` and the name of a benchmark: measure, print, and leave no process behind."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bulk, contenders, dht, failover, fleet, garbage, memory, relay, serving
from benchmarks.load import WrongAnswer
from benchmarks.tether import NotReady
from benchmarks.workloads import NAMES

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; return 0 if everything ran and every figure that was measured passes, else 1."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that blocks end and take their servers with them
    with tempfile.TemporaryDirectory(prefix="tether-bench-") as name:
        folder = Path(name)
        try:
            if options.what == "serving":
                return _serving(options, folder)
            if options.what == "dht":
                figures = dht.run(options.rounds, options.count)
            elif options.what == "bulk":
                figures = bulk.run(folder, options.rounds)
            elif options.what in ("fleet", "garbage"):
                figures = {"fleet": fleet, "garbage": garbage}[options.what].run(folder, options.rounds)
            elif options.what == "memory":
                figures = memory.run(folder, options.cycles)
            else:
                figures = {"failover": failover, "relay": relay}[options.what].run(folder)
        except (NotReady, WrongAnswer, OSError) as error:
            print(f"FAILED {error!r}" if isinstance(error, OSError) else f"FAILED {error}")
            return 1
    return int(any(figure.verdict() == "MISS" for figure in figures))


def _serving(options: argparse.Namespace, folder: Path) -> int:
    cells = serving.QUICK if options.quick else serving.FULL
    plan = serving.Plan(
        cells={name: cells[name] for name in options.only or NAMES},
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds,
        idle=2.0 if options.quick else 5.0,
    )
    peers = contenders.peers()
    who = {} if options.peers_only else contenders.ours()
    who |= {name: peers[name] for name in options.peers}
    if options.peers:
        contenders.environment()
    found = serving.run(plan, list(who.values()), folder)
    figures = serving.show(found)
    print(f"\nwritten to {serving.save(found, figures, HERE / 'results')}")
    return int(bool(found.failures) or any(figure.verdict() == "MISS" for figure in figures))


def _parser() -> argparse.ArgumentParser:
    peers = list(contenders.peers())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="what", required=True)
    verb = verbs.add_parser("serving", help="throughput, latency, CPU, memory and start beside the peers")
    verb.add_argument("--quick", action="store_true", help="one round of the cells that decide the figures")
    verb.add_argument("--only", action="append", choices=NAMES, help="only this model (may be given again)")
    verb.add_argument("--rounds", type=int, help="rounds (3, with --quick 1)")
    verb.add_argument("--seconds", type=int, default=1, help="length of a cell, whole seconds (1)")
    verb.add_argument("--peers", nargs="*", choices=peers, default=peers, help="which peers take part (all)")
    verb.add_argument("--peers-only", action="store_true", help="leave Tether out")
    verbs.add_parser("failover", help="kill one of two runners under load")
    verb = verbs.add_parser("garbage", help="what 1,500 strangers at each port cost an application")
    verb.add_argument("--rounds", type=int, default=5)
    verbs.add_parser("relay", help="round trips and throughput of a relayed connection beside a direct one")
    verb = verbs.add_parser("memory", help="load and unload a model many times")
    verb.add_argument("--cycles", type=int, default=50)
    verb = verbs.add_parser("dht", help="announce and look up beside HyperDHT (needs node and npm)")
    verb.add_argument("--rounds", type=int, default=10)
    verb.add_argument("--count", type=int, default=20, help="operations a round")
    verb = verbs.add_parser("bulk", help="bring 512 MB to one manager and to three (links of their own need root)")
    verb.add_argument("--rounds", type=int, default=3)
    verb = verbs.add_parser("fleet", help="joining, losing a host, and what TLS costs (a silent host needs root)")
    verb.add_argument("--rounds", type=int, default=5)
    return parser


if __name__ == "__main__":
    sys.exit(main())
