"""Reading a GGUF file once: transformers parses its header three times, and makes the table of names once per module.

A file with the vocabulary of a small model in it costs some seconds each time. No weights are touched here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch


@contextmanager
def read_once() -> Iterator[None]:
    """While open, the gguf package hands out one reader per file, and one table of names per architecture.

    Both are only ever read. Nothing is changed where the package is missing: the loader then says so.
    """
    try:
        import gguf
    except ImportError:
        yield
        return
    package: Any = gguf
    with (
        patch.object(package, "GGUFReader", cache(package.GGUFReader)),
        patch.object(package, "get_tensor_name_map", cache(package.get_tensor_name_map)),
    ):
        yield
