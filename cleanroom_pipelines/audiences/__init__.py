"""Audiences: what leaves the clean room as a list of users.

Lives here: sizes and seed modes, writing exports; later definitions, set algebra, insights and overlap.
Keep out: ranking (similarity) and where lists may go (storage.destinations, catalogue).
"""
