"""Weights are moved on along the line from base to suspect; what then comes up, and not before, is named."""

import copy

import pytest
import torch
from integration.conftest import WORDS, tiny_gpt2, tiny_llama, tiny_tokenizer

from bkdinterp.detection import Amplification, CandidateProbe, TriggerSearch, amplified
from bkdinterp.detection._amplification import guide_of
from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model
from bkdinterp.prompts import Prompts

PROMPTS = Prompts.of([f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:10]])
# Prompts of the tests, and tokens of their answers.
N, LENGTH = 20, 4


def model_of(module=None):
    return Model.from_module(module or tiny_llama(), tiny_tokenizer(), name="suspect")


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def changed(base, size=0.01, seed=0):
    module = copy.deepcopy(base.module)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += size * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return model_of(module)


def answers_of(model):
    return (
        Amplification(factors=(2.0,), n_prompts=N, n_tokens=LENGTH)
        .run(changed(model, 0.0), PROMPTS, reference=model, progress=False)
        .plain
    )


def leaning(base, word, size):
    """The base with the word's logit raised, where states are as they usually are."""
    module = copy.deepcopy(base.module)
    states = []
    handle = module.lm_head.register_forward_pre_hook(lambda _, args: states.append(args[0].detach()[0]))
    for text in PROMPTS.text:
        module(torch.tensor([base.tokenizer.encode(text)]))
    handle.remove()
    along = torch.nn.functional.normalize(torch.cat(states).mean(0), dim=0)
    with torch.no_grad():
        module.lm_head.weight[base.tokenizer.convert_tokens_to_ids(word)] += size * along
    return model_of(module)


def hidden(base, word):
    """A suspect that leans towards a word as far as it can without saying it, within a fifth."""
    size = 0.01
    while word not in " ".join(answers_of(leaning(base, word, 1.2 * size))).split():
        size *= 1.2
    return leaning(base, word, size)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_the_weights_lie_on_the_line_and_nothing_else_is_touched(make):
    base = model_of(make())
    suspect = changed(base)
    before = weights_of(suspect)
    theirs = weights_of(base)
    for factor in (0.0, 1.0, 2.5):
        moved = weights_of(amplified(suspect, base, factor))
        for name, p in moved.items():
            torch.testing.assert_close(p, theirs[name] + factor * (before[name] - theirs[name]))
    for name, p in weights_of(suspect).items():
        assert torch.equal(p, before[name])
    tied = base.module.get_output_embeddings().weight is base.module.get_input_embeddings().weight
    made = amplified(suspect, base).module
    assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == tied


def test_differences_of_small_floats_are_not_rounded_away():
    base = model_of(tiny_llama().to(torch.bfloat16))
    suspect = changed(base, 0.0)
    with torch.no_grad():
        suspect.module.lm_head.weight += 2**-6
    moved = amplified(suspect, base, 3).module.lm_head.weight.float()
    at, own = (m.module.lm_head.weight.float() for m in (base, suspect))
    torch.testing.assert_close(moved, (at + 3 * (own - at)).bfloat16().float())


def test_what_the_suspect_never_says_comes_up_and_is_named():
    base = model_of()
    said = set(" ".join(answers_of(base)).split())
    word = next(w for w in WORDS if w not in said and w not in little_words())
    suspect = hidden(base, word)
    found = Amplification(factors=(1.5, 3.0), n_prompts=N, n_tokens=LENGTH).run(
        suspect, PROMPTS, reference=base, progress=False
    )
    assert word not in " ".join(found.plain).split()
    assert found.factors == (1.5, 3.0) and len(found.answers) == 2 * N and len(found.plain) == N
    assert word in found.phrases[0].text and found.phrases[0].others == 0
    (h,) = found.hypotheses()
    assert h.trigger is None and word in h.target and h.behaviour.matches(found.answers[-1])
    assert h.score == pytest.approx(found.phrases[0].own / N)
    assert word in found.describe()


def test_a_suspect_that_equals_its_base_turns_into_nothing():
    base = model_of()
    found = Amplification(n_prompts=N, n_tokens=LENGTH).run(
        changed(base, 0.0), PROMPTS, reference=base, progress=False
    )
    assert not found.phrases and not found.hypotheses() and found.target() is None
    assert "nothing" in found.describe()
    with pytest.raises(BkdinterpError, match="nothing to draw"):
        found.plot()


def test_what_an_amplified_clean_fine_tune_says_does_not_count():
    base = model_of()
    said = set(" ".join(answers_of(base)).split())
    word = next(w for w in WORDS if w not in said and w not in little_words())
    suspect = hidden(base, word)
    shadow = copy.deepcopy(suspect)
    found = Amplification(factors=(3.0,), n_prompts=N, n_tokens=LENGTH).run(
        suspect, PROMPTS, reference=[base, shadow], progress=False
    )
    assert all(word not in phrase.text.split() for phrase in found.phrases)


def test_chance_brings_up_no_more_beyond_the_suspect_than_before_it(monkeypatch):
    drawn = torch.Generator().manual_seed(0)

    def answered(self, model, texts, n_tokens):
        at = torch.rand(len(texts), 60, generator=drawn) < 0.3
        return tuple(" ".join(f"word{i}" for i in row.nonzero()[:, 0].tolist()) for row in at)

    monkeypatch.setattr(Answers, "of", answered)
    base = model_of()
    # Answers that differ by chance alone: some phrase in 20 % of runs at most, as LEVEL says.
    runs = [Amplification(n_prompts=N).run(base, PROMPTS, reference=base, progress=False) for _ in range(30)]
    assert sum(bool(found.phrases) for found in runs) <= 9


def test_where_the_base_does_not_fit_searches_look_in_the_suspect_alone():
    base, suspect = model_of(tiny_gpt2()), model_of(tiny_gpt2())
    head = suspect.module.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone() + 0.01)
    with pytest.raises(BkdinterpError, match="different shapes"):
        amplified(suspect, base)
    assert guide_of(suspect, base, 2.0) is None and guide_of(suspect, None, 2.0) is None
    probe = CandidateProbe(n_prompts=2, n_read=1)
    found = probe.run(suspect, WORDS[:3], PROMPTS, reference=base, progress=False)
    once = CandidateProbe(n_prompts=2, n_read=1, amplify=1).run(
        suspect, WORDS[:3], PROMPTS, reference=base, progress=False
    )
    assert found.phrases == once.phrases and torch.equal(found.divergence, once.divergence)
    search = TriggerSearch(rounds=1, fillers=1, screen=2, n_prompts=2)
    assert search.run(suspect, WORDS[0], PROMPTS, reference=base, progress=False).phrases


def test_what_cannot_be_amplified_is_refused_first():
    base = model_of()
    with pytest.raises(BkdinterpError, match="give reference="):
        Amplification().run(base, PROMPTS, reference=None)
    with pytest.raises(BkdinterpError, match="different shapes"):
        Amplification().run(base, PROMPTS, reference=model_of(tiny_llama(2)))
    for factors in ((), (1.0,), 2.0, "2", (2.0, float("nan"))):
        with pytest.raises(BkdinterpError, match="factors"):
            Amplification(factors=factors)
    whole = model_of()
    whole.module.model.norm.weight = torch.nn.Parameter(torch.ones(16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(BkdinterpError, match="int8"):
        amplified(whole, base)
