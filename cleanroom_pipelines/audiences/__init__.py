"""Audiences: which users.

Lives here: definitions, set algebra, sizes and seed modes, insights, overlap and data attributes.
Add here when there is a new way of saying which users are meant, or a new figure about them.
Keep out: ranking (`similarity`) and how a list leaves (`delivery`).
"""
