"""The `cleanroom` command.

Lives here: parsing arguments, calling the layers below, printing results.
Add here when something must be possible from a shell.
Keep out: code that HTTP, the inbox or Dagster also needs.
"""
