"""The AWS-compatible API: the wire format of AWS Clean Rooms ML's lookalike API.

Lives here: botocore's model of the API, its HTTP format, signatures, errors, policies and operations.
Add here when the API itself grows.
Keep out: the web server (`server`), and rules that apply to every API (`catalog`).
"""
