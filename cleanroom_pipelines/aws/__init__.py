"""The AWS-compatible way in: the wire of AWS Clean Rooms ML's lookalike API.

Lives here: botocore's model of the API, reading and writing its HTTP, signatures, errors, policies, operations.
Add here when the API itself grows.
Keep out: the web server (`server`), and rules that hold for every way in (`catalog`).
"""
