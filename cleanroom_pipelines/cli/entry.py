"""Entry point of the `cleanroom` program.

Lives here: setup that must happen before slow imports: signal handlers and standard streams.
Add here when something else must happen before slow imports.
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
    """Open /dev/null for standard streams that are closed, so that no other file gets their descriptors."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open() returns the lowest free descriptor: this one


if __name__ == "__main__":
    main()
