"""Audiences: define sets of users, and measure them.

Lives here: definitions, set algebra, sizes and seed modes, insights, overlap and data attributes.
Add here when there is a new way to define a set of users, or a new figure about one.
Keep out: ranking (`similarity`) and exporting lists (`delivery`).
"""
