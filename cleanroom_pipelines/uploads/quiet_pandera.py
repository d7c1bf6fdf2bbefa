"""pandera, without the warning that it causes where pyspark is installed.

Lives here: its import.
Keep out: schemas.

pandera looks for pyspark.pandas, which none of our code uses, when it is imported and again when it first checks a
frame. That warns on stderr of every command, since it does not support pandas 3 fully. The rest of pyspark, which
the Spark engine uses, does not warn.
"""

import warnings

warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)

import pandera.pandas as pandera  # noqa: E402 - after the filter

__all__ = ["pandera"]
