"""Reading YAML that a stranger wrote.

Lives here: the safe loader and what it refuses beyond PyYAML's own: aliases that multiply, keys given twice.
Add here when another trap of YAML must be closed.
Keep out: what the keys mean (form.py).
"""

from typing import Any

import yaml

from cleanroom_pipelines.errors import UsageError

# A file of half a megabyte hardly has more. PyYAML builds aliases without copying, but merges (`<<`) copy: nine
# lines of them can make a billion keys.
_MAX_NODES = 200_000
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """The safe loader, with dates left as text: PyYAML's own reader of dates raises without saying where."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(text: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.

    Returns:
        Dictionaries, lists, texts, numbers, booleans and None; dates as text.

    Raises:
        UsageError: It is no YAML, gives a key twice, or unfolds to too much; the message names the line.
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
        raise UsageError(f"The declaration file is no YAML{place}.", remedy="Mend it there.") from None
    except RecursionError:
        raise UsageError("The declaration file is nested too deeply.", remedy="Write it flatter.") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        # what PyYAML's constructors raise for a value that is not of its tag, such as !!int of a word
        raise UsageError(
            "The declaration file holds a value that is not of the type it says.", remedy="Leave the !! tags out."
        ) from None


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that is too large once every alias is written out."""
    sizes: dict[int, int] = {}
    under_way: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        key = id(node)
        if key in under_way:
            raise UsageError(f"The declaration refers to itself at line {_line(node)}.", remedy="Write it out.")
        if key not in sizes:
            under_way.add(key)
            sizes[key] = 1 + sum(size_of(child) for child in _children(node))
            under_way.discard(key)
            if sizes[key] > _MAX_NODES:
                raise UsageError(
                    f"The declaration is too large at line {_line(node)}, its aliases written out.",
                    remedy="Write less.",
                )
        return sizes[key]

    size_of(root)


def _check_keys(node: yaml.Node, seen: set[int]) -> None:
    """Refuse a mapping that gives a key twice: PyYAML would keep the last and say nothing."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise UsageError(
                        f"The declaration gives a key twice at line {_line(key)}.", remedy="Put both under one."
                    )
                keys.add(key.value)
    for child in _children(node):
        _check_keys(child, seen)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
