"""pandera, imported without the warning that it causes where pyspark is installed.

Lives here: that import.
Keep out: schemas.

pandera looks for pyspark.pandas, which none of our code uses, and that warns on stderr of every command, since it
does not support pandas 3 fully. The rest of pyspark, which the Spark engine uses, does not warn.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import pandera.pandas as pandera

__all__ = ["pandera"]
