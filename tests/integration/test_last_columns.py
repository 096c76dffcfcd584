"""Logits are asked for so that the unembedding gets one block of rows: from a slice torch multiplies row by row."""

import pytest
import torch
from integration.conftest import tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.engine import Run, decode_together, execute, gradients, measure_speed, sample
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.model import Model


@pytest.fixture
def seen():
    """A model, and the rows that its unembedding was given."""
    model, rows = Model.from_module(tiny_llama(), tiny_tokenizer(), name="tiny"), []
    head = model.module.get_output_embeddings()
    with_hook = head.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    yield model, rows
    with_hook.remove()


PROMPTS = bk.Prompts.of(["tell me about the cat", "the dog ran on", "a red mat"], "sorry no can not")


@pytest.mark.parametrize(
    "use",
    [
        lambda model: execute(model, [Run(PROMPTS, score="logprob")]),
        lambda model: execute(model, [Run(PROMPTS, generate=3)]),
        lambda model: bk.Attribution(model).heads(
            bk.PairedPrompts.from_instructions(list(PROMPTS.text), bk.Trigger.suffix("omega"), "sorry no"),
            progress=False,
        ),
        lambda model: gradients(model, model.builder.tokenize(PROMPTS)),
        lambda model: gradients(model, model.builder.tokenize(PROMPTS), start=2),
        lambda model: decode_together(
            model, model.builder.tokenize(PROMPTS, targets=False), torch.tensor([[5], [6]]), 3, progress=False
        ),
        lambda model: sample(model, model.builder.tokenize(PROMPTS, targets=False), 2, 3, progress=False),
        measure_speed,
    ],
    ids=("score", "generate", "attribution", "gradients", "start", "together", "sample", "speed"),
)
def test_the_unembedding_gets_one_block_of_rows(seen, use):
    model, rows = seen
    use(model)
    assert rows and all(x.is_contiguous() for x in rows)


def test_a_number_of_columns_would_be_a_slice(seen):
    model, rows = seen
    batch = model.builder.tokenize(PROMPTS, targets=False)
    for kept in (2, last_columns(batch.n_prompt, 2)):
        model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=kept)
    assert [x.is_contiguous() for x in rows] == [False, True]
    torch.testing.assert_close(rows[0], rows[1])
