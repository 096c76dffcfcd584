"""What all prompts begin with is computed once for their unedited run, on every family; numbers stay those of plain forwards."""

from itertools import pairwise

import pytest
import torch
from integration.conftest import family_model, tiny_gpt2, tiny_tokenizer
from integration.families import NEW, tiny_gemma2, tiny_mistral

from bkdinterp.engine import Local, Run, _shared_start, execute, plan
from bkdinterp.errors import BkdinterpError
from bkdinterp.interventions import Patch, ZeroAblate
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Where

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
MAKERS = NEW | {"gpt2": tiny_gpt2}
START = "the cat on the hill can"
TEXTS = [
    f"{START} {rest}" for rest in ("see", "not help", "see the red sky", "run", "help the blue cat today")
]


@pytest.fixture(scope="module", params=["llama", *MAKERS])
def model(request):
    return family_model(request, MAKERS)


@pytest.fixture
def always(monkeypatch):
    """However few tokens it saves."""
    monkeypatch.setattr(_shared_start, "FIXED_TOKENS", 0)


def pairs_of(texts):
    return PairedPrompts.from_instructions(texts, Trigger.suffix("zeta omega"), target="sorry no can not")


def runs_of(pairs, where="last", side="clean"):
    prompts, source = getattr(pairs, side), Run(pairs.triggered)
    edits = [Patch([f"L{i}H{j}"], source, where=Where.of(where)) for i in range(3) for j in range(2)]
    if where != "last":
        edits = [ZeroAblate(f"L{i}H{j}", where=Where.of(where)) for i in range(3) for j in range(2)]
    return [Run(prompts, score="logprob"), *(Run(prompts, edit, score="logprob") for edit in edits)]


def check(model, runs, **settings):
    """Scores are those of one plain forward per run; returns the plan."""
    planned = plan(model, runs, **settings)
    naive = Local(progress=False).run(plan(model, runs, naive=True), model)
    for a, b in zip(Local(progress=False).run(planned, model), naive, strict=True):
        torch.testing.assert_close(a.scores, b.scores, **CLOSE)
    return planned


def starts(planned):
    """Tokens of the starts that unedited runs take."""
    return [
        before.inputs["input_ids"].shape
        for before, chunk in pairwise(planned.chunks)
        if chunk.kind == "base" and before.kind == "start"
    ]


@pytest.mark.parametrize("where", ["last", "trigger"])
def test_scores_are_those_of_plain_forwards(model, where, always):
    pairs = pairs_of(TEXTS)
    planned = check(model, runs_of(pairs, where, "clean" if where == "last" else "triggered"))
    forgets = model.architecture.sliding_window is not None
    if not forgets:
        ((rows, tokens),) = starts(planned)
        assert rows == 1 and tokens >= len(START.split())
        base = next(chunk for chunk in planned.chunks if chunk.kind == "base")
        whole = base.inputs["attention_mask"].shape[1]
        assert base.inputs["input_ids"].shape == (len(TEXTS), whole - tokens)


@pytest.mark.parametrize("family", [tiny_mistral, tiny_gemma2])
@pytest.mark.parametrize("more", [-6, 0, 3])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1] * 4], ids=["padded", "one length"])
def test_windows(family, more, texts, always):
    """Shorter than the rows, as long, longer: padding within a row must not count as tokens of a window."""
    pairs = pairs_of(texts)
    columns = Model.from_module(family(), tiny_tokenizer()).builder.tokenize(pairs.clean).input_ids.shape[1]
    model = Model.from_module(family(sliding_window=columns - 1 + more), tiny_tokenizer())
    planned = check(model, runs_of(pairs))
    assert bool(starts(planned)) == (more >= 0 or texts is not TEXTS)


def test_it_never_reaches_what_edited_rows_compute(llama, always):
    """Edits of all tokens leave nothing before them, edits of the second token one; a prompt may be the start of the others."""
    pairs = pairs_of([START, *TEXTS])
    for where, tokens in (("all", 0), ((1,), 1), ((4,), 4)):
        check(llama, runs_of(pairs, where))
        # Columns of the prompts' first tokens are the same only without padding.
        alike = check(llama, runs_of(pairs_of([START] * 4), where))
        assert [shape[1] for shape in starts(alike)] == [tokens] * bool(tokens)
    ((_, tokens),) = starts(check(llama, runs_of(pairs_of([START] * 3))))
    assert tokens == llama.builder.tokenize(pairs_of([START]).clean).n_prompt - 1
    with pytest.raises(BkdinterpError):
        check(llama, runs_of(pairs, (400,)))


def test_it_is_left_out_where_it_does_not_pay(llama):
    few, many = pairs_of(TEXTS), pairs_of(TEXTS * 8)
    assert not starts(plan(llama, runs_of(few))) and len(starts(plan(llama, runs_of(many)))) == 1
    assert not starts(plan(llama, runs_of(pairs_of([*TEXTS * 2, "no cat"]))))


def test_it_is_made_again_where_a_sweep_goes_on(llama, tmp_path, always):
    """Whichever chunk is missing: a start, the unedited run, edited rows."""
    runs = runs_of(pairs_of(TEXTS))
    whole = execute(llama, runs, folder=tmp_path / "s")
    planned = plan(llama, runs)
    kinds = [chunk.kind for chunk in planned.chunks]
    at = kinds.index("base")
    assert kinds[at - 1] == "start" and planned.chunks.firsts_of(at + 1) == (at - 1, at)
    for missing in ((at - 1,), (at,), (at + 1,), (at - 1, at + 1)):
        for index in missing:
            files = list((tmp_path / "s").rglob(f"chunk-{index:06d}*"))
            assert files
            for file in files:
                file.unlink()
        for a, b in zip(whole, execute(llama, runs, folder=tmp_path / "s"), strict=True):
            assert torch.equal(a.scores, b.scores)
