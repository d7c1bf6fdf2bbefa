"""The way in of the Media data room: a Python API over HTTP, and the handlers that answer it.

Lives here: the client's classes and the handlers on the server's side.
Add here when the API gets a further class or call.
Keep out: deciding numbers (`privacy`), computing (`audiences`, `similarity`) and the web server (`serving`).
"""
