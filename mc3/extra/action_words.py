"""Do audio and text agree on real recordings? ESC-10's clips rank 20 action words, compared with listeners' votes.

A clip's embedding is the mean over uniform windows of the unit embeddings by the whole audio encoder. A word is
embedded as the shortest narration, "C taps": the subject and the third person of the training narrations, and no
object, because the votes name none. The votes (bmartin1/Identifying_Actions_for_Sound_Event_Classification, Apache-2.0)
are counts, so the main measure is the concordance: the share of a clip's pairs of words with different votes that the
cosines order as the votes do, equal cosines counting half. It needs no threshold; it is Table 2's ROC area if votes are
0 and 1, and 0.5 for any ranking at random. Words are few and clips of a class alike, so the interval over clips is too
narrow for a question about words: `chance` is the range (95 %) of a measure when each text gets another word's votes.
Some words get many votes whatever the clip; `shuffled` is the measure of the same rankings with other clips' votes.
`first` is the share of clips whose first word got the most votes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from tokenizers import Tokenizer
from torch.nn.functional import normalize

from mc3 import evaluate, methods
from mc3.config import Config
from mc3.data.annotations import Report, read_table
from mc3.encoders.audio import AudioEncoder
from mc3.errors import DataError
from mc3.extra import transfer
from mc3.files import write_atomic
from mc3.model import MC3
from mc3.paper import provenance

WORDS = {  # of the votes, and their form in a narration
    "blowing": "blows", "breaking": "breaks", "calling": "calls", "crumpling": "crumples", "dripping": "drips",
    "exhaling": "exhales", "exploding": "explodes", "gasping": "gasps", "groaning": "groans", "pouring": "pours",
    "ringing": "rings", "rolling": "rolls", "rotating": "rotates", "scraping": "scrapes", "singing": "sings",
    "sizzling": "sizzles", "splashing": "splashes", "tapping": "taps", "vibrating": "vibrates", "wailing": "wails",
}  # fmt: skip
TEMPLATE = "C {}"
TIE = 1e-6  # cosines that differ by less are equal: float32's rounding


def recording(file: str) -> str:
    """A clip of ESC in all layouts: "audio/1-100032-A-0.wav" and "001_Dog_bark/1-100032-A.ogg" are "1-100032-A"."""
    return re.sub(r"^(\d-[^-]+-[A-Z])-\d+$", r"\1", Path(file).stem)


def read_votes(path: Path, report: Report) -> pd.DataFrame:
    """Votes [clips, 20] by `recording`; `report` gets the rows that cannot be used, `DataError` if none is left."""
    table = read_table(path, ("filename", *WORDS), "listeners' votes for action words", report)
    votes = table[list(WORDS)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    names = table["filename"].map(recording)
    faults = {
        "its votes are not all numbers": ~np.isfinite(votes).all(axis=1), "a vote is negative": (votes < 0).any(axis=1),
        "all its words have equal votes": votes.nunique(axis=1) == 1,
        "its file has two rows": names.duplicated(keep=False),
    }  # fmt: skip
    reasons = np.select(list(faults.values()), list(faults), default="")
    kept = report.sift(table, "line", [reason or None for reason in reasons], path).index
    if kept.empty:
        raise DataError(f"{path} has no usable row, the first because {reasons[0]}; fetch it again")
    return votes.loc[kept].set_axis(names[kept], axis=0)


def concordance(scores: ArrayLike, votes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, W * W] and [M, W * W] of `scores` [N, W] and `votes` [M, W]: their products are concordances, [N, M]."""
    difference = (of[:, :, None] - of[:, None, :] for of in (np.asarray(scores), np.asarray(votes)))
    ours, theirs = (pairs.reshape(len(pairs), -1) for pairs in difference)
    right = (1 + np.where(np.abs(ours) < TIE, 0.0, np.sign(ours))) / 2
    return right, (theirs > 0) / (theirs > 0).sum(axis=1, keepdims=True)


def first(scores: ArrayLike, votes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, W] and [M, W]: their products are 1 where the first word has the most votes; equal cosines share: [N, M]."""
    scores, votes = np.asarray(scores, np.float64), np.asarray(votes, np.float64)
    ours = (scores > scores.max(axis=1, keepdims=True) - TIE).astype(float)
    return ours / ours.sum(axis=1, keepdims=True), (votes == votes.max(axis=1, keepdims=True)).astype(float)


def exchanged(ours: NDArray[np.float64], theirs: NDArray[np.float64], words: int) -> NDArray[np.float64]:
    """Means over clips of a measure's two factors [N, W] or [N, W * W], with words exchanged at random: [draws]."""
    together, rng, found = ours.T @ theirs / len(ours), np.random.default_rng(0), np.empty(transfer.DRAWS)
    for draw in range(len(found)):
        word = rng.permutation(words)
        columns = word if len(together) == words else (words * word[:, None] + word).ravel()
        found[draw] = together[np.arange(len(together)), columns].sum()
    return found


def summarise(scores: Sequence[ArrayLike], votes: ArrayLike) -> dict[str, float]:
    """For `concordance` and `first`: mean over clips, _low and _high, _chance_low and _chance_high, and _shuffled.

    `scores` has [N, W] for each seed; measures are averaged over seeds before clips are drawn.
    """
    found: dict[str, float] = {}
    for measure in (concordance, first):
        name, factors = measure.__name__, [measure(own, votes) for own in scores]
        pairs = np.mean([ours @ theirs.T for ours, theirs in factors], axis=0)
        chance = np.mean([exchanged(*pair, np.shape(votes)[1]) for pair in factors], axis=0)
        values = *transfer.compare(np.diagonal(pairs), np.zeros(len(pairs))), *evaluate.interval(chance)
        columns = ("", "_low", "_high", "_chance_low", "_chance_high")
        found |= {f"{name}{column}": value for column, value in zip(columns, values, strict=True)}
        found[f"{name}_shuffled"] = float((pairs.sum() - pairs.trace()) / (pairs.size - len(pairs)))
    return found


def unknown(tokenizer: Tokenizer) -> list[str]:
    """The words whose narration form is not one token of `tokenizer`, which reads them in pieces or not at all."""
    forms = {word: tokenizer.encode(form, add_special_tokens=False) for word, form in WORDS.items()}
    pieces = {word: [token for token in own.tokens if token != "[PAD]"] for word, own in forms.items()}  # noqa: S105
    return [word for word, own in pieces.items() if len(own) != 1 or own == ["[UNK]"]]


def cosines(
    models: Mapping[str, MC3], found: Sequence[NDArray[np.float32]], views: int, batch_size: int, device: Any
) -> dict[str, NDArray[np.float64]]:
    """Each model's cosine of every clip (log-mel) with every word: name -> [N, 20]."""
    encoders = {name: cast("AudioEncoder", model.to(device).encoders["audio"]) for name, model in models.items()}
    trunks, scores = transfer.outputs(encoders, found, views, batch_size, device), {}
    for name, model in models.items():
        with torch.inference_mode():
            windows = normalize(encoders[name].projection(torch.from_numpy(trunks[name]).to(device)), dim=-1)
            audio = normalize(windows.mean(dim=1), dim=-1)
            text = model({"text": model.tokenize([TEMPLATE.format(form) for form in WORDS.values()])})["text"]
            scores[name] = (audio @ text.T).cpu().numpy().astype(np.float64)
    return scores


def run(config: Config, folder: Path, votes_file: Path, seed: int) -> pd.DataFrame:
    """Rank the words for ESC-10's clips in `folder`; write figures/action_words.csv and .origin.json.

    Rows: chance, the mean votes of the other clips (the best ranking that hears nothing), untrained encoders, and
    `seed`'s checkpoints with audio and text. Columns: method, seeds, clips, unknown (words) and those of `summarise`.
    """
    torch.set_num_threads(config.train.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(folder)
    given = read_votes(votes_file, report)
    clips, found = transfer.prepare(config, folder, report)
    names = clips["file"].map(recording)
    for file in clips["file"][~names.isin(given.index) | names.duplicated()]:
        report.drop(folder / file, "", f"no votes of its own in {votes_file.name}")
    kept = np.flatnonzero(names.isin(given.index) & ~names.duplicated())
    if len(kept) < 2:
        raise DataError(f"{votes_file} has votes for {len(kept)} clips of {folder}; give the votes of ESC's files")
    clips, found = clips.iloc[kept].reset_index(drop=True), [found[row] for row in kept]
    votes = given.loc[names.iloc[kept]].to_numpy()
    print(f"{len(clips)} clips with votes; {len(given) - len(clips)} other files in {votes_file.name}")
    learned, left_out = transfer.trained(config, seed, ("audio", "text"))
    missing = transfer.list_left_out(report, left_out)

    models = {f"untrained-{s}": MC3.initial(config, s).eval() for s in range(seed, seed + transfer.SEEDS)}
    untrained = list(models)
    models |= learned
    strange = {name: unknown(model.tokenizer) for name, model in models.items()}
    for words in sorted({tuple(own) for own in strange.values()}):
        told = ", ".join(methods.get(n).label if n in learned else n for n, own in strange.items() if (*own,) == words)
        print(f"{len(words)} of {len(WORDS)} words are no word of the tokenizer ({', '.join(words)}) of: {told}")
    scores = cosines(models, found, config.probe.views, config.evaluate.batch_size, device)
    popular = (votes.sum(axis=0) - votes) / (len(votes) - 1)
    rows: dict[str, tuple[list[NDArray], str | None]] = {
        "chance": ([np.zeros_like(votes)], None), "votes of the other clips": ([popular], None),
        f"untrained, {transfer.SEEDS} seeds": ([scores[name] for name in untrained], untrained[0]),
        **{methods.get(name).label: ([scores[name]], name) for name in learned},
    }  # fmt: skip
    lines = [{"method": label, "seeds": len(own), "clips": len(clips), "unknown": len(strange[name]) if name else 0,
              **summarise(own, votes)} for label, (own, name) in rows.items()]  # fmt: skip
    table = pd.DataFrame(lines)
    write_atomic(Path("figures/action_words.csv"), table.to_csv(index=False, float_format="%.4f").encode())
    facts = transfer.origin(config, folder, clips, seed, list(learned))
    facts["inputs"] |= provenance.origin(config, [votes_file])["inputs"]
    facts["parameters"] = {"seed": seed, "template": TEMPLATE, "words": WORDS, "views": config.probe.views,
                           "untrained_seeds": transfer.SEEDS, "draws": transfer.DRAWS, "clips": len(clips)}  # fmt: skip
    facts["left_out"] = missing | {"words": {name: strange[name] for name in (untrained[0], *learned)}}
    provenance.write(Path("figures/action_words.origin.json"), facts)
    return table
