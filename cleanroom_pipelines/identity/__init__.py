"""Identity: the identifiers by which two parties find that they know the same person.

Lives here: the kinds of matching ids, their normal form, validity and hashing.
Add here when a kind of matching id is added.
Keep out: reading files (`validation`) and what matched ids are used for.
"""
