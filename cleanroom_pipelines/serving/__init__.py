"""The server: both HTTP ways in behind one address.

Lives here: receiving requests, saying who sent them, limits, the audit of each, starting and stopping.
Add here when all ways in need something of HTTP.
Keep out: what a request means (`cleanroomsml`, `media`).
"""
