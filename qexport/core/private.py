"""Keys that begin with x- are anybody's own: they are taken out before a document is read."""

from typing import Any


def without_private(document: Any) -> Any:
    """A JSON document without keys that begin with x-, at any depth."""
    if isinstance(document, dict):
        return {key: without_private(value) for key, value in document.items() if not str(key).startswith("x-")}
    if isinstance(document, list):
        return [without_private(value) for value in document]
    return document
