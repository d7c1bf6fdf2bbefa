"""Writing XML responses, for S3 and for AWS's older services such as STS.

Lives here: adding elements to a document, and encoding it.
Add here when every writer needs another kind of content.
Keep out: which elements a response has (`query.py`, `s3/wire.py`), and reading requests.
"""

import re
from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree as ET

_UNPRINTABLE: Final = re.compile("[\x00-\x1f\ufffe\uffff\ud800-\udfff]")


def add_text(parent: ET.Element, name: str, text: str) -> None:
    """Add an element with a text; characters that XML cannot represent are replaced."""
    ET.SubElement(parent, name).text = _UNPRINTABLE.sub("\ufffd", text)


def add_texts(parent: ET.Element, texts: Mapping[str, str]) -> ET.Element:
    """Add an element for each name and text, and return the parent."""
    for name, text in texts.items():
        add_text(parent, name, text)
    return parent


def document(root: ET.Element) -> bytes:
    """Encode an XML document as bytes, with its XML declaration."""
    return bytes(ET.tostring(root, encoding="UTF-8", xml_declaration=True))
