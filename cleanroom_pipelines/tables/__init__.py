"""Tables: what the columns of an uploaded table mean, and which of its rows are usable.

Lives here: the roles of columns, the one definition of a usable cell, the uploads and what refuses one as a whole.
Add here when a role, a kind of upload or a rule about rows is new.
Keep out: reports of what is wrong (validation) and what is made of the rows (similarity).
"""
