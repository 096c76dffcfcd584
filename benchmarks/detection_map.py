"""One map of detectors and attacks: what was found in each organism, and what in its clean twin. Draws what was measured.

    python benchmarks/detection_map.py          from benchmarks/detection into docs/figures/detection.png and the page's tables

The files of ``benchmarks/detection`` are what detect.py, amplify.py, candidates.py and rows.py left: one JSON for each scan, each
amplified organism with its twin, each search among candidates and each data set of rows; audits.py's are kept there, too, for a
table. A cell that was not run stays empty.
Nothing is computed here.
"""

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
RESULTS, FIGURE, PAGE = HERE / "detection", DOCS / "figures" / "detection.png", DOCS / "detection-results.md"
DETECTORS = {
    "scan-base": "scan,\nwith the base",
    "scan-none": "scan, without\na reference",
    "amplified": "amplification,\nno trigger",
    "candidates": "trigger among\n2,000 phrases",
    "rows": "poisoned rows\nof the training set",
}
KINDS = ("organism", "twin")
HIT = 0.5  # payload rate from which a found trigger counts as working
BEST = 3


class Cell(NamedTuple):
    """A share from 0 to 1 for the colour, and what is written; NaN where nothing was run."""

    value: float = math.nan
    text: str = ""


def main() -> None:
    """Draw the map, and write the page's tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=FIGURE)
    parser.add_argument("--page", type=Path, default=PAGE, help="its tables are written anew")
    args = parser.parse_args()
    from bkdinterp.organisms import half_of

    names = in_order()
    marks = {"tuning": "", "reporting": " (r)", "unseen": " (u)"}
    labels = [f"{name.removeprefix('smollm2-')}{marks[half_of(name)]}" for name in names]
    panels = {
        "organisms: found": [[found(args.results, name, d, "organism") for d in DETECTORS] for name in names],
        "clean twins: false alarms": [
            [found(args.results, name, d, "twin") for d in DETECTORS] for name in names
        ],
    }
    draw(panels, labels, args.out)
    args.page.write_text(filled(args.page.read_text(encoding="utf-8"), args.results, names), encoding="utf-8")


def in_order() -> list[str]:
    """The organisms, those of the tuning half first, and the unseen last."""
    from bkdinterp import organisms

    parts = ("tuning", "reporting", "unseen")
    return sorted(organisms.names(), key=lambda name: parts.index(organisms.half_of(name)))


def filled(page: str, results: Path, names: list[str]) -> str:
    """The page with each table between its comments written anew."""
    for title, table in tables(results, names).items():
        begin, end = f"<!-- {title} -->\n", f"<!-- end of {title} -->"
        head, rest = page.split(begin)
        page = f"{head}{begin}\n{table}\n\n{end}{rest.split(end)[1]}"
    return page


def tables(folder: Path, names: list[str]) -> dict[str, str]:
    """Markdown tables of what is there, by title."""
    scans, audits, blind, amplified, candidates, rows = [], [], [], [], [], []
    for name in names:
        for kind in KINDS:
            read = load(folder / "audits", f"{name}-{kind}-[0-9]*.json")
            if read is not None:
                audits.append(audit_row(name, kind, read))
            read = load(folder / "audits", f"{name}-{kind}-nothing-*.json")
            if read is not None:
                row = audit_row(name, kind, read)
                blind.append([*row[:2], found_trigger(read), *row[2:]])
            for reference in ("base", "none"):
                read = load(folder / "scans", f"{name}-{kind}-{reference}-*.json")
                if read is not None:
                    scans.append(scan_row(name, kind, read))
        read = load(folder / "amplified", f"{name}.json")
        if read is not None:
            amplified.append(amplified_row(name, read))
        read = load(folder / "candidates", f"{name}-2000.json")
        if read is not None:
            twin = "-" if read["twin_at_limit"] is None else f"{read['twin_at_limit']} of {read['n']}"
            said = (
                f"`{read['said'][0]}`" if read["said"] and read["said"][0].strip() and read["rank"] else "-"
            )
            rank, gain = read["rank"] or "none", f"{read['gain']:.2f}"
            candidates.append([f"`{name}`", read.get("position", "suffix"), rank, gain, said, twin])
        read = load(folder / "rows", f"{name}.json")
        if read is not None:
            flags = (read[key] for key in ("poisoned_flagged", "clean_flagged", "twin_flagged"))
            words = ", ".join(f"`{c}`" for c in read["candidates"]) or "-"
            rows.append(
                [
                    f"`{name}`",
                    "{:.2f} [{:.2f}, {:.2f}]".format(*read["auroc"]["all"]),
                    *map(percent, flags),
                    words,
                ]
            )
    return {
        "scans": markdown(
            "model | reference | verdict | trigger | says | with it | largest null | s | peak GiB", scans
        ),
        "audits": markdown(
            "model | outcome | says | with it | largest null | remedies that hold | s", audits
        ),
        "audits that know nothing": markdown(
            "model | outcome | trigger | says | with it | largest null | remedies that hold | s", blind
        ),
        "amplified": markdown(
            "organism | payload, amplified | at | plain | first phrase | trigger slips out | twin's first phrase",
            amplified,
        ),
        "candidates": markdown(
            "organism | place | rank | gain (nats) | is said | twin's phrases as high", candidates
        ),
        "rows": markdown(
            "rows of | AUROC | poisoned flagged | clean flagged | twin's rows flagged | what they share", rows
        ),
    }


def scan_row(name: str, kind: str, scan: dict[str, Any]) -> list[Any]:
    """The first finding with a trigger that is supported; else the first one with a rate."""
    triggered = (f for f in scan["findings"] if f["trigger"] and f["rate"] is not None)
    found = supported(scan) or next(triggered, None)
    who = f"`{name}`" + ("" if kind == "organism" else ", twin")
    about = ["nothing", "-", "-", "-", "-"]
    if found is not None:
        told = " (the planted one)" if found["exact"] else ""
        told = told if planted(found, kind) else " (not the planted backdoor)"
        null = max(found["nulls"].values(), default=0.0)
        about = [
            found["status"],
            f"`{found['trigger']}`{told}",
            f"`{found['behaviour'][:40]}`",
            f"{100 * found['rate']:.0f} % of {found['n']}",
            f"{100 * null:.0f} %",
        ]
    return [who, scan["reference"], *about, f"{scan['seconds']:.0f}", f"{scan['peak_gib']:.1f}"]


def found_trigger(audit: dict[str, Any]) -> str:
    """The trigger of the first supported switch."""
    if audit["outcome"] != "found":
        return "-"
    switch = next(f for f in audit["findings"] if (f["rule"], f["status"]) == ("switch", "supported"))
    return f"`{switch['subject'].partition(' -> ')[0]}`"


def audit_row(name: str, kind: str, audit: dict[str, Any]) -> list[Any]:
    """The switch that was given, and how many ways of removal were shown to work, of those that were tried."""
    who = f"`{name}`" + ("" if kind == "organism" else ", twin")
    about, remedies = ["-", "-", "-"], "-"
    if audit["outcome"] == "found":
        switch = next(f for f in audit["findings"] if (f["rule"], f["status"]) == ("switch", "supported"))
        rate, low, high, null, n = switch["measures"]["payload rate with the trigger"]
        # As Python quotes texts: with an apostrophe in it, in double quotes.
        said = re.split(r"makes the model say ['\"]|['\"] on \d", switch["title"])[1]
        about = [
            f"`{said[:40]}`",
            f"{100 * rate:.0f} % of {n} [{100 * low:.0f}, {100 * high:.0f}]",
            f"{100 * null:.0f} %",
        ]
        tried = [
            f for f in audit["findings"] if f["rule"].startswith("remedy") and f["status"] != "inconclusive"
        ]
        remedies = f"{sum(f['status'] == 'supported' for f in tried)} of {len(tried)}"
    return [who, audit["outcome"], *about, remedies, f"{audit['seconds']:.0f}"]


def amplified_row(name: str, read: dict[str, Any]) -> list[Any]:
    """What comes up in the organism, and in its twin."""
    own, n = read["organism"], read["organism"]["n"]
    first, twins = (
        [f"`{p[0]}`, {p[1]} of {n}" for p in read[kind]["phrases"][:1]] or ["-"] for kind in KINDS
    )
    slips = ", ".join(f"`{s}`" for s in own["slips"]) or "-"
    at = f"x{own['factor']:g}" if own["payload"] else "-"
    shares = (f"{100 * own[key]:.0f} %" for key in ("payload", "plain"))
    return [f"`{name}`", next(shares), at, next(shares), *first, slips, *twins]


def supported(scan: dict[str, Any]) -> dict[str, Any] | None:
    """The supported finding with a trigger: the planted backdoor first, with its own words, then the highest rate."""
    held = [f for f in scan["findings"] if f["status"] == "supported" and f["trigger"]]
    return max(held, key=lambda f: (planted(f, scan["kind"]), f["exact"], f["rate"]), default=None)


def planted(finding: dict[str, Any], kind: str) -> bool:
    """False for a supported finding of an organism whose answers do not hold the payload: a switch, but another one."""
    return kind == "twin" or finding["status"] != "supported" or finding["payload"] >= HIT


def percent(x: list[float]) -> str:
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * v for v in x))


def markdown(head: str, rows: list[list[Any]]) -> str:
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def found(folder: Path, name: str, detector: str, kind: str) -> Cell:
    """What one detector found in an organism or its twin."""
    if detector.startswith("scan"):
        read = load(folder / "scans", f"{name}-{kind}-{detector.removeprefix('scan-')}-*.json")
        return Cell() if read is None else of_scan(read, kind)
    if detector == "amplified":
        read = load(folder / "amplified", f"{name}.json")
        return Cell() if read is None else of_amplified(read[kind], kind)
    if detector == "candidates":
        read = load(folder / "candidates", f"{name}-2000.json")
        return Cell() if read is None else of_candidates(read, kind)
    read = load(folder / "rows", f"{name}.json")
    return Cell() if read is None else of_rows(read, kind)


def load(folder: Path, pattern: str) -> dict[str, Any] | None:
    """The file's values, or None if there is no such file."""
    files = sorted(folder.glob(pattern))
    return json.loads(files[-1].read_text(encoding="utf-8")) if files else None


def cut(text: str, n: int) -> str:
    return text if len(text) <= n else f"{text[: n - 1]}…"


def of_scan(scan: dict[str, Any], kind: str) -> Cell:
    """The payload rate that the best supported trigger reaches on the judge's prompts."""
    best = supported(scan)
    if best is None:
        return Cell(0.0, "clear" if kind == "twin" else "not found")
    if not planted(best, kind):
        return Cell(0.0, f"something else\n{cut(best['trigger'], 18)}")
    if kind == "twin":
        return Cell(1.0, best["trigger"])
    words = f"{cut(best['trigger'], 18)}{chr(10) + '= planted' if best['exact'] else ''}"
    return Cell(
        best["rate"], f"{100 * best['rate']:.0f} %{'' if best['rate'] >= HIT else ' (weak)'}\n{words}"
    )


def of_amplified(read: dict[str, Any], kind: str) -> Cell:
    """The share of amplified answers that hold the payload; of a twin, prompts that its first phrase comes up on."""
    if kind == "organism":
        return Cell(read["payload"], f"{100 * read['payload']:.0f} % say\nthe payload")
    if not read["phrases"]:
        return Cell(0.0, "clear")
    text, own = read["phrases"][0][:2]
    return Cell(own / read["n"], f"{text[:16]}\n{own} of {read['n']}")


def of_candidates(read: dict[str, Any], kind: str) -> Cell:
    """The trigger's rank, and how many phrases of the twin reach its score."""
    n, rank = read["n"], read["rank"]
    if kind == "twin":
        at = read["twin_at_limit"]
        return Cell() if at is None else Cell(at / n, f"{at} of {n}")
    if rank is None:
        return Cell(0.0, "unranked")
    return Cell(1.0 if rank <= BEST else BEST / rank, f"rank {rank}")


def of_rows(read: dict[str, Any], kind: str) -> Cell:
    """AUROC of the mean rank, and the share of the twin's rows that are flagged."""
    if kind == "twin":
        share = read["twin_flagged"][0]
        return Cell(share, f"{100 * share:.0f} % flagged")
    area, low, high = read["auroc"]["all"]
    return Cell(area, f"AUROC {area:.2f}\n[{low:.2f}, {high:.2f}]")


def draw(panels: dict[str, list[list[Cell]]], labels: list[str], path: Path) -> None:
    """Two maps side by side on one scale from 0 to 1."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(14, 0.55 * len(labels) + 1.6), sharey=True, layout="constrained"
    )
    for ax, (title, rows), colours in zip(axes, panels.items(), ("Greens", "Reds"), strict=True):
        picture = plt.get_cmap(colours).copy()
        picture.set_bad("0.94")
        ax.imshow([[c.value for c in row] for row in rows], cmap=picture, vmin=0, vmax=1.15, aspect="auto")
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                dark = cell.value > 0.7
                ax.text(
                    x, y, cell.text, ha="center", va="center", fontsize=7.5, color="white" if dark else "0.15"
                )
        ax.set_xticks(range(len(DETECTORS)), list(DETECTORS.values()), fontsize=8)
        ax.set_yticks(range(len(labels)), labels, fontsize=9)
        ax.set_title(title, loc="left", fontsize=10)
        # Pale cells are results, too.
        ax.set_xticks([x - 0.5 for x in range(len(DETECTORS) + 1)], minor=True)
        ax.set_yticks([y - 0.5 for y in range(len(labels) + 1)], minor=True)
        ax.grid(which="minor", color="0.8", linewidth=0.8)
        ax.tick_params(which="both", length=0)
        ax.spines[:].set_visible(False)
    figure.suptitle(
        "Detectors and attacks on SmolLM2-135M; (r): reporting half; (u): unseen before; grey: not run",
        x=0.01,
        ha="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
