"""Entry point of the `cleanroom` program.

Lives here: setup that must happen before any large import: signal handlers and standard streams.
Add here when something has to happen this early.
Keep out: every import that takes time.
"""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command. A signal during loading ends it at once and silently, with exit code 130 or 143."""
    _open_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)
    from cleanroom_pipelines.cli.main import main as run

    run()


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


def _open_streams() -> None:
    """Open /dev/null for closed standard streams, so that no later file gets one of their descriptors."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open() returns the lowest free descriptor: this one


if __name__ == "__main__":
    main()
