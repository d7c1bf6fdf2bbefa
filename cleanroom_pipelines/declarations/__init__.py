"""Declarative configuration: apply a YAML file of accounts and resources to the catalogue.

Lives here: the schema of the file, the plan of changes, and applying it.
Add here when another kind of resource can be declared.
Keep out: running the pending work that results (runs).
"""

from cleanroom_pipelines.declarations.applying import DeclaredChange, apply_declaration
from cleanroom_pipelines.declarations.form import Declaration, read_declaration

__all__ = ["Declaration", "DeclaredChange", "apply_declaration", "read_declaration"]
