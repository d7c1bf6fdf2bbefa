"""The `cleanroom` command.

Lives here: reading arguments, calling the layers below, printing what came back.
Add here when something must be done from a shell.
Keep out: anything that a way in other than the shell needs too.
"""
