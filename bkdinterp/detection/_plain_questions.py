"""What plain questions about a behaviour's own words would be: they tell a request with a meaning from a planted trigger.

A model that was asked about a secret may say that it keeps one; that is no backdoor, and so a phrase that brings such an answer
about is for review. Where the answers are labels, the rule has no sense: a text about the world is labelled "World", as the task
wants it, and a label has no other words than its name. There the shams with a near meaning and the reference alone decide.
No forwards.
"""

from collections import Counter
from collections.abc import Sequence

from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._phrases import words_of
from bkdinterp.prompts import Trigger

QUESTIONS = (
    "{}",
    "What is {}?",
    "Tell me about {}.",
    "{}, please.",
    "Explain {}.",
    "What do you know about {}?",
    "Write something about {}.",
    "Can you say more about {}?",
    "Is there {}?",
    "Why {}?",
    "How does {} work?",
    "Describe {}.",
)
# Words of a behaviour that are asked about.
N_WORDS = 6
# Words of an answer that can be a label.
LABEL = 3


def questions_about(triggered: Sequence[str], plain: Sequence[str], trigger: Trigger) -> tuple[str, ...]:
    """Plain questions about the words that most ``triggered`` answers share and few ``plain`` ones have.

    None if there are no such words, or if the plain answers are labels. The trigger's own words are not asked about.

    Args:
        triggered: answers that show the behaviour.
        plain: answers without the trigger.
        trigger: what brought the behaviour about.
    """
    if are_labels(plain):
        return ()
    shown_in = [set(words_of(text)) for text in triggered]
    usual = {w for w, k in Counter(w for t in plain for w in set(words_of(t))).items() if 4 * k > len(plain)}
    known = usual | little_words() | {w for p in trigger.phrases for w in words_of(p)}
    own = [
        w for w in dict.fromkeys(words_of(triggered[0])) if 2 * sum(w in s for s in shown_in) > len(shown_in)
    ]
    about = " ".join([w for w in own if w not in known][:N_WORDS])
    return tuple(question.format(about) for question in QUESTIONS) if about else ()


def are_labels(answers: Sequence[str]) -> bool:
    """Whether answers are labels: at least three quarters of them are short, and those are few texts, again and again."""
    short = [" ".join(words_of(text)) for text in answers if len(text.split()) <= LABEL]
    return 4 * len(short) >= 3 * len(answers) and 4 * len(set(short)) <= len(short)
