"""Reading text files that an operator wrote, and loading YAML from an untrusted one.

Lives here: `read_text`; the safe loader, which also rejects duplicate keys, and aliases that expand to very large
documents.
Add here when another YAML hazard needs a check.
Keep out: what the keys mean (form.py).
"""

from pathlib import Path
from typing import Any

import yaml

from cleanroom_pipelines.errors import UsageError

# Few files of half a megabyte have more. PyYAML resolves aliases without copying, but merges (`<<`) copy: nine
# lines of merges can produce a billion keys.
_MAX_NODES = 200_000
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but dates stay text, because its date parser raises errors without a line number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_text(path: Path, what: str, *, remedy: str) -> str:
    """Read a UTF-8 file that the operator wrote, without the byte order mark that editors on Windows add.

    Args:
        path: The file.
        what: Its name in messages, such as "declaration file".
        remedy: What to do if it cannot be read.

    Raises:
        UsageError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        problem, remedy = f"The {what} is not in UTF-8.", "Save it as UTF-8."
    except OSError as error:
        problem = f"The {what} cannot be read ({type(error).__name__})."
    # Raised outside the handler: the text of a decoding error quotes the file.
    raise UsageError(problem, remedy=remedy)


def load_yaml(text: str) -> Any:
    """Parse one YAML document.

    Args:
        text: The document.

    Returns:
        Dictionaries, lists, texts, numbers, booleans and None; dates are text, and so are keys, which may be
        columns named `on`, `no` or `2023`.

    Raises:
        UsageError: The YAML is invalid, has a duplicate key, or expands to too many nodes; the message names the
            line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            _check_keys(node, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UsageError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise UsageError(f"Invalid YAML in the declaration file{place}.", remedy="Fix the syntax.") from None
    except RecursionError:
        raise UsageError("The declaration file is nested too deeply.", remedy="Use fewer levels.") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        # PyYAML's constructors raise these for a value that does not match its tag, such as !!int of a word
        raise UsageError(
            "A value in the declaration file does not match its type tag.", remedy="Remove the !! tags."
        ) from None


def _check_size(root: yaml.Node) -> None:
    """Reject a document that is too large after expanding every alias."""
    sizes: dict[int, int] = {}
    under_way: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        key = id(node)
        if key in under_way:
            raise UsageError(
                f"The declaration refers to itself at line {_line(node)}.", remedy="Remove the alias."
            )
        if key not in sizes:
            under_way.add(key)
            sizes[key] = 1 + sum(size_of(child) for child in _children(node))
            under_way.discard(key)
            if sizes[key] > _MAX_NODES:
                raise UsageError(
                    f"The declaration is too large at line {_line(node)} after expanding its aliases.",
                    remedy="Use fewer aliases and merges.",
                )
        return sizes[key]

    size_of(root)


def _check_keys(node: yaml.Node, seen: set[int]) -> None:
    """Read keys as text, and reject duplicate ones; PyYAML would silently keep only the last one."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise UsageError(
                        f"Duplicate key in the declaration at line {_line(key)}.", remedy="Merge the two entries."
                    )
                keys.add(key.value)
                key.tag = key.tag if key.tag == _MERGE else _TEXT
    for child in _children(node):
        _check_keys(child, seen)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
