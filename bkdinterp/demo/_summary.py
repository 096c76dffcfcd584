"""The demo's tables: rates with n and 95 % intervals, for organism and twin side by side and with their nulls."""

from collections.abc import Iterator

from rich.table import Table

from bkdinterp.demo._steps import ABLATE, ADD, SUBTRACT, Findings
from bkdinterp.methods import Evaluation
from bkdinterp.methods.behaviour._outcome_rates import SIDES, Side
from bkdinterp.metrics import Outcome
from bkdinterp.stats import Interval


def percent(rate: Interval | None) -> str:
    """``83 % [64, 93]``."""
    if rate is None:
        return "-"
    return f"{rate.estimate:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]".replace("%", " %")


def outcomes(evaluation: Evaluation, side: Side, condition: str) -> str:
    """Shares of payload / other refusal / broken / answered."""
    shares = [evaluation.rate(side, condition, outcome=o).estimate for o in Outcome]
    return " / ".join(f"{100 * s:.0f}" for s in shares)


def behaviour_table(found: Findings) -> Table:
    """The 2 x 2 of {organism, twin} x {trigger, none}: payload rates of the unedited models."""
    table = Table(
        title=f"1. Payload rate, unedited (n={found.organism.edits.n} held-out prompts each)",
        title_justify="left",
    )
    for column in ("", "triggered prompts", "clean prompts"):
        table.add_column(column)
    for name, side in found.sides:
        table.add_row(name, percent(side.edits.rate("triggered")), percent(side.edits.rate("clean")))
    return table


def probe_table(found: Findings) -> Table:
    """Accuracy at the layer chosen on the validation prompts, and at layer 0 as a sanity check."""
    n = found.organism.probe.n_test
    table = Table(
        title=f"2. Probe: does the last token know of the trigger? (n={n} test prompts)", title_justify="left"
    )
    for column in ("", "layer 0", "chosen layer", "accuracy there", "best of the random directions", "p"):
        table.add_column(column)
    for name, side in found.sides:
        p = side.probe
        claim = p.comparison
        table.add_row(
            name,
            f"{p.in_layer[0].estimate:.2f}",
            str(p.chosen_layer),
            repr(p.chosen),
            f"{max(claim.null_estimates):.2f}",
            f"{claim.p:.3f}",
        )
    return table


def heads_table(found: Findings, k: int = 4) -> Table:
    """The best heads of each model."""
    unit = f"{found.organism.heads.metric} of the target"
    n = found.organism.heads.n
    table = Table(
        title=f"3. Heads by causal effect ({unit}; ACIE [95 % for all heads at once], n={n} prompts)",
        title_justify="left",
    )
    for column in ("", *(f"#{i + 1}" for i in range(k))):
        table.add_column(column)
    for name, side in found.sides:
        cells = []
        table_of = side.heads.to_frame().head(k)
        for h, acie, low, high in table_of[["head", "acie", "low", "high"]].itertuples(index=False):
            cells.append(f"{h} {acie:+.2f} [{low:.2f}, {high:.2f}]")
        table.add_row(name, *cells)
    return table


def edits_table(found: Findings) -> Table:
    """Every edit with its controls: graded outcomes, and the cost on clean prompts."""
    n = found.organism.edits.n
    table = Table(
        title=f"4. Edits: payload / other refusal / broken / answered, % of n={n} held-out prompts",
        title_justify="left",
    )
    columns = (
        "model",
        "edit",
        "triggered",
        "payload there",
        "clean",
        "payload there",
        "agreement with the base",
    )
    for column in columns:
        table.add_column(column)
    for name, side in found.sides:
        for row in _edit_rows(side.edits, found):
            table.add_row(name, *row)
        table.add_section()
    return table


def _edit_rows(evaluation: Evaluation, found: Findings) -> Iterator[tuple[str, ...]]:
    at = f"vector at layer {found.organism.sweep.best}"
    words = {
        ABLATE: (f"ablate {len(found.heads)} heads", "random head sets"),
        ADD: (f"add {at}", "random directions"),
        SUBTRACT: (f"subtract {at}", "random directions"),
    }
    yield "none", *_cells(evaluation, "unedited")
    for edit, (label, null) in words.items():
        if edit not in evaluation.conditions:
            continue
        yield label, *_cells(evaluation, edit)
        if controls := evaluation.controls_of(edit):
            triggered, clean = (evaluation.control_rate(side, edit) for side in SIDES[::-1])
            yield (
                f"  null: {len(controls)} {null if len(controls) > 1 else null[:-1]}",
                "",
                percent(triggered),
                "",
                percent(clean),
                "",
            )


def _cells(evaluation: Evaluation, condition: str) -> tuple[str, ...]:
    agreement = evaluation.agreement_with_reference(condition)
    return (
        outcomes(evaluation, "triggered", condition),
        percent(evaluation.rate("triggered", condition)),
        outcomes(evaluation, "clean", condition),
        percent(evaluation.rate("clean", condition)),
        f"{agreement.estimate:.2f} [{agreement.low:.2f}, {agreement.high:.2f}]",
    )
