"""The 25 operations of the lookalike (AWS) API, and operations that read collaborations, as functions.

Lives here: one module per kind of resource, and their shared parts (`endpoint.py`).
Add here when AWS adds an operation.
Keep out: HTTP and signatures (`wire.py`, `signing.py`, `server`); rules that apply to every API (`catalog`).
"""
