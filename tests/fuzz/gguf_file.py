"""A GGUF file as plain values, so that a mutant may have any header that a stranger could write.

    document = {"version", "counts": [tensors, entries], "entries": [[key, type, value]], "tensors": [[name, dims, type, offset]],
                "align", "data": hex}

Strings, arrays and numbers are written as their stated type, whatever fits into it.
"""

import struct
from typing import Any

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
U32, F32, BOOL, TEXT, LIST = 4, 6, 7, 8, 9
BYTES = {"B": 1, "b": 1, "H": 2, "h": 2, "I": 4, "i": 4, "Q": 8, "q": 8}
# Of a byte-level alphabet, what our texts are made of; a space is written as \u0120.
CHARACTERS = [*"\u0120abcdefghijklmnopqrstuvwxyz0123456789.,:!?"]


def of_llama(module: Any) -> dict[str, Any]:
    """The document that a converter writes of a tiny Llama: vocabulary of 40, named and ordered as that format has it."""
    config = module.config
    tokens = [*CHARACTERS[: config.vocab_size - 3], "\u0120t", "<s>", "<e>"]
    prefix = "llama."
    entries: list[list[Any]] = [
        ["general.architecture", TEXT, "llama"],
        [prefix + "block_count", U32, config.num_hidden_layers],
        [prefix + "context_length", U32, config.max_position_embeddings],
        [prefix + "embedding_length", U32, config.hidden_size],
        [prefix + "feed_forward_length", U32, config.intermediate_size],
        [prefix + "attention.head_count", U32, config.num_attention_heads],
        [prefix + "attention.head_count_kv", U32, config.num_key_value_heads],
        [prefix + "attention.layer_norm_rms_epsilon", F32, config.rms_norm_eps],
        [prefix + "rope.freq_base", F32, 10000.0],
        [prefix + "rope.dimension_count", U32, config.hidden_size // config.num_attention_heads],
        [prefix + "vocab_size", U32, config.vocab_size],
        ["tokenizer.ggml.model", TEXT, "gpt2"],
        ["tokenizer.ggml.tokens", LIST, [TEXT, tokens]],
        ["tokenizer.ggml.token_type", LIST, [5, [1] * (len(tokens) - 2) + [3, 3]]],
        ["tokenizer.ggml.merges", LIST, [TEXT, ["\u0120 t"]]],
        ["tokenizer.ggml.bos_token_id", U32, len(tokens) - 2],
        ["tokenizer.ggml.eos_token_id", U32, len(tokens) - 1],
        ["tokenizer.ggml.add_bos_token", BOOL, False],
        ["tokenizer.chat_template", TEXT, "{% for m in messages %}{{ m['content'] }}{% endfor %}"],
    ]
    tensors, data = [], b""
    for name, array in _arrays(module):
        tensors.append([name, [int(n) for n in reversed(array.shape)], 0, len(data)])
        data += array.tobytes() + b"\0" * (-array.nbytes % 32)
    counts = [len(tensors), len(entries)]
    return {
        "version": 3,
        "counts": counts,
        "entries": entries,
        "tensors": tensors,
        "align": 32,
        "data": data.hex(),
    }


def write(document: dict[str, Any]) -> bytes:
    """The file's bytes."""
    head = b"GGUF" + _number("I", document["version"])
    head += b"".join(_number("Q", n) for n in document["counts"])
    for key, kind, value in document["entries"]:
        head += _text(key) + _number("I", kind) + _value(kind, value)
    for name, dims, kind, offset in document["tensors"]:
        head += _text(name) + _number("I", len(dims)) + b"".join(_number("Q", n) for n in dims)
        head += _number("I", kind) + _number("Q", offset)
    align = document["align"] if isinstance(document["align"], int) and 0 < document["align"] < 4096 else 32
    return head + b"\0" * (-len(head) % align) + bytes.fromhex(document["data"])


def _arrays(module: Any) -> list[tuple[str, Any]]:
    import gguf

    config = module.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = []
    for name, parameter in module.named_parameters():
        stem, _, kind = name.rpartition(".")
        array = parameter.detach().numpy()
        n = heads.get(stem.rpartition(".")[2], 0)
        if n:  # that format interleaves the halves of the rotary embedding
            array = array.reshape(n, 2, array.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(array.shape)
        found.append((f"{names.get_name(stem)}.{kind}", array.copy()))
    return found


def _value(kind: Any, value: Any) -> bytes:
    if kind == LIST and isinstance(value, list) and len(value) == 2 and isinstance(value[1], list):
        inner, items = value
        return _number("I", inner) + _number("Q", len(items)) + b"".join(_value(inner, x) for x in items)
    if kind in NUMBERS:
        return _number(NUMBERS[kind], value)
    return _text(value)


def _text(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _number(form: str, value: Any) -> bytes:
    """Anything as this number: what does not fit wraps round, what is none becomes 0."""
    try:
        if form in BYTES:
            size = BYTES[form]
            return (int(value) % (1 << (8 * size))).to_bytes(size, "little")
        return struct.pack("<" + form, value)
    except (TypeError, ValueError, OverflowError, struct.error):
        return struct.pack("<" + form, 0)
