"""Converts rows of turns (``messages``, ShareGPT's ``conversations``) to instruction and output. No forwards."""

from collections.abc import Mapping
from typing import Any

from bkdinterp.errors import PromptError
from bkdinterp.values import as_text, shown

CHAT_COLUMNS = ("messages", "conversations")
_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
}


def as_instruction_row(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """One user turn and its answer as ``{instruction, output}``, or ``{instruction}`` without an answer.

    Raises:
        PromptError: there are other turns (several questions, a system message), or a turn lacks role or text.
    """
    column = next((c for c in CHAT_COLUMNS if row.get(c) is not None), CHAT_COLUMNS[0])
    turns = row.get(column)
    if turns is None or isinstance(turns, str | bytes | Mapping) or not hasattr(turns, "__iter__"):
        raise PromptError(f"{where}: column {column!r} must be a list of turns; got {shown(turns)}.")
    said = [_turn(turn, f"{where}, {column}[{i}]") for i, turn in enumerate(turns)]
    roles = [role for role, _ in said]
    if "system" in roles:
        raise PromptError(
            f"{where}: a system message is set on the model, for all prompts: "
            f"model.with_builder(system={shown(dict(said)['system'], 40)}). Drop it from the rows."
        )
    if roles not in (["user"], ["user", "assistant"]):
        raise PromptError(
            f"{where}: got turns of {', '.join(roles) or 'nobody'}, but only one user turn and one answer can be read. "
            'Convert other rows to {"instruction": ..., "output": ...}.'
        )
    return dict(zip(("instruction", "output"), (text for _, text in said)))


def _turn(turn: Any, where: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise PromptError(f"{where} must have a role and a content; got {shown(turn)}.")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise PromptError(f"{where}: unknown role {shown(role)}; known roles are {', '.join(_ROLES)}.")
    return _ROLES[role.lower()], as_text(turn.get("content", turn.get("value")), f"{where}: the content")
