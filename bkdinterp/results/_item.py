"""One file that says what it is: a value under its own name and key, with a hash of all three. No pickles.

What sweeps and checkpoints are made of. JSON and tensors lie in one safetensors file; what names and keys are, the
caller knows, and compares.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.results._codec import decode, encode
from bkdinterp.results._files import JSON_BYTES, loads, write_whole
from bkdinterp.results._tensors import content_hash, read_file
from bkdinterp.values import shown

ITEM = "bkdinterp-item/1"
PARTS = ("name", "key", "value")


def write_item(path: Path, name: str, key: Any, value: Any) -> None:
    """Write as a whole or not at all.

    Args:
        path: of the file; its folder is made.
        name: of the item.
        key: JSON values, as `key_json` gives them.
        value: JSON values, tensors, or what `register_value` knows, nested at will.

    Raises:
        ArtefactError: a value without a saved form, or a disk that is full or cannot be written to.
    """
    tensors: dict[str, Tensor] = {}
    try:
        texts = [json.dumps(part, allow_nan=False) for part in (name, key, encode(value, "value", tensors))]
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{name}: a value that cannot be saved ({error}).") from error
    if sum(map(len, texts)) > JSON_BYTES:
        raise ArtefactError(f"{name}: more than {JSON_BYTES >> 20} MiB of JSON; keep numbers in tensors.")
    # As it will be read.
    hashed = content_hash([loads(text) for text in texts], tensors)
    about = dict(zip(PARTS, texts, strict=True)) | {"format": ITEM, "sha256": hashed}
    write_whole(path, lambda fresh: save_file(tensors, fresh, metadata=about))


def read_item(path: Path) -> tuple[str, Any, Any]:
    """Name, key and value, checked against the hash.

    Raises:
        ArtefactError: no such file, another format, or damage.
    """
    about, tensors = read_file(path)
    if about.get("format") != ITEM:
        raise ArtefactError(f"{path} has format {shown(about.get('format'))}, not {ITEM!r}.")
    try:
        label = [loads(about[part]) for part in PARTS]
        if content_hash(label, tensors) != about.get("sha256"):
            raise ArtefactError(f"{path} is damaged (its hash differs from its content).")
        return label[0], label[1], decode(label[2], tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged ({error!r}).") from error


def key_json(key: Any) -> Any:
    """A key as it will be read: tuples are lists, keys of mappings are text.

    Raises:
        ArtefactError: it is no JSON.
    """
    try:
        return json.loads(json.dumps(key, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtefactError(f"A key must be JSON values ({error}); got {shown(key)}.") from error
