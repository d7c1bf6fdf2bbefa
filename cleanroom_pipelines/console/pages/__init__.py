"""The pages of the console, one module for each area.

Lives here: the list of modules, from which the routes and the menu of a room follow.
Add here the module of a new page, in the order of a room's menu.
Keep out: everything else.
"""

from cleanroom_pipelines.console.page import Route, Tab
from cleanroom_pipelines.console.pages import (
    activity,
    audiences,
    data,
    defining,
    insights,
    lists,
    lookalikes,
    new_room,
    operating,
    overlap,
    passkeys,
    people,
    privacy,
    rooms,
    signing,
)

MODULES = (
    signing,
    passkeys,
    new_room,
    rooms,
    data,
    overlap,
    insights,
    defining,
    audiences,
    lists,
    people,
    privacy,
    activity,
    lookalikes,
    operating,
)

ROUTES: tuple[Route, ...] = tuple(route for module in MODULES for route in module.PAGES)
TABS: tuple[Tab, ...] = tuple(module.TAB for module in MODULES if hasattr(module, "TAB"))
