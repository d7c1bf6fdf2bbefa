"""Uploads: what people hand in, read and judged; each gets a report of counts, never of values.

Lives here: the roles of columns, which cells are usable, the schemas of what is uploaded, the validation of whole
files with its report, and a profile.
Add here when something new can be uploaded, or a rule about columns, cells or rows is new.
Keep out: what is made of valid data (similarity, audiences), and any cell value outside the function that judges
one batch.
"""
