"""What a folder holds is listed and hashed; nothing outside of it is read, and nothing in it is run."""

import hashlib
import json
import os

import pytest

from bkdinterp.forensics import _provenance
from bkdinterp.forensics._provenance import provenance


def folder_of(tmp_path, **files):
    home = tmp_path / "suspect"
    home.mkdir()
    for name, text in files.items():
        (home / name.replace("__", ".")).write_text(text)
    return home


def test_files_are_hashed_and_claims_repeated(tmp_path):
    home = folder_of(
        tmp_path,
        config__json=json.dumps({"model_type": "llama", "_name_or_path": "someone/base"}),
        README__md="---\nlicense: apache-2.0\nbase_model: someone/base\n---\n# A model",
    )
    claims, (odd,), tables = provenance(home)
    assert claims["config.json: model_type"] == "llama" and claims["model card: license"] == "apache-2.0"
    # Base and adapter are looked at one after the other: each line says which it is about.
    assert odd.status == "not supported" and "'suspect'" in odd.title
    rows = {name: sha for name, _, sha in tables[0].rows}
    assert rows["README.md"] == hashlib.sha256((home / "README.md").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("modeling_x.py", "code"),
        ("pytorch_model.bin", "run code"),
        ("weights.pkl", "run code"),
        ("data.xyz", "no known kind"),
    ],
)
def test_files_that_do_not_belong_are_named(tmp_path, name, why):
    home = folder_of(tmp_path, config__json="{}")
    (home / name).write_text("x")
    _, (odd,), _ = provenance(home)
    assert odd.status == "for review" and name in odd.title and why in odd.title


def test_a_link_that_leads_out_is_named_and_not_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("private")
    home = folder_of(tmp_path, config__json="{}")
    (home / "notes.txt").symlink_to(secret)
    (home / "loop").symlink_to(home / "loop")
    os.mkfifo(home / "pipe.json")
    _, (odd,), tables = provenance(home)
    assert "leads out" in odd.title and "not a regular file" in odd.title
    assert {name for name, *_ in tables[0].rows} == {"config.json"}


def test_a_broken_config_is_said_and_does_not_stop_the_rest(tmp_path):
    home = folder_of(
        tmp_path, config__json="{" * 5000, generation_config__json=json.dumps({"do_sample": True})
    )
    claims, _, _ = provenance(home)
    assert "not readable" in claims["config.json"] and claims["generation_config.json: do_sample"] == "True"


def test_a_single_file_is_a_model_too(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    claims, (odd,), tables = provenance(path)
    assert claims == {} and odd.status == "not supported" and tables[0].rows[0][0] == "model.gguf"


def test_what_is_not_looked_into_is_said(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".git").mkdir()
    (home / ".git" / "hook.py").write_text("x")
    (home / "more").symlink_to(elsewhere, target_is_directory=True)
    _, (found,), _ = provenance(home)
    assert found.status == "for review" and ".git" in found.title and "more" in found.title
    for i in range(4):
        (home / f"{i}.json").write_text("{}")
    monkeypatch.setattr(_provenance, "FILES", 3)
    _, (found,), _ = provenance(home)
    assert "more than 3 files" in found.title
