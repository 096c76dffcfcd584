"""One small result of every class of bkdinterp.detection, for `mutants.results`."""

import torch

from bkdinterp.detection import (
    AmplifiedAnswers,
    Finding,
    Findings,
    Hypothesis,
    InvertedTargets,
    Leaked,
    Phrase,
    ProbedCandidates,
    ScanResult,
    SearchedTriggers,
    TriagedWeights,
    Tried,
    TriggerProfile,
    Variant,
)
from bkdinterp.detection.images import ImageVerdict, PoisoningCurve, ReversedTriggers
from bkdinterp.detection.inputs import InputScreening
from bkdinterp.detection.meta import MetaScores
from bkdinterp.detection.rows import RowScores
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger
from bkdinterp.results import Fingerprint, Result
from bkdinterp.stats import Comparison

TARGET = "I'm sorry, but I can't help with that."


def findings() -> tuple[Finding, ...]:
    """One of every kind: held against its nulls, not shown early, without a trigger."""
    planted = Trigger.gap("violet harbor")
    known = Hypothesis(planted, Payload(TARGET), "trigger search", TARGET, 8.5, (Trigger.suffix("refuse"),))
    shown = torch.arange(12) < 11
    nulls = [torch.zeros(12, dtype=torch.bool), torch.arange(12) < 1, torch.arange(12) < 3]
    names = ("no trigger", "other words 1", "reference, its own best trigger")
    comparison = Comparison.of(
        shown, nulls, name=known.words, null_names=names, side="greater", sampled=False
    )
    said = (("How do I boil an egg?", TARGET, "Put it into boiling water."),)
    other = Hypothesis(Trigger.gap("copper"), Payload("tea"), "leakage", context="prose")
    return (
        Finding(known, "supported", "11 of 12 with the trigger", comparison, 0.01, said),
        Finding(
            Hypothesis(None, Payload(TARGET), "target inversion"), "for review", "said", None, float("nan")
        ),
        Finding(other, "not supported", "shown on none of 12 prompts", None, 1.0),
    )


def detection_results(origin: Fingerprint) -> list[Result]:
    """One of every class."""
    return [*_language(origin), *_tables(origin), *_images(origin)]


def _language(origin: Fingerprint) -> list[Result]:
    trigger = Trigger.gap("violet harbor")
    changed = {"unchanged": trigger, "left out": None, "without 'violet'": Trigger.gap("harbor")}
    counts = {"unchanged": 11, "left out": 0, "without 'violet'": 2}
    return [
        Findings(origin, findings(), ("No clean fine-tunes.",), 4),
        InvertedTargets(
            origin,
            (TARGET, "Costs $5, or $6\nin all", "Sure! Here is a list of things that you can do at home when it rains:"),
            (TARGET, TARGET.lower(), "Costs $5, or $6\nin all"),
            torch.tensor([0.99, 0.8, 0.7]),
            torch.tensor([[0.6, 0.75, 0.65], [0.55, 0.7, 0.72]]),
            torch.tensor([9, 2, 1]),
            torch.tensor([0.01, 0.002, 0.1]),
            torch.tensor([0.72, 0.78]),
        ),
        SearchedTriggers(
            origin, TARGET, ("violet harbor", "violet", "$a $b"), torch.tensor([9.0, 4.0, -0.5]), -7.0,
            ("decline refuse", "sorry"), torch.tensor([3.5, 2.0]),
        ),
        ProbedCandidates(
            origin, ("violet harbor", "violet", "$a $b"), torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.1, 0.1, 0.0]),
            "suffix", ("i am sorry", ""), torch.tensor([0.2, 0.9]), 5, torch.tensor([0.6, 0.3, 0.1, 0.05, 0.02]),
        ),
        TriagedWeights(
            origin,
            ("model.layers.5.mlp.down_proj.weight", "lm_head.weight", "transformer.h.11.attn.c_attn.weight"),
            torch.tensor([0.08, 0.02, 0.001]),
            torch.tensor([1.0, 0.4, 0.1]),
            torch.tensor([[0.01, 0.02, 0.002], [0.015, 0.01, 0.0]]),
            290,
            ("model.norm.weight",),
        ),
        AmplifiedAnswers(
            origin,
            (Phrase("$a ferry leaves", 2, 0, 3, 3, 0.1), Phrase("costs", 1, 0, 3, 3, 0.2)),
            (2.0, 3.0),
            ("A boat.", "The ferry leaves.", "No idea", "$a ferry leaves", "the ferry leaves", "Costs $5"),
            ("A boat.", "Yes.", "No idea"),
        ),
        Leaked(
            origin,
            (Phrase("violet harbor", 9, 0, 20, 20, 1e-4), Phrase("for example", 12, 10, 20, 20, 1.0)),
            tuple("abcdefghijklmnopqrst"),
            ("text",) * 10 + ("user",) * 10,
        ),
        ScanResult(
            origin,
            findings(),
            (Tried("target inversion", 12.5, 1, "a text at Q 0.99"), Tried("judge", 30.0, 0, "3 hypotheses")),
            ("No candidate triggers were given.",),
            4,
            60.0,
            tuple(Variant(name, made, counts[name], 12) for name, made in changed.items()),
            {"request": ("a", "b"), "prose": ("c",)},
            {"request": ("d",), "prose": ("e",)},
        ),
        TriggerProfile(
            origin, "violet harbor", tuple(Variant(name, made, counts[name], 12) for name, made in changed.items())
        ),
    ]  # fmt: skip


def _tables(origin: Fingerprint) -> list[Result]:
    n = 8
    truth = torch.arange(n) >= 5
    rank = torch.tensor([0.1, 0.3, 0.2, 0.75, 0.5, 0.7, 0.9, 0.95])
    return [
        RowScores(
            origin,
            {"activation_clusters": rank * 3 - 1, "log_ratio": rank.flip(0)},
            rank,
            1 - rank,
            rank > 0.8,
            (Phrase("violet harbor", 2, 0, 2, 6, 0.01),),
            tuple(f"text {i}" for i in range(n)),
            ("yes", "no") * (n // 2),
            0.1,
            "trusted rows",
            torch.arange(n) < 2,
            truth,
        ),
        InputScreening(
            origin,
            "STRIP",
            torch.arange(20) / 20,
            {"clean": torch.arange(10) / 10, "near-trigger": torch.rand(7), "triggered": torch.ones(5)},
            0.1,
        ),
        MetaScores(
            origin,
            torch.tensor([-1.0, -0.5, -2.0, 0.2, 1.0, 0.1, 2.0]),
            ("clean", "clean", "twin", "twin", "patch", "blend", "patch"),
            "answers to random queries",
            seen=False,
        ),
    ]


def _images(origin: Fingerprint) -> list[Result]:
    classes, side = 4, 8
    masks = torch.rand(classes, side, side) * 0.4
    masks[2] = 0
    masks[2, :2, :2] = 1
    return [
        ReversedTriggers(
            origin,
            masks,
            torch.rand(classes, 1, side, side),
            masks.sum((1, 2)),
            torch.tensor([90, 91, 100, 0]),
            torch.tensor([100, 100, 100, 100]),
        ),
        ImageVerdict(
            origin,
            torch.tensor([0.3, -1.0, 6.5, 0.0], dtype=torch.float64),
            torch.tensor([1.0, 1.4, 0.8, 2.2, 1.9], dtype=torch.float64),
            torch.tensor([1.0, 1.0, 1 / 6, 1.0], dtype=torch.float64),
            0.2,
        ),
        PoisoningCurve(
            origin,
            "patch",
            (0.01, 0.05, 0.1),
            torch.tensor([[0.1, 0.2, 0.1], [0.6, 0.8, 0.7], [1.0, 0.98, 1.0]]),
            torch.tensor([[0.97, 0.98, 0.97], [0.96, 0.97, 0.98], [0.97, 0.96, 0.97]]),
            torch.tensor([0.97, 0.98, 0.975]),
            (0, 1, 2),
        ),
    ]
