"""Import of pandera without the warning that pyspark causes.

Lives here: the import.
Keep out: schemas.

pandera imports pyspark.pandas if it is installed, on its own import and on the first check of a frame. Our code
does not use pyspark.pandas, which does not fully support pandas 3 and would warn on stderr in every command. The
parts of pyspark that the Spark engine uses do not warn.
"""

import warnings

warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)

import pandera.pandas as pandera  # noqa: E402 - after the filter

__all__ = ["pandera"]
