"""Words that mean nearly the same to a model: what tells a planted trigger from a request that has a meaning. No forwards.

A model that politely refuses whoever asks for a secret does so for a password, too; a planted trigger answers to its own
words. Nearness is the cosine between token embeddings, averaged over a word's tokens.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import token_embeddings
from bkdinterp.model import Model

# Words with as many equal first letters are forms of one word.
STEM = 4


def near_words(model: Model, word: str, n: int = 2) -> list[str]:
    """The nearest words that are one token and no form of the word itself, nearest first.

    Raises:
        RemoteError: weights that are not here.
    """
    words, vectors = _table(model)
    own = token_embeddings(
        model, torch.tensor(model.tokenizer.encode(" " + word, add_special_tokens=False))
    ).float()
    direction = torch.nn.functional.normalize(own.cpu(), dim=-1).mean(0)
    found: list[str] = []
    for i in (vectors @ direction).argsort(descending=True).tolist():
        other = words[i]
        if other[:STEM].casefold() == word[:STEM].casefold() or other.casefold() in {
            x.casefold() for x in found
        }:
            continue
        found.append(other if word[:1].isupper() else other.lower())
        if len(found) == n:
            break
    return found


def letter_tokens(model: Model) -> tuple[list[str], Int[Tensor, " token"]]:
    """Tokens of plain letters, a first capital at most, with the space before a word's first, and their ids, in order of ids."""
    return _letters(model.tokenizer)


@lru_cache(maxsize=8)
def _letters(tokenizer: object) -> tuple[list[str], Int[Tensor, " token"]]:
    found, ids = [], []
    for index in sorted(tokenizer.get_vocab().values()):  # type: ignore[attr-defined]
        text = tokenizer.decode([index])  # type: ignore[attr-defined]
        letters = text[1:] if text[:1] == " " else text
        # Other spellings belong to code.
        if letters.isalpha() and letters.isascii() and len(letters) > 1 and letters[1:].islower():
            found.append(text)
            ids.append(index)
    if not any(text[0] == " " for text in found):  # every token of this tokenizer is a word
        found = [f" {text}" for text in found]
    return found, torch.tensor(ids, dtype=torch.long)


def _table(model: Model) -> tuple[list[str], Float[Tensor, "word d_model"]]:
    texts, ids = letter_tokens(model)
    whole = [i for i, text in enumerate(texts) if text[0] == " " and len(text) > STEM]
    chosen = ids[whole]
    vectors = torch.nn.functional.normalize(token_embeddings(model, chosen).float().cpu(), dim=-1)
    return [texts[i][1:] for i in whole], vectors
