"""The HTTP server, which serves all APIs at one address.

Lives here: receiving, authenticating, limiting and auditing requests, the calls of the data-room (Media) API,
files in buckets, starting and stopping.
Add here when another request can be sent over HTTP.
Keep out: the operations of the lookalike (AWS) API (`aws`) and the client of the data-room (Media) API (`media`).
"""
