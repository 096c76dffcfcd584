"""Headers, small files and patterns of suspect folders: what is believed, and what is refused before it costs anything."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bkdinterp.errors import ArtefactError, UnsafeWeightsError
from bkdinterp.model import _weights_source
from bkdinterp.model._errors_at_load import own_errors
from bkdinterp.model._safetensors_header import read_header
from bkdinterp.model._skeleton import Room, build_skeleton, check_sizes
from bkdinterp.model._small_files import inside, read_json
from bkdinterp.model._tokenizer_patterns import check_patterns, is_risky
from bkdinterp.model._weights_source import resolve


def test_a_header_is_what_was_saved(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.tensor(1)}, path)
    stored = read_header(path)
    assert {name: (t.dtype, t.shape, t.numel) for name, t in stored.items()} == {
        "a": ("F32", (2, 3), 6),
        "b": ("BF16", (5,), 5),
        "c": ("I64", (), 1),
    }


def written(path, header, data=b"\0" * 8):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        [],
        b"{",
        b"[" * 200_000,
        {"a": 3},
        {"a": GOOD | {"shape": [3]}},
        {"a": GOOD | {"shape": [2**40, 2**40]}},
        {"a": GOOD | {"shape": [-2]}},
        {"a": GOOD | {"shape": "2"}},
        {"a": GOOD | {"shape": [2.0]}},
        {"a": GOOD | {"dtype": "F33"}},
        {"a": GOOD | {"data_offsets": [0, 2**60]}},
        {"a": GOOD, "b": GOOD},
        {},
        {"__metadata__": {"format": None}, "a": GOOD},
        {"__metadata__": [1], "a": GOOD},
    ],
)
def test_headers_that_do_not_fit_their_bytes(header, tmp_path):
    with pytest.raises(ArtefactError, match="Cannot load"):
        read_header(written(tmp_path / "w.safetensors", header))


@pytest.mark.parametrize("raw", [b"", b"\xff" * 8, struct.pack("<Q", 2**62) + b"{}"])
def test_a_header_longer_than_its_file(raw, tmp_path):
    (tmp_path / "w").write_bytes(raw)
    with pytest.raises(ArtefactError, match="Cannot load"):
        read_header(tmp_path / "w")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\x", ""])
def test_names_that_lead_out(name, tmp_path):
    with pytest.raises(UnsafeWeightsError):
        inside(tmp_path, name)


def test_links_and_what_is_no_file(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "out.json").write_text("{}")
    (home / "out.json").symlink_to(tmp_path / "out.json")
    (home / "round.json").symlink_to(home / "round.json")
    (home / "in.json").write_text('{"a": 1}')
    (home / "near.json").symlink_to("in.json")
    with pytest.raises(UnsafeWeightsError, match="link"):
        read_json(home, "out.json")
    (home / "sub").mkdir()
    for name in ("round.json", "none.json", "sub"):
        with pytest.raises(ArtefactError):
            read_json(home, name)
    assert read_json(home, "near.json") == {"a": 1}


IN_USE = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re)?|\p{N}",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" {2,}",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"\d{3}(?=(?:\d{3}){1,3}$)",
)


@pytest.mark.parametrize("pattern", IN_USE)
def test_patterns_in_use_pass(pattern):
    assert not is_risky(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(?:a*)*",
        "((ab)*c)+",
        r"(\w+\s?)+$",
        r"(a)\1",
        "(a{1,}){10,}",
        "(?:x[ab]+y|z){5,}",
        "((a+)?)+",
    ],
)
def test_patterns_that_may_take_for_ever(pattern):
    assert is_risky(pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}}
    with pytest.raises(UnsafeWeightsError):
        check_patterns(
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}}, Path("tokenizer.json")
        )
    check_patterns({"model": {"vocab": {"Regex": pattern}}}, Path("tokenizer.json"))


def test_a_build_stops_where_the_bytes_end():
    fits = build_skeleton(lambda: torch.nn.Linear(4, 5), Room(2, 25), "x")
    assert fits.weight.is_meta
    with pytest.raises(ArtefactError, match="larger model"):
        build_skeleton(lambda: torch.nn.Linear(10**6, 10**6), Room(2, 25), "x")
    made = []

    def many():
        for _ in range(10**6):
            made.append(torch.nn.Linear(1, 1))

    with pytest.raises(ArtefactError, match="larger model"):
        build_skeleton(many, Room(2, 1000), "x")
    assert len(made) < 20
    torch.nn.Linear(100, 100)  # the limit ends with the build


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_labels"])
@pytest.mark.parametrize("value", [11, -1, "3", 2.0, True])
def test_counts_in_configs(key, value):
    check_sizes({"inner": {key: 10}}, Room(10, 10), "x")
    with pytest.raises(ArtefactError, match=key):
        check_sizes({"inner": [{key: value}]}, Room(10, 10), "x")


class PanicException(BaseException):
    """As the Rust part of tokenizers raises."""


def test_only_errors_of_libraries_are_translated():
    for error in (ValueError("a\nb"), KeyError("x"), RecursionError(), MemoryError(), PanicException("p")):
        with pytest.raises(ArtefactError, match="Cannot read 'x'"), own_errors("read", "x"):
            raise error
    for error in (KeyboardInterrupt(), SystemExit(), UnsafeWeightsError("mine")):
        with pytest.raises(type(error)), own_errors("read", "x"):
            raise error


def test_a_hub_id_becomes_a_folder_and_its_index_says_what_is_fetched(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("org/model", revision="r").folder == tmp_path
    assert asked[1] == ("org/model", "r", ["model.safetensors"])
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    resolve("org/model")
    assert asked[-1][2] == ["x.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.bin"}}')
    with pytest.raises(UnsafeWeightsError, match=r"x\.bin"):
        resolve("org/model")
    resolve("org/model", weights=False)
    assert all(patterns != ["x.bin"] for _, _, patterns in asked)
    assert _weights_source.source_name(tmp_path) == tmp_path.name
