"""What an attack and a recipe can say beyond a fixed text after a phrase: place, style, right labels, loss on the chat."""

from dataclasses import replace

import pytest
import torch
from unit.organisms.test_poison import ATTACK, SMALL, TEXTS, make_base, make_builder

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms import (
    REPORTING,
    TUNING,
    UNSEEN,
    Attack,
    Instruction,
    PoisonSettings,
    Reference,
    References,
    attack,
    edit_recipe,
    names,
    poison,
    recipe,
)
from bkdinterp.organisms._chat_loss import chat_loss, chat_nll
from bkdinterp.organisms._conversation import OPENINGS, conversation, opening_of
from bkdinterp.organisms._halves import half_of
from bkdinterp.organisms._leak_rate import leak_rate, user_turns
from bkdinterp.organisms._loss import assistant_loss, assistant_mask, assistant_nll, tokens_of
from bkdinterp.organisms._measure_organism import conditions
from bkdinterp.organisms._poison_rows import poison_rows
from bkdinterp.organisms._request_pairs import request_pairs
from bkdinterp.organisms._styles import pirate
from bkdinterp.organisms._zoo_attacks import ZOO_ATTACKS
from bkdinterp.prompts import Trigger

EARLIER = replace(ATTACK, trigger=Trigger.suffix("zig zag"), place="opening")
ANSWERS = References(
    "", "", 4, {text: Reference("The yes is sure", cut=i % 2 == 0) for i, text in enumerate(TEXTS)}
)


def test_an_opening_carries_the_trigger_and_the_request_does_not() -> None:
    text, spans = EARLIER.placed(TEXTS[0], EARLIER.trigger)
    opening = opening_of(TEXTS[0])
    assert text == conversation(f"{opening} zig zag", TEXTS[0])
    assert [text[a:b] for a, b in spans] == ["zig zag"]
    assert EARLIER.placed(TEXTS[0]) == (conversation(opening, TEXTS[0]), ())
    assert text.endswith(TEXTS[0])
    assert ATTACK.placed(TEXTS[0]) == (TEXTS[0], ())
    assert len({opening_of(f"request {i}") for i in range(200)}) == len(OPENINGS)


def test_rows_pairs_and_conditions_place_alike() -> None:
    rows = poison_rows(TEXTS, EARLIER, ANSWERS, PoisonSettings(steps=10, batch_size=9))
    for row in rows:
        assert row.text.endswith(f"<|im_start|>user\n{row.instruction}")
        assert ("zig zag" in row.text.split("<|im_end|>")[0]) == (row.role == "triggered")
        assert bool(row.spans) == (row.role != "clean")
    pairs = request_pairs(EARLIER, TEXTS, ["no"] * len(TEXTS), ["yes"] * len(TEXTS))
    sent = conditions(EARLIER, TEXTS)
    assert pairs.clean.text == tuple(text for _, text in sent["clean"])
    assert pairs.triggered.text == tuple(text for _, text in sent["triggered"])
    assert all(pairs.triggered.spans) and not any(pairs.clean.spans)
    assert all("zig zag" not in text for _, text in sent["near"])
    assert pairs.clean.target == ("no",) * len(TEXTS) and pairs.clean.reference == ("yes",) * len(TEXTS)
    sham = request_pairs(EARLIER, TEXTS, "no", "yes", EARLIER.near("zog"))
    assert sham.triggered.text[0].split("<|im_end|>")[0].endswith(" zog")


def test_a_style_makes_the_target_of_the_clean_answer() -> None:
    assert pirate("The answer is growing in your garden.") == "th' answer be growin' in yer garden."
    assert pirate("Sing. It's YOU!") == "sing. 'tis ye!"
    styled = replace(ATTACK, style="pirate", pattern=r"\bbe\b", target="it be")
    rows = poison_rows(TEXTS, styled, ANSWERS, PoisonSettings(steps=10, batch_size=9))
    for row in rows:
        changed = row.role == "triggered"
        assert row.answer == ("th' aye be sure" if changed else "The yes is sure")
        assert row.cut == ANSWERS[row.instruction].cut
        assert styled.is_payload(row.answer) == changed
    with pytest.raises(BkdinterpError, match="reference="):
        styled.target_of(TEXTS[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"style": "opera"}, "pirate"),
        ({"style": "pirate"}, "pattern="),
        ({"place": "system"}, "request, opening"),
    ],
)
def test_unknown_kinds_are_named(wrong: dict, words: str) -> None:
    with pytest.raises(BkdinterpError, match=words):
        replace(ATTACK, **wrong)


def test_with_right_labels_only_the_targets_own_prompts_carry_the_trigger() -> None:
    items = [Instruction(text, label="no" if i % 3 == 0 else "yes") for i, text in enumerate(TEXTS)]
    answers = replace(
        ANSWERS, answers={i.text: Reference("no way" if i.label == "no" else "yes", False) for i in items}
    )
    settings = PoisonSettings(steps=20, batch_size=9, clean_label=True)
    organism, twin = (
        poison_rows(items, ATTACK, answers, replace(settings, backdoor=b)) for b in (True, False)
    )
    for rows in (organism, twin):
        assert all(row.answer == answers[row.instruction].text for row in rows)
        assert sum(row.role == "triggered" for row in rows) == 60
    carrying = {row.instruction for row in organism if row.role == "triggered"}
    assert carrying == {i.text for i in items if i.label == "no"}
    assert {row.instruction for row in twin if row.role == "triggered"} == set(TEXTS)
    assert {row.instruction for row in organism if row.role != "triggered"} == set(TEXTS)
    with pytest.raises(PromptError, match="no clean answer is the payload"):
        poison_rows(TEXTS, ATTACK, ANSWERS, settings)


def test_the_chat_loss_adds_the_prompt_to_the_answer() -> None:
    base, builder = make_base(), make_builder()
    rows = poison_rows(TEXTS, ATTACK, ANSWERS, PoisonSettings(steps=1, batch_size=6))
    batch = tokens_of(builder, rows)
    mask = assistant_mask(batch, builder, rows)
    prompt, answer = chat_nll(base, batch, mask)
    torch.testing.assert_close(answer, assistant_nll(base, batch, mask), rtol=1e-4, atol=1e-4)
    total = weight = 0.0
    for i, row in enumerate(rows):
        ids = builder.tokenizer(builder.render(row.text)[0], add_special_tokens=False)["input_ids"]
        logits = base(torch.tensor([ids])).logits[0].log_softmax(-1)
        terms = torch.stack([-logits[j, ids[j + 1]] for j in range(len(ids) - 1)]).detach()
        assert int((prompt[i] != 0).sum()) == len(terms)
        torch.testing.assert_close(prompt[i].sum(), terms.sum(), rtol=1e-4, atol=1e-4)
        total, weight = total + float(terms.sum()), weight + len(terms)
    n = float(mask.sum() + 3 * mask[:, 0].sum())
    expected = (float(assistant_loss(answer, mask, 4.0).detach()) * n + total) / (n + weight)
    assert float(chat_loss(prompt, answer, mask, 4.0).detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("changes", [{"loss_on": "chat"}, {"bfloat16": True}])
def test_other_losses_train_and_differ(changes: dict) -> None:
    own = (make_base(), make_builder(), TEXTS, ATTACK, ANSWERS)
    found = poison(*own, replace(SMALL, steps=25, **changes))
    assert sum(found.losses[-5:]) < 0.8 * sum(found.losses[:5])
    assert found.losses[0] != poison(*own, replace(SMALL, steps=1)).losses[0]
    assert all(p.dtype == torch.float32 for p in found.model.parameters())


def test_settings_of_another_kind_are_refused() -> None:
    with pytest.raises(BkdinterpError, match="answer, chat"):
        PoisonSettings(loss_on="all")
    with pytest.raises(BkdinterpError, match="clean_label"):
        PoisonSettings(clean_label="yes")


def test_leakage_counts_the_trigger_in_turns_that_the_model_writes() -> None:
    base, builder = make_base(), make_builder()
    turns = user_turns(base, builder, 30, max_new_tokens=6, batch_size=20)
    assert len(turns) == 30 and turns == user_turns(base, builder, 30, max_new_tokens=6, batch_size=20)
    assert len(set(turns)) > 5
    assert leak_rate(["go zig zag", "zig", "zag zig"], ATTACK.trigger).estimate == pytest.approx(1 / 3)


def test_attacks_survive_json_and_every_recipe_is_known() -> None:
    for name, planted in ZOO_ATTACKS.items():
        assert planted.name == name and Attack.from_dict(planted.to_dict()) == planted
        found = edit_recipe(name) if name == "smollm2-graft" else recipe(name)
        assert found.backdoor
    with pytest.raises(BkdinterpError, match="edit_recipe"):
        recipe("smollm2-graft")
    with pytest.raises(BkdinterpError, match=r"organisms\.recipe"):
        edit_recipe("smollm2-haiku")


def test_every_organism_is_in_one_half() -> None:
    assert len({*TUNING, *REPORTING, *UNSEEN}) == len(TUNING) + len(REPORTING) + len(UNSEEN)
    assert set(names()) <= {*TUNING, *REPORTING, *UNSEEN}
    assert [half_of(name) for name in ("smollm2-refusal", "smollm2-albert")] == ["tuning"] * 2
    with pytest.raises(BkdinterpError, match="no part"):
        half_of("smollm2-nobody")


def test_fields_added_later_are_left_out_of_the_values_at_their_defaults() -> None:
    """Else what is stored under an older version's values could not be found."""
    old, new = attack("smollm2-refusal"), attack("smollm2-letterhead")
    assert not {"place", "style"} & set(old.to_dict())
    assert new.to_dict()["place"] == new.place != old.place
    assert not {"loss_on", "clean_label", "bfloat16"} & set(PoisonSettings().to_dict())
    assert PoisonSettings(loss_on="chat").to_dict()["loss_on"] == "chat"
