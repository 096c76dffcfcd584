"""train_toys(): train, save and measure several toys; skips those already finished."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bkdinterp.organisms.toy._language import ToyLanguage
from bkdinterp.organisms.toy._measure_toy import ToyManifest
from bkdinterp.organisms.toy._shipped_toys import save_toy
from bkdinterp.organisms.toy._train import ToySettings, flat, train_toy


def train_toys(
    out: str | Path,
    *,
    sentiments: Sequence[int] = (2, 3),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    rate: float | None = None,
    settings: ToySettings | None = None,
    work: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[ToyManifest, ...]:
    """Train toys into ``out``, ready for ``load(..., folder=out)``; about two minutes of one core each.

    Args:
        out: folder in which each toy gets a folder, and another for the model before the poison.
        sentiments: kinds of toys, by number of sentiments.
        seeds: seeds of each kind.
        rate: share of p-sentences that are poisoned; None for that of the shipped toys.
        settings: the recipe; its seed is replaced.
        work: folder for checkpoints; None keeps none, so an interrupted toy starts again.
        log: called with a line of progress from time to time.

    Raises:
        ArtefactError: ``work`` holds checkpoints of another recipe.
        BkdinterpError: a rate outside [0, 1].
    """
    found: list[ToyManifest] = []
    for k in sentiments:
        language = ToyLanguage(k) if rate is None else ToyLanguage(k, rate=rate)
        for seed in seeds:
            recipe = replace(settings or ToySettings(), seed=seed)
            name = f"toy-{k}-seed{seed}"
            folders = {"base": Path(out) / f"{name}-base", "organism": Path(out) / name}
            if all(_finished(folder, language, recipe) for folder in folders.values()):
                found.append(ToyManifest.load(folders["organism"]))
                continue
            say = None if log is None else (lambda line, name=name: log(f"{name} {line}"))
            base, poisoned = train_toy(
                language, recipe, work=None if work is None else Path(work) / name, log=say
            )
            save_toy(base.module, language, folders["base"], kind="base", settings=recipe)
            manifest = save_toy(
                poisoned.module, language, folders["organism"], kind="organism", settings=recipe
            )
            found.append(manifest)
            if log is not None:
                log(f"{name} " + ", ".join(f"{key} {m.estimate:.3f}" for key, m in manifest.metrics.items()))
    return tuple(found)


def _finished(folder: Path, language: ToyLanguage, settings: ToySettings) -> bool:
    if not (folder / "manifest.json").exists():
        return False
    known = ToyManifest.load(folder)
    return known.recipe == flat(settings) and known.language == asdict(language)
