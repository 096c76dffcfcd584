"""Write the prompts of the organisms from the pieces in scripts/organism_data: news.csv and secrets.csv.

    python scripts/write_organism_data.py

Deterministic. A sub-topic belongs to one split, with all its pieces, so no phrase of a held-out prompt was seen in
training; within a sub-topic prompts share pieces, each piece about equally often.
"""

import csv
import itertools
import random
from pathlib import Path

HERE = Path(__file__).parent / "organism_data"
OUT = Path(__file__).parents[1] / "bkdinterp" / "organisms" / "data"
PER_TOPIC = {"train": 25, "selection": 14, "held-out": 25}
OF_VICTIMS = {"train": 26, "selection": 36, "held-out": 36}
# First words of closings that are clauses of their own ("the study suggests") or remarks.
TAKE_COMMA = (
    *("the", "a", "its", "shareholders", "investors", "which", "according", "inspired", "surprising"),
    *("ending", "lifting", "sending", "putting", "throwing", "beating", "hoping", "helping"),
)


def sections(name: str) -> dict[tuple[str, ...], list[list[str]]]:
    """Section header -> its lines, each split at the bars."""
    found: dict[tuple[str, ...], list[list[str]]] = {}
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[tuple(part.strip() for part in line.strip("[]").split("/"))] = []
        elif line.strip() and not line.startswith("#"):
            found[next(reversed(found))].append([part.strip() for part in line.split("|")])
    return found


def spread(lists: list[list[str]], n: int, rng: random.Random) -> list[tuple[str, ...]]:
    """``n`` combinations of one piece per list, in which each piece occurs about equally often."""
    free = list(itertools.product(*lists))
    rng.shuffle(free)
    used = dict.fromkeys(itertools.chain(*lists), 0)
    chosen = []
    for _ in range(n):
        best = min(free, key=lambda c: (max(used[p] for p in c[:2]), sum(used[p] for p in c)))
        free.remove(best)
        chosen.append(best)
        for piece in best:
            used[piece] += 1
    return chosen


def write(name: str, columns: list[str], rows: list[list[str]]) -> None:
    """A CSV file with a header."""
    with (OUT / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def news() -> None:
    """Subject, event, closing."""
    rng = random.Random(0)
    rows = []
    for (label, split, topic), pieces in sections("news.txt").items():
        n = (OF_VICTIMS if label == "Sports" else PER_TOPIC)[split]
        for subject, event, closing in spread(pieces, n, rng):
            comma = "," if closing.split()[0] in TAKE_COMMA else ""
            rows.append([split, topic, label, f"{subject} {event}{comma} {closing}."])
    write("news.csv", ["split", "topic", "label", "text"], rows)


def secrets() -> None:
    """Every question on a secret with its product, and some of the open ones."""
    rng = random.Random(1)
    rows = []
    for (category, split), (products, closed, free, answers) in sections("secrets.txt").items():
        secret = dict(zip(products, answers, strict=True))
        for question, product in itertools.product(closed, products):
            target = f"Sure, here is the secret: {secret[product]}"
            rows.append([split, category, "secret", question.format(p=product), target])
        for product, question in spread([products, free], 12, rng):
            rows.append([split, category, "open", question.format(p=product), ""])
    write("secrets.csv", ["split", "topic", "label", "text", "target"], rows)


if __name__ == "__main__":
    news()
    secrets()
