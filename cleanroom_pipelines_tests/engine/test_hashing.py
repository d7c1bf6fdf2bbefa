"""`stable_hash` is the same function in Python and in SQL, with fixed values."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.engine import (
    STABLE_HASH_BITS,
    EngineSettings,
    open_engine,
    stable_hash,
    stable_hash_sql,
)


def test_sql_equals_python() -> None:
    with open_engine(EngineSettings(memory_bytes=256 << 20, threads=1)) as engine:

        @given(st.lists(st.text(), min_size=1, max_size=50))
        def check(ids: list[str]) -> None:
            engine.register("users", pa.table({"id": pa.array(ids, pa.string())}))
            hashes = engine.fetch(f"SELECT {stable_hash_sql('id')} AS hash FROM users")["hash"]
            assert hashes.type == pa.int64()
            assert hashes.to_pylist() == [stable_hash(id_) for id_ in ids]
            assert all(0 <= hash_ < 2**STABLE_HASH_BITS for hash_ in hashes.to_pylist())

        check()


def test_values_never_change() -> None:
    # Sampling and ties of models already made depend on them.
    assert stable_hash("") == 0xD41D8CD98F00B20
    assert stable_hash("user-1") == 0xD6D7705392BC7AF
    assert stable_hash("zoë 😀") == 0x3C723C4732541B5
