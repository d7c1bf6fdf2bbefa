"""Delivery: write a list of users as files that an ad platform accepts.

Lives here: writing exports, the destinations and their rules, the formats of files, control groups, and
comparisons with earlier deliveries.
Add here when there is a new destination or format, or a delivery gets a new component.
Keep out: which users are on a list (`audiences`) and who may export what (the catalogue and the entry points).
"""
