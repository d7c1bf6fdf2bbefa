"""Alembic's environment script, which runs the migrations.

Lives here: running the migrations inside the transaction that `Database.migrate` opened.
Add here when Alembic needs another setting.
Keep out: URLs and connections; the caller passes them in.
"""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["version_table"],
    transactional_ddl=True,
)
context.run_migrations()
