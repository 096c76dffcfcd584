"""Turning a recipe into files: the changes of `recipes`, made to a copy of an original. Runs in a worker."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

from fuzz import gguf_file

# An earlier change has taken a later one's ground away, by an emptied file say.
_NO_GROUND = (
    LookupError,
    TypeError,
    ValueError,
    OSError,
    AttributeError,
    RecursionError,
    ZeroDivisionError,
    StopIteration,
    struct.error,
)


def apply(steps: list[Any], folder: Path, canary: Path) -> bool:
    """Make every change that fits; whether the mutant may only be refused."""
    must_refuse = False
    for name, *arguments in steps:
        try:
            must_refuse |= bool(STEPS[name](folder, canary, *arguments))
        except _NO_GROUND:
            continue
    return must_refuse


def the_file(folder: Path, name: str) -> Path:
    """The file of that name, of a sweep the first or last chunk, of rows the one there; never what a link leads to."""
    patterns = {"chunk": "*.safetensors", "last chunk": "*.safetensors", "rows": "rows.*"}
    found = sorted(folder.glob(patterns[name])) if name in patterns else [folder / name]
    path = found[-1 if name == "last chunk" else 0]
    if path.is_symlink():
        raise OSError(f"{path} is a link by now")
    return path


# --- JSON, and the JSON at the head of a safetensors file ---


def read(path: Path) -> tuple[Any, bytes]:
    """The document, and the bytes behind it (of a safetensors file)."""
    raw = path.read_bytes()
    if path.suffix == ".safetensors":
        (n,) = struct.unpack("<Q", raw[:8])
        return json.loads(raw[8 : 8 + n]), raw[8 + n :]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in raw.decode().splitlines()], b""
    return json.loads(raw), b""


def write(path: Path, document: Any, rest: bytes = b"") -> None:
    if path.suffix == ".jsonl" and isinstance(document, list):
        text = "".join(json.dumps(row) + "\n" for row in document)
    else:
        text = json.dumps(document)
    raw = text.encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + rest if path.suffix == ".safetensors" else raw)
    # A result knows the hash of its tensors; what a forger changes, a forger signs.
    header = path.parent / "result.json"
    if path.name == "tensors.safetensors" and header.is_file() and not header.is_symlink():
        import hashlib

        said = json.loads(header.read_text())
        said["tensors_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        header.write_text(json.dumps(said))


def walk(document: Any, place: list[int]) -> tuple[Any, Any]:
    """(parent, key) of a node: each number chooses among the children, modulo how many there are."""
    parent, key = [document], 0
    for number in place:
        node = parent[key]
        if isinstance(node, dict) and node:
            parent, key = node, sorted(node)[number % len(node)]
        elif isinstance(node, list) and node:
            parent, key = node, number % len(node)
        else:
            break
    return parent, key


def _set(folder: Path, canary: Path, name: str, place: list[int], value: Any) -> None:
    path = the_file(folder, name)
    document, rest = read(path)
    parent, key = walk(document, place)
    parent[key] = _with_canary(value, canary)
    write(path, document, rest)


def _delete(folder: Path, canary: Path, name: str, place: list[int]) -> None:
    path = the_file(folder, name)
    document, rest = read(path)
    parent, key = walk(document, place)
    del parent[key]
    write(path, document, rest)


def _rename(folder: Path, canary: Path, name: str, place: list[int], new: str) -> None:
    path = the_file(folder, name)
    document, rest = read(path)
    parent, key = walk(document, place)
    parent[new] = parent.pop(key)
    write(path, document, rest)


def _swap(folder: Path, canary: Path, name: str, one: list[int], other: list[int]) -> None:
    path = the_file(folder, name)
    document, rest = read(path)
    (a, i), (b, j) = walk(document, one), walk(document, other)
    a[i], b[j] = b[j], a[i]
    write(path, document, rest)


def _key(folder: Path, canary: Path, name: str, place: list[int], key: str, value: Any) -> None:
    """A known key, with a value that means something, into any object of the file."""
    path = the_file(folder, name)
    document, rest = read(path)
    parent, at = walk(document, place)
    target = parent[at] if isinstance(parent[at], dict) else parent
    target[key] = _with_canary(value, canary)
    write(path, document, rest)


def _known(folder: Path, canary: Path, name: str, key: str, value: Any) -> None:
    """The same at every place that has this key; where none has it, at the top."""
    path = the_file(folder, name)
    document, rest = read(path)
    value = _with_canary(value, canary)
    if not _replace(document, key, value):
        document[key] = value
    write(path, document, rest)


def _replace(node: Any, key: str, value: Any) -> bool:
    found = False
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in list(children):
        if name == key:
            node[name], found = value, True
        else:
            found |= _replace(child, key, value)
    return found


def _deep(folder: Path, canary: Path, name: str, place: list[int], depth: int) -> None:
    """A value so nested that a recursive reader runs out of stack."""
    path = the_file(folder, name)
    document, rest = read(path)
    parent, key = walk(document, place)
    parent[key] = "@@deep@@"
    text = json.dumps(document).replace('"@@deep@@"', "[" * depth + "]" * depth).encode()
    head = struct.pack("<Q", len(text)) if path.suffix == ".safetensors" else b""
    path.write_bytes(head + text + rest)


def _with_canary(value: Any, canary: Path) -> Any:
    """What a recipe only names: ``@x5000`` is so many letters, CANARY a path outside."""
    if not isinstance(value, str):
        return value
    return "x" * int(value[2:]) if value.startswith("@x") else value.replace("CANARY", str(canary))


# --- bytes ---


def _flip(folder: Path, canary: Path, name: str, spot: int, bit: int) -> None:
    path = the_file(folder, name)
    raw = bytearray(path.read_bytes())
    raw[spot % len(raw)] ^= 1 << bit
    path.write_bytes(raw)


def _cut(folder: Path, canary: Path, name: str, spot: int) -> None:
    path = the_file(folder, name)
    raw = path.read_bytes()
    path.write_bytes(raw[: spot % len(raw)])


def _insert(folder: Path, canary: Path, name: str, spot: int, given: str) -> None:
    path = the_file(folder, name)
    raw = path.read_bytes()
    at = spot % (len(raw) + 1)
    path.write_bytes(raw[:at] + bytes.fromhex(given) + raw[at:])


def _over(folder: Path, canary: Path, name: str, spot: int, given: str) -> None:
    path = the_file(folder, name)
    raw, new = path.read_bytes(), bytes.fromhex(given)
    at = spot % len(raw)
    path.write_bytes(raw[:at] + new + raw[at + len(new) :])


def _length(folder: Path, canary: Path, name: str, n: int) -> None:
    """The first eight bytes, the length of a safetensors header."""
    path = the_file(folder, name)
    path.write_bytes(struct.pack("<Q", n) + path.read_bytes()[8:])


# --- files ---


def _remove(folder: Path, canary: Path, name: str) -> None:
    the_file(folder, name).unlink()


def _empty(folder: Path, canary: Path, name: str) -> None:
    the_file(folder, name).write_bytes(b"")


def _folder(folder: Path, canary: Path, name: str) -> None:
    path = the_file(folder, name)
    path.unlink()
    path.mkdir()


def _name(folder: Path, canary: Path, name: str, new: str) -> None:
    the_file(folder, name).rename(folder / new)


def _exchange(folder: Path, canary: Path, one: str, other: str) -> None:
    a, b = the_file(folder, one), the_file(folder, other)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def _link(folder: Path, canary: Path, name: str, target: str) -> None:
    path = the_file(folder, name)
    path.unlink()
    path.symlink_to({"self": path.name, "secret": str(ORIGINAL.with_name("secret"))}.get(target, target))


class Evil:
    """Whoever unpickles it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def _pickle(folder: Path, canary: Path, name: str) -> None:
    _put(folder / name, pickle.dumps(Evil(canary)))
    if name in ("pytorch_model.bin", "adapter_model.bin"):
        for path in folder.glob("*.safetensors"):
            path.unlink()


def _code(folder: Path, canary: Path) -> None:
    source = f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\nclass Config: pass\nclass T: pass\n"
    for name in ("evil.py", "modeling_llama.py", "__init__.py", "sitecustomize.py"):
        _put(folder / name, source.encode())
    config = the_file(folder, "config.json" if (folder / "config.json").is_file() else "adapter_config.json")
    document, _ = read(config)
    document["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"}
    write(config, document)


def _template(folder: Path, canary: Path, text: str) -> None:
    _put(folder / "chat_template.jinja", str(_with_canary(text, canary)).encode("utf-8", "ignore"))


def _yaml(folder: Path, canary: Path, text: str) -> bool:
    """Settings that are a trap; none of them is options."""
    for name in ("settings.yaml", "settings.json"):
        (folder / name).write_bytes(str(_with_canary(text, canary)).encode("utf-8", "surrogatepass"))
    return True


def _put(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _index(folder: Path, canary: Path, spot: int, target: str) -> bool:
    path = the_file(folder, "model.safetensors.index.json")
    document, _ = read(path)
    places = document["weight_map"]
    names = sorted(places)
    chosen = places[names[spot % len(names)]]
    _put(folder / "evil.bin", pickle.dumps(Evil(canary)))
    _put(folder / "sound.bin", ORIGINAL.with_name("sound.bin").read_bytes())
    (folder / "sub").mkdir(exist_ok=True)
    if target == "ABSOLUTE":
        target = str(ORIGINAL.parent / "neighbour" / "model.safetensors")
    for name in names:
        if places[name] == chosen:
            places[name] = target
    write(path, document)
    return True


def _do(folder: Path, canary: Path, code: str) -> None:
    (folder / "code.txt").write_text(code)


# --- GGUF ---


def _gguf(folder: Path, canary: Path, what: str, *a: Any) -> None:
    path = the_file(folder, "model.gguf")
    made = folder / ".document.json"  # of an earlier step; the file itself says too little
    document = json.loads(made.read_text()) if made.is_file() else json.loads(ORIGINAL.read_text())
    entries, tensors = document["entries"], document["tensors"]
    if what == "entry":
        entries[a[0] % len(entries)][2] = a[1]
    elif what == "type":
        entries[a[0] % len(entries)][1] = a[1]
    elif what == "drop":
        del entries[a[0] % len(entries)]
        document["counts"][1] -= 1
    elif what == "twice":
        entries.append(entries[a[0] % len(entries)])
        document["counts"][1] += 1
    elif what == "count":
        document["counts"][a[0]] = a[1]
    elif what == "version":
        document["version"] = a[0]
    elif what == "shape":
        tensors[a[0] % len(tensors)][1] = a[1]
    elif what == "transpose":
        tensors[a[0] % len(tensors)][1].reverse()
    elif what == "tensor type":
        tensors[a[0] % len(tensors)][2] = a[1]
    elif what == "offset":
        tensors[a[0] % len(tensors)][3] = a[1]
    elif what == "tensor name":
        tensors[a[0] % len(tensors)][0] = a[1]
    elif what == "drop tensor":
        del tensors[a[0] % len(tensors)]
        document["counts"][0] -= 1
    elif what == "template":
        next(e for e in entries if e[0] == "tokenizer.chat_template")[2] = _with_canary(a[0], canary)
    elif what == "item":
        lists = [e[2][1] for e in entries if e[1] == gguf_file.LIST and e[2][1]]
        items = lists[a[0] % len(lists)]
        items[a[1] % len(items)] = a[2]
    elif what == "add":
        entries.append([a[0], a[1], a[2]])
        document["counts"][1] += 1
    made.write_text(json.dumps(document))
    path.write_bytes(gguf_file.write(document))


ORIGINAL = Path()  # the sound document, set by the worker

STEPS: dict[str, Any] = {
    "set": _set,
    "delete": _delete,
    "rename": _rename,
    "swap": _swap,
    "key": _key,
    "known": _known,
    "deep": _deep,
    "flip": _flip,
    "cut": _cut,
    "insert": _insert,
    "over": _over,
    "length": _length,
    "remove": _remove,
    "empty": _empty,
    "folder": _folder,
    "name": _name,
    "exchange": _exchange,
    "link": _link,
    "pickle": _pickle,
    "code": _code,
    "template": _template,
    "yaml": _yaml,
    "index": _index,
    "gguf": _gguf,
    "do": _do,
}


def copy_of(original: Path, folder: Path) -> None:
    """A fresh copy for a mutant."""
    shutil.copytree(original, folder, symlinks=True)
