"""Two environments: the server's tests must run with the versions that the package is developed with."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MATTER = (
    "torch",
    "nnsight",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "accelerate",
    "peft",
    "pytest",
)


def pins(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_servers_environment_has_our_versions():
    ours, servers = pins(ROOT / "constraints.txt"), pins(ROOT / "tests" / "ndif" / "constraints.txt")
    assert "ndif" in servers
    assert {name: servers[name] for name in MATTER} == {name: ours[name] for name in MATTER}
