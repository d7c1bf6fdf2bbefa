"""Activation: what leaves the clean room as a file that an advertising destination takes.

Lives here: the destinations and their rules, the formats of the files, and writing a whole delivery.
Add here when a destination is added, or a delivery gains a part.
Keep out: who may export what (catalogue and media), and the drafting of one folder (`audiences.exports`).
"""
