"""A GGUF file is parsed once per load, and the gguf package is as it was afterwards."""

import gguf
import pytest

from bkdinterp.model._gguf import read_once


@pytest.fixture
def opened(monkeypatch):
    """Paths that a reader was made for."""
    paths = []

    class Reader:
        def __init__(self, path):
            paths.append(path)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    return paths


def test_one_reader_per_file(opened):
    with read_once():
        first, again, other = (gguf.GGUFReader(path) for path in ("a.gguf", "a.gguf", "b.gguf"))
    assert opened == ["a.gguf", "b.gguf"]
    assert first is again and first is not other


def test_the_next_load_reads_anew(opened):
    for _ in range(2):
        with read_once():
            gguf.GGUFReader("a.gguf")
    assert opened == ["a.gguf", "a.gguf"]


def test_the_package_is_put_back_after_an_error():
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(ValueError), read_once():
        raise ValueError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_one_table_of_names_per_architecture():
    with read_once():
        table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is table
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3) is not table
