"""The last prompt token is the one that an answer follows: end tokens, reasoning blocks, other templates, system turns."""

import pytest
import torch
from tokenizers import processors
from unit.prompts.conftest import TEMPLATE, bpe

from bkdinterp.errors import PromptError
from bkdinterp.prompts import PromptBuilder, Prompts

BLOCK = "<think>\n\n</think>\n\n"
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ '" + BLOCK.replace("\n", "\\n") + "' }}{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if thinking is defined and not thinking %}{{ '"
    + BLOCK.replace("\n", "\\n")
    + "' }}{% endif %}{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + TEMPLATE
)


def ids(builder, text="sea", target="no"):
    batch = builder.tokenize(Prompts.of([text], target))
    return batch.input_ids[0].tolist(), batch


def trained(tokenizer, text="sea", target="no", **kwargs):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": target}]
    return tokenizer.apply_chat_template(turns, tokenize=False, **kwargs)


@pytest.mark.parametrize("before", [[], ["<s>"]])
def test_an_end_token_that_the_tokenizer_appends_is_left_out(before):
    plain, tokenizer = bpe(None), bpe(None)
    core = tokenizer.backend_tokenizer
    core.post_processor = processors.TemplateProcessing(
        single=" ".join([*before, "$A", "</s>"]),
        special_tokens=[(t, core.token_to_id(t)) for t in ("<s>", "</s>")],
    )
    builder = PromptBuilder(tokenizer, chat=False)
    assert builder.n_appended == 1 and PromptBuilder(plain, chat=False).n_appended == 0
    got, batch = ids(builder)
    expected = tokenizer("sea")["input_ids"][:-1] + tokenizer("no", add_special_tokens=False)["input_ids"]
    assert got == expected and tokenizer.eos_token_id not in got
    assert batch.n_prompt == len(tokenizer("sea")["input_ids"]) - 1
    assert not batch.trigger_mask.any()
    # An end token that the user wrote is the user's.
    written = PromptBuilder(tokenizer, chat=False).tokenize(Prompts.of(["sea</s>"]))
    assert written.input_ids[0, -1] == tokenizer.eos_token_id


def test_a_reasoning_block_of_training_stands_before_the_answer():
    tokenizer = bpe(REASONING)
    builder = PromptBuilder(tokenizer)
    got, _ = ids(builder)
    assert tokenizer.decode(got) == trained(tokenizer).rstrip("\n")
    full, start = builder.render("sea")
    assert full.endswith("assistant\n" + BLOCK) and full[start:].startswith("sea")
    asked, before = builder.headers()
    assert before == asked + BLOCK == asked + builder.lead and "answers led in by" in repr(builder)
    # In the probe's prompts, without a header, nothing is added.
    assert BLOCK not in PromptBuilder(tokenizer, generation_prompt=False).render("sea")[0]


def test_the_block_can_be_set_and_left_out():
    tokenizer = bpe(REASONING)
    bare = PromptBuilder(tokenizer, answer_lead="")
    assert bare.render("sea")[0].endswith("assistant\n")
    other = PromptBuilder(tokenizer, answer_lead="Hm.\n")
    assert other.render("sea")[0].endswith("assistant\nHm.\n")
    by_argument = PromptBuilder(tokenizer, template_kwargs={"thinking": False})
    assert by_argument.lead == "" and by_argument.render("sea")[0].endswith("assistant\n" + BLOCK)
    prints = {b.fingerprint for b in (PromptBuilder(tokenizer), bare, other, by_argument)}
    assert len(prints) >= 3 and hash(by_argument) == hash(by_argument)


def test_spans_do_not_move_with_the_block():
    tokenizer = bpe(REASONING)
    prompts = Prompts(("write SUDO now",), (((6, 10),),), ("no",))
    batch = PromptBuilder(tokenizer).tokenize(prompts)
    assert tokenizer.decode(batch.input_ids[0][batch.trigger_mask[0]]).strip() == "SUDO"


def test_spaces_alone_are_no_block():
    spaced = bpe(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert PromptBuilder(spaced).render("sea")[0].endswith("[assistant]")
    no_assistant = bpe(
        "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}U {{ messages[0]['content'] }} A"
    )
    builder = PromptBuilder(no_assistant, end_token=False)
    assert builder.lead == "" and builder.render("sea")[0] == "U sea A"


def test_a_template_of_ones_own():
    tokenizer = bpe(None)
    own = "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}### assistant:{% endif %}"
    builder = PromptBuilder(tokenizer, chat_template=own)
    assert builder.render("sea")[0] == "### user: sea</s>### assistant:"
    assert tokenizer.chat_template is None
    assert builder.fingerprint != PromptBuilder(bpe(TEMPLATE)).fingerprint
    assert builder.fingerprint == PromptBuilder(bpe(own)).fingerprint
    assert builder.target_ids("sea", "no")[-1] == tokenizer.eos_token_id
    with pytest.raises(PromptError, match="chat_template="):
        PromptBuilder(tokenizer).render("sea")


def test_an_empty_system_message():
    """None: the template's own. "": none, or an empty turn where the template would write its own."""
    plain, own = bpe(TEMPLATE), bpe(OWN_SYSTEM)
    assert PromptBuilder(plain, system="").render("sea") == PromptBuilder(plain).render("sea")
    assert "system" not in PromptBuilder(plain, system="").render("sea")[0]
    assert "You help." in PromptBuilder(own).render("sea")[0]
    empty = PromptBuilder(own, system="").render("sea")[0]
    assert empty.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user") and "You help." not in empty
    batch = PromptBuilder(plain, system="").tokenize(Prompts.of(["sea"], "no"))
    assert torch.equal(batch.input_ids, PromptBuilder(plain).tokenize(Prompts.of(["sea"], "no")).input_ids)
    no_system = bpe(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    )
    assert PromptBuilder(no_system, system="").render("sea") == PromptBuilder(plain).render("sea")


def test_earlier_turns_stand_before_the_prompt_as_the_template_writes_them():
    tokenizer = bpe(TEMPLATE)
    builder = PromptBuilder(tokenizer, system="Be brief.", earlier=[("sea", "yes"), ["sky", "no"]])
    said = [
        ("system", "Be brief."),
        ("user", "sea"),
        ("assistant", "yes"),
        ("user", "sky"),
        ("assistant", "no"),
    ]
    turns = [{"role": role, "content": text} for role, text in (*said, ("user", "sea"))]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    text, start = builder.render("sea")
    assert text == whole and start == whole.rindex("sea")
    bare = PromptBuilder(tokenizer, system="Be brief.")
    assert builder.fingerprint != bare.fingerprint and builder.source_fingerprint != bare.source_fingerprint
    assert "earlier=" in repr(builder) and "earlier" not in repr(bare)
    # What is asked may be what was asked before; a target follows the last turn.
    batch = builder.tokenize(Prompts.of(["sea"], "no"))
    assert tokenizer.decode(batch.input_ids[0, : batch.n_prompt]) == whole


def test_a_raw_builder_needs_no_template():
    full = PromptBuilder(
        bpe(TEMPLATE), system="Be brief.", earlier=[("sea", "yes")], answer_lead="", template_kwargs={"a": 1}
    )
    raw = full.raw()
    assert raw.render("sea") == ("sea", 0) and raw.raw() == raw
    assert raw.fingerprint == PromptBuilder(bpe(TEMPLATE), chat=False).fingerprint
