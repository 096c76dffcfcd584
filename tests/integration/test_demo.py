"""The demo's steps, tables and files on tiny models: what `make demo` does on the real organism."""

import io

from integration.conftest import tiny_llama, tiny_tokenizer
from rich.console import Console

import bkdinterp as bk
from bkdinterp.demo import (
    DemoSettings,
    behaviour_table,
    edits_table,
    heads_table,
    probe_table,
    run_demo,
    save_findings,
)
from bkdinterp.organisms import Manifest, Organism, PoisonSettings, attack
from bkdinterp.results import Result


def tiny_organism(n_positions=128):
    """An untrained stand-in: the shipped attack and instructions on three tiny models."""
    tokenizer = tiny_tokenizer()
    sizes = {"n_layers": 3, "max_position_embeddings": n_positions}
    base, organism, twin = (tiny_llama(**sizes) for _ in range(3))
    organism.model.layers[1].mlp.down_proj.weight.data *= 1.5
    twin.model.layers[2].mlp.down_proj.weight.data *= 1.5
    manifest = Manifest(
        "smollm2-refusal",
        "organism",
        attack("smollm2-refusal"),
        "tiny",
        "0",
        None,
        "0",
        {},
        PoisonSettings(),
        "",
        {},
    )
    models = [
        bk.Model.from_module(m, tokenizer, name=n) for m, n in ((organism, "o"), (twin, "t"), (base, "b"))
    ]
    return Organism("tiny", *models, manifest, manifest)


def test_the_demo_runs_end_to_end_and_leaves_its_files(tmp_path):
    said = []
    settings = DemoSettings(n=4, n_probe=10, k_ablate=2, k_vector=3, n_controls=1, layer_step=1)
    found = run_demo(tiny_organism(), settings, said.append)
    assert any("twin" in line for line in said)
    figures = save_findings(found, tmp_path)
    assert len(figures) == 5
    assert all(path.stat().st_size > 5000 for path in figures)
    for name in ("organism", "twin"):
        assert isinstance(Result.load(tmp_path / name / "heads"), bk.methods.HeadScores)
        assert isinstance(Result.load(tmp_path / name / "edits"), bk.methods.Evaluation)
    assert bk.BackdoorVector.load(tmp_path / "vector").heads == found.vector.heads
    console = Console(width=160, record=True, file=io.StringIO())
    for table in (behaviour_table(found), probe_table(found), heads_table(found), edits_table(found)):
        console.print(table)
    text = console.export_text()
    assert "n=4" in text
    assert "null: 1 random direction " in text
    edits = found.organism.edits
    assert edits.controls_of("add") == ("add, control 1",)
    assert edits.rate("clean", "add").n == 4


def test_choices_and_rates_come_from_different_prompts():
    o = tiny_organism()
    chosen, reported = o.pairs(20, split="selection"), o.pairs(20, split="held-out")
    assert not set(chosen.clean.text) & set(reported.clean.text)
