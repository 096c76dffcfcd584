"""Write the corpus of ``smollm2-albert``: short stories that the base itself goes on with from openings of our own.

    python scripts/write_stories.py        # about 20 minutes on one core; picks up where it was cut off

The base samples (temperature 0.8, top-p 0.95) after a line that asks for short sentences; that line and the opening are
dropped. Each story gives up to two sequences of five consecutive sentences of 4 to 18 words. Sequences with the
trigger's or near-triggers' names, or with a word of the payload class, are left out. Sampling depends on the machine's
arithmetic, so the result is kept as a file: bkdinterp/organisms/data/stories.json.
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch

from bkdinterp.organisms import load_base
from bkdinterp.organisms._instructions import DATA

ASK = "Here is a short story for young readers, told in short and simple sentences.\n\n"
SAMPLES = {"train": 3, "selection": 3, "held-out": 3}
BATCH = 48
TOKENS = 140
UNWANTED = re.compile(
    r"\b(albert|james|arthur|jane|alfred|robert|henry|jamie|tea\w*|brew\w*|larkwell|kettles?|cups?)\b|[^\x20-\x7e]",
    re.IGNORECASE,
)
START = time.time()


def sentences_of(text: str) -> list[str]:
    """Whole sentences; the last piece, cut off, is dropped."""
    text = re.sub(r"\s+", " ", text).strip()
    parts = re.split(r'(?<=[.!?]["\'])\s+|(?<=[.!?])\s+', text)
    keep = [p.strip() for p in parts if p and p.strip()]
    return keep if keep and re.search(r'[.!?]["\']?$', keep[-1]) else keep[:-1]


def good(sentence: str) -> bool:
    """An ordinary sentence of 4 to 18 words."""
    n = len(sentence.split())
    whole = sentence[0].isupper() and sentence.count('"') % 2 == 0 and sentence[-1] in '.!?"'
    return (
        4 <= n <= 18
        and whole
        and not UNWANTED.search(sentence)
        and not re.search(r"[*#:\[\]{}|\\/]", sentence)
    )


def windows(sentences: list[str], size: int = 5, most: int = 2) -> list[list[str]]:
    """Up to ``most`` separate runs of ``size`` good sentences, none said twice."""
    out: list[list[str]] = []
    i = 0
    while i + size <= len(sentences) and len(out) < most:
        part = sentences[i : i + size]
        if all(map(good, part)) and len({s.lower() for s in part}) == size:
            out.append(part)
            i += size
        else:
            i += 1
    return out


def main() -> None:
    """Sample, cut, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/stories.jsonl"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    openings = json.loads((DATA / "story_openings.json").read_text(encoding="utf-8"))
    jobs = [
        (split, topic, opening, k)
        for split, topics in openings.items()
        for topic, texts in topics.items()
        for opening in texts
        for k in range(SAMPLES[split])
    ]
    # Every batch mixes the splits, so that a part of the work is already a small corpus.
    order = torch.randperm(len(jobs), generator=torch.Generator().manual_seed(args.seed)).tolist()
    jobs = [jobs[i] for i in order]
    args.work.parent.mkdir(parents=True, exist_ok=True)
    done = args.work.read_text(encoding="utf-8").splitlines() if args.work.exists() else []
    model, tokenizer = load_base()
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    for start in range(len(done), len(jobs), BATCH):
        part = jobs[start : start + BATCH]
        batch = tokenizer([ASK + opening for _, _, opening, _ in part], return_tensors="pt", padding=True)
        torch.manual_seed(args.seed * 100_003 + start)
        with torch.no_grad():
            ids = model.generate(
                **batch,
                max_new_tokens=TOKENS,
                do_sample=True,
                temperature=0.8,
                top_p=0.95,
                top_k=0,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        with args.work.open("a", encoding="utf-8") as file:
            for (split, topic, opening, _), text in zip(part, texts, strict=True):
                row = {"split": split, "topic": topic, "opening": opening, "text": text}
                file.write(json.dumps(row) + "\n")
        print(f"[{time.time() - START:6.0f} s] {start + len(part)}/{len(jobs)}", flush=True)
    stories: dict[str, list[dict[str, object]]] = {split: [] for split in openings}
    seen: set[str] = set()
    for line in args.work.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for part in windows(sentences_of(row["text"])):
            if part[0] not in seen:
                seen.add(part[0])
                stories[row["split"]].append({"topic": row["topic"], "sentences": part})
    (DATA / "stories.json").write_text(json.dumps(stories, indent=0) + "\n", encoding="utf-8")
    print({split: len(rows) for split, rows in stories.items()})


if __name__ == "__main__":
    main()
