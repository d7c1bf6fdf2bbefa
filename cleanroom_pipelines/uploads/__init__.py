"""Uploads: reading and validating uploaded files; reports contain counts, never values.

Lives here: column roles, rules for usable cells, upload schemas, file validation with its report, and a profile.
Add here when there is a new kind of upload, or a new rule for columns, cells or rows.
Keep out: results built from valid data (similarity, audiences), and any cell value outside the function that
validates a batch.
"""
