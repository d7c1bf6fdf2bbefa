"""Where the `cleanroom` program begins.

Lives here: what must hold before anything large is imported: signals that end the program, and open streams.
Add here when something has to be so early.
Keep out: every import that takes time.
"""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command; a signal while it is still loading ends it at once, with 130 or 143 and without a word."""
    _open_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)
    from cleanroom_pipelines.cli.main import main as run

    run()


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


def _open_streams() -> None:
    """Let no file that is opened later take the place of a standard stream that was closed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


if __name__ == "__main__":
    main()
