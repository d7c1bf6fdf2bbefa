"""The server: all of HTTP, behind one address.

Lives here: receiving requests, saying who sent them, limits, the audit of each, the calls of the Media API,
files of buckets, starting and stopping.
Add here when something is asked over HTTP.
Keep out: the operations of the AWS API (`aws`) and the client of the Media API (`media`).
"""
