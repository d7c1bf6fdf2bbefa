"""Delivery: how a list of users leaves the clean room, as files that an advertising destination accepts.

Lives here: writing exports, the destinations and their rules, the formats of files, control groups, and what was
delivered before.
Add here when a destination or a format is added, or a delivery gains a part.
Keep out: which users are on a list (`audiences`) and who may export what (the catalogue and the ways in).
"""
