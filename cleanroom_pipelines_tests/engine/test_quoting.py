"""Quoted names and paths are taken literally, whatever they contain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.engine import EngineSettings, open_engine, quote_identifier, quote_literal

any_text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=30)


def test_round_trip() -> None:
    with open_engine(EngineSettings(memory_bytes=256 << 20, threads=1)) as engine:

        @given(name=any_text, text=any_text)
        def check(name: str, text: str) -> None:
            table = engine.fetch(f"SELECT {quote_literal(text)} AS {quote_identifier(name)}")
            assert table.to_pylist() == [{name: text}]

        check()


@pytest.mark.parametrize("name", ["", "a\x00b"])
def test_names_that_cannot_be_quoted(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        quote_identifier(name)


def test_path_that_cannot_be_quoted() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote_literal("a\x00b")
