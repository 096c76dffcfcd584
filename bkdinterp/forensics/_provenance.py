"""Where a model comes from, as its files say: hashes, formats, licence, base, and files that do not belong. No model.

Names and numbers come from the suspect and are only repeated; nothing here decides what is read beyond the folder.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.model._small_files import read_json, read_text
from bkdinterp.report import AuditFinding, Table
from bkdinterp.reprs import cut

# Files that are hashed, and entries that are listed.
MOST = 200
# That are listed at all.
FILES = 10_000
# Suffixes of what a model folder holds; those of code and pickles are named apart.
_USUAL = {
    ".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".md", ".gitattributes", ".png", ".jpg", ".csv", ".yaml",
    ".yml", ".jsonl", ".license", ".pdf", ".svg",
}  # fmt: skip
_CODE = {".py", ".so", ".dll", ".dylib", ".sh", ".bat", ".exe", ".js", ".pyc", ".pyd", ".ipynb"}
_PICKLES = {
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npy",
    ".npz",
    ".h5",
    ".keras",
    ".msgpack",
}
_CARD = ("README.md", "readme.md")
_FIELD = re.compile(r"^(license|base_model|datasets|language)\s*:\s*(.+)$", re.MULTILINE)
TAXONOMY = ("AML.T0010", "LLM03:2025")


def provenance(folder: Path) -> tuple[dict[str, Any], list[AuditFinding], list[Table]]:
    """What the folder or file says of itself.

    Args:
        folder: the model's folder, or its GGUF file.
    """
    files = list(islice(_files(folder), FILES + 1))
    odd = [("the folder", f"more than {FILES:,} files, of which the others were not looked at")] * (
        len(files) > FILES
    )
    odd += [(name, why) for name, path in files if (why := _odd(folder, name, path))]
    claimed = _claims(folder) if folder.is_dir() else {}
    rows = [(name, path.stat().st_size, _sha(path)) for name, path in files[:MOST] if _ours(folder, path)]
    tables = [Table("Files", ("file", "bytes", "sha256"), tuple(rows), _left_out(len(files)))]
    if claimed:
        tables.append(
            Table(
                "What the files claim",
                ("claim", "value"),
                tuple(claimed.items()),
                "Claims of whoever made the files; none of them is checked by this table.",
            )
        )
    return claimed, [_odd_finding(folder.name, odd)], tables


def _odd_finding(folder: str, odd: list[tuple[str, str]]) -> AuditFinding:
    # Base and adapter come from folders of their own.
    where = repr(cut(folder, 40))
    if not odd:
        return AuditFinding(
            "odd-files",
            "not supported",
            f"{where} holds weights, settings and texts, and nothing else.",
            subject="files",
        )
    named = "; ".join(f"{cut(name, 60)}: {why}" for name, why in odd[:6])
    more = f" and {len(odd) - 6} more" if len(odd) > 6 else ""
    return AuditFinding(
        "odd-files",
        "for review",
        f"{len(odd)} files in {where} do not belong to a model's weights and settings: {named}{more}.",
        "None of them was opened or run. Other programs may run them when they load the model.",
        taxonomy=TAXONOMY,
        subject="files",
    )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of files, and of folders that are not gone into: links, and version control's own."""
    if not folder.is_dir():
        yield folder.name, folder
        return
    for root, folders, names in os.walk(folder):
        shut = [f for f in folders if f == ".git" or (Path(root) / f).is_symlink()]
        folders[:] = sorted(set(folders) - set(shut))
        for name in sorted([*names, *shut]):
            yield str((Path(root) / name).relative_to(folder)), Path(root) / name


def _odd(folder: Path, name: str, path: Path) -> str:
    """Why a file does not belong; empty if it does."""
    suffix = Path(name).suffix.casefold()
    if path.is_dir():
        return "a folder that was not looked into"
    if path.is_symlink() and not _stays(folder, path):
        return "a link that leads out of the folder"
    if not path.is_symlink() and not _plain(path):
        return "not a regular file"
    if suffix in _CODE:
        return "code"
    if suffix in _PICKLES:
        return "a format that can run code when it is read"
    if suffix not in _USUAL and Path(name).name not in ("LICENSE", "NOTICE", ".gitattributes", "merges.txt"):
        return "of no known kind"
    return ""


def _stays(folder: Path, path: Path) -> bool:
    # A hub cache keeps a snapshot's files as links to blobs two folders up.
    home = folder.resolve()
    roots = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return False
    return any(real.is_relative_to(root) for root in roots)


def _ours(folder: Path, path: Path) -> bool:
    """Whether the file may be read: a plain one that stays in the folder."""
    return _plain(path) and (not folder.is_dir() or _stays(folder, path))


def _plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _sha(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return f"not readable: {error.strerror}"
    return digest.hexdigest()


def _claims(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, keys in (
        ("config.json", ("model_type", "architectures", "_name_or_path", "auto_map", "torch_dtype", "dtype")),
        (
            "adapter_config.json",
            ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules"),
        ),
        ("generation_config.json", ("do_sample", "temperature", "top_p", "eos_token_id", "suppress_tokens")),
    ):
        if (folder / name).exists():
            try:
                settings = read_json(folder, name)
            except BkdinterpError as error:
                found[name] = f"not readable: {error}"
                continue
            found |= {f"{name}: {key}": cut(str(settings[key]), 200) for key in keys if key in settings}
    for name in _CARD:
        if (folder / name).exists():
            try:
                text = read_text(folder, name)
            except BkdinterpError:
                break
            head = text.split("---")[1] if text.startswith("---") and text.count("---") > 1 else ""
            found |= {f"model card: {key}": cut(value.strip(), 200) for key, value in _FIELD.findall(head)}
            break
    return found


def _left_out(n: int) -> str:
    return f"{n - MOST} files are left out." if n > MOST else ""
