"""The overlap of a room: how many of the advertiser's customers are among the publisher's users.

Lives here: asking for the overlap, and its figures.
Add here when an answer about the overlap has another figure.
Keep out: paying and the state of questions (`asking.py`).
"""

from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.pages.asking import Asking
from cleanroom_pipelines.media.protocol import JobKind
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import Permission

_PATH = "/rooms/{room_id}/overlap"
_ASKING = Asking(JobKind.OVERLAP_STATISTICS, _PATH, "figures/overlap.html")


def overlap(page: PageRequest) -> Reply:
    """Show an answer (the one in the path or else the newest), earlier answers, and the price of a new one."""
    return _ASKING.show(page)


PAGES = (
    Route("GET", _PATH, overlap),
    Route("POST", _PATH, _ASKING.ask, overlap),
    Route("GET", _ASKING.answer_path, overlap),
    Route("POST", _ASKING.answer_path, _ASKING.pay, overlap),
)
TAB = Tab("overlap", _PATH, (Permission.VIEW_OVERLAP,))
