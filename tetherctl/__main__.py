"""``tetherctl``: answers --version before anything is imported, and turns every ending into an exit code."""

import sys


def main() -> int:
    """Run one command line; return its exit code. Never raises."""
    argv = sys.argv[1:]
    if argv in (["--version"], ["-V"]):
        return _version()
    try:
        from tetherctl.app import run

        return run(argv)
    except KeyboardInterrupt:  # while still importing
        return 130


def _version() -> int:
    from tetherd import __version__

    try:
        sys.stdout.write(f"tetherctl {__version__}\n")
        sys.stdout.flush()
    except (AttributeError, OSError):
        sys.stdout = None
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
