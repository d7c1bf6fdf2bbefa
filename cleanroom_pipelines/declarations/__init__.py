"""Clean rooms as code: what a YAML file declares, and what of it is not yet so.

Lives here: the file's form, the plan (what would change) and carrying it out.
Add here when a further kind of resource can be declared.
Keep out: doing the pending work that a declaration leads to (runs).
"""

from cleanroom_pipelines.declarations.applying import DeclaredChange, apply_declaration
from cleanroom_pipelines.declarations.form import Declaration, read_declaration

__all__ = ["Declaration", "DeclaredChange", "apply_declaration", "read_declaration"]
