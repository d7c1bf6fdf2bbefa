"""Uploads: reading and validating uploaded files; reports contain counts, never values.

Lives here: column roles, rules for usable cells (`cells`), the one reader of tables (`reading`), validation with
its report, room files, a profile, and where tables are stored (`sources`).
Add here when there is a new kind of upload or source, or a new rule for columns, cells or rows.
Keep out: results built from valid data (similarity, audiences), and any cell value outside the function that
validates a batch.
"""
