"""The console: pages for people who work with data rooms in a browser.

Lives here: routes, sessions, forms, and the pages, which call the handlers of the data-room (Media) API.
Add here when people need another page.
Keep out: permissions, prices and rules (`server.media` has them), SQL, and data that no handler returns.

To add a page:

1. Write `pages/NAME.py`: functions that take a `PageRequest` and return a `Reply`, and `PAGES`, a tuple of
   `Route`. Paths are below /console, such as `Route("GET", "/rooms/{room_id}/overlap", overlap)`. `TAB` adds it to
   a room's menu.
2. Add the module to `MODULES` in `pages/__init__.py`, and its templates in `templates/NAME/`.
3. Write its texts in `texts/en.json`, as `NAME.key`. Templates and functions read them by `t("NAME.key")`; a test
   checks that each key exists and is used. Keys that end in `*` in a test's list are composed.

In a page's function:

- `page.call(Method.GET_ROOM, room_id=…)` calls a handler as the signed-in user. Its errors become an error page.
  To show a form again instead, with the error, name its page in the route: `Route("POST", PATH, send, show_form)`.
- `page.room()` is the room of the path, from `get_room`; pass it to `show`, so that the page has the room's menu.
- `page.form.text("email")` is a field, `page.form.texts("permissions")` all its values, `page.form.file("seed")` a
  file; `page.upload(file, kind)` stores it encrypted. A route that receives files has `files=True`; its form, the
  attribute `enctype="multipart/form-data"`.
- `page.show("NAME/page.html", **values)` renders; every value is escaped. `page.redirect("/rooms/{room_id}",
  room_id=…, done="NAME.saved.done")` answers a successful POST and shows that text. `page.download(job_id, name)`
  sends a file of a list; `page.attach(name, chunks)`, a small file such as a CSV of figures.

Templates extend `base.html`. All of them have `c`, the macros of `components.html` (problem, field, area, select,
choices, figure, badge, polling, progress, empty, confirm, table), `charts.bars`, `t`, `url` and the filters
moment, count, percent and units. No inline script or style: the policy blocks both.
"""
