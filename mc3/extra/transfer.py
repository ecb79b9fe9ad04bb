"""Do the audio encoders transfer to real recordings? A linear probe on ESC-10 with five folds.

ESC-10 (Piczak, ACM MM 2015): 400 recordings of about 5 s in 10 classes; its five folds keep the clips of one recording
together. Logistic regression on each encoder's features, alone and with the mean and standard deviation of the log-mel
spectrogram, is compared, clip by clip, with chance, these statistics alone, and several untrained encoders.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mc3 import evaluate, methods
from mc3.config import Config, load
from mc3.data import media
from mc3.data.annotations import Report, read_table
from mc3.data.audio import fbank
from mc3.data.epic_views import AstViews
from mc3.encoders.audio import AudioEncoder
from mc3.errors import DataError
from mc3.extra import plots
from mc3.files import is_safe_id, sha256, write_atomic
from mc3.model import MC3
from mc3.paper import probe, provenance
from mc3.paper.plots import save

FOLDS, PER_FOLD = 5, 8  # clips of each class in a fold, as published
LONGEST_SEC = 10.0  # some of ESC-10's clips last 7 s; a longer file is from another collection
SEEDS = 5  # untrained encoders
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, the inverse of the regularisation
DRAWS = 10_000
FULL_SIZE, FULL_VIEWS, FULL_BATCH = Path("profiles/ego4d.yaml"), 3, 8

_CLASS_FOLDER = re.compile(r"\d{3}(?:_| - )([A-Za-z][A-Za-z _-]*)")
_CLIP = re.compile(r"([1-5])-[A-Za-z0-9-]+\.(?:ogg|wav)")


def read(folder: Path, report: Report) -> pd.DataFrame:
    """The ESC-10 clips of a folder in either published layout: file (relative to it), fold (1..5) and category.

    ESC-50: `meta/esc50.csv` with filename, fold, category and esc10 (True for ESC-10's), and `audio/`. ESC-10:
    `NNN_Class/FOLD-ID-TAKE.ogg` or .wav (or "NNN - Class"). `report` gets what is left out; `DataError` without a clip.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; fetch ESC-50 or ESC-10 (K. J. Piczak) and give its top folder")
    table = folder / "meta" / "esc50.csv"
    if not (rows := list(_esc50(table, report) if table.exists() else _esc10(folder, report))):
        raise DataError(
            f"{folder} has no clips of ESC-10: neither meta/esc50.csv with `esc10` rows and audio/, nor folders like "
            "001_Dog_bark with files like 1-100032-A.ogg; give the top folder of either"
        )
    return pd.DataFrame(rows, columns=["file", "fold", "category"]).sort_values("file", ignore_index=True)


def log_mels(
    folder: Path, clips: pd.DataFrame, rate: int, mel_bins: int, report: Report
) -> tuple[pd.DataFrame, list[NDArray[np.float32]]]:
    """The clips that can be decoded, and AST's raw log-mel of each, float32 [L, mel_bins]; `report` gets the others.

    Raises `DataError` if a class has no readable clip in one of the folds.
    """
    found = {}
    for row, name in enumerate(clips["file"]):
        try:
            seconds = media.probe(folder / name).duration_sec
            if not 0.1 <= seconds <= LONGEST_SEC:
                raise DataError(f"it lasts {seconds:.1f} s, the collection's clips about 5 s; fetch it again")
            sound = next(media.waveforms_of(folder / name, [(0.0, seconds)], rate))
            found[row] = fbank(sound, rate, mel_bins)
        except DataError as error:
            report.drop(folder / name, "", str(error).replace(str(folder / name), "it"))
    clips = clips.iloc[list(found)].reset_index(drop=True)
    for (category, fold), count in counts(clips).stack().items():
        if count == 0:
            raise DataError(f"class {category} has no readable clip in fold {fold} of {folder}; fetch the folder again")
    return clips, list(found.values())


def counts(clips: pd.DataFrame) -> pd.DataFrame:
    """Clips by class (rows) and fold (columns 1..5)."""
    return pd.crosstab(clips["category"], clips["fold"]).reindex(columns=range(1, FOLDS + 1), fill_value=0)


def statistics(found: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean and standard deviation over time of each log-mel [L, mel]: [N, 2 mel]."""
    return np.stack([np.concatenate([x.mean(axis=0), x.std(axis=0)]) for x in found])


def pooled(
    encoders: Mapping[str, AudioEncoder], found: Sequence[NDArray[np.float32]], views: int, batch_size: int, device: Any
) -> dict[str, NDArray[np.float32]]:
    """Each encoder's trunk output, averaged over `views` uniform windows of a clip: name -> [N, D]."""
    return {name: own.mean(axis=1) for name, own in outputs(encoders, found, views, batch_size, device).items()}


def outputs(
    encoders: Mapping[str, AudioEncoder], found: Sequence[NDArray[np.float32]], views: int, batch_size: int, device: Any
) -> dict[str, NDArray[np.float32]]:
    """Each encoder's trunk output of `views` uniform windows of every clip: name -> [N, views, D]."""
    clips = cast(Any, [{"audio": torch.from_numpy(fbank)} for fbank in found])
    windows = AstViews(clips, next(iter(encoders.values())).config.length)
    return probe.features(encoders, windows, views, batch_size, device)


def classify(features: ArrayLike, labels: ArrayLike, folds: ArrayLike) -> NDArray[np.float64]:
    """[N]: 1 where logistic regression on standardised features [N, D], fitted on the other folds, is right, else 0."""
    features, labels, folds = np.asarray(features, np.float64), np.asarray(labels), np.asarray(folds)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=LeaveOneGroupOut())
    correct = np.empty(len(labels))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        search.fit(features[train], labels[train], groups=folds[train])
        correct[test] = search.predict(features[test]) == labels[test]
    return correct


def chance(labels: ArrayLike, folds: ArrayLike) -> NDArray[np.float64]:
    """[N]: the probability that a guess by the class frequencies of the other folds is correct."""
    labels, folds = np.asarray(labels), np.asarray(folds)
    return np.array([(labels[folds != fold] == label).mean() for label, fold in zip(labels, folds, strict=True)])


def compare(correct: ArrayLike, reference: ArrayLike, draws: int = DRAWS) -> tuple[float, float, float]:
    """The difference of two mean accuracies on the same clips, and its paired bootstrap 95 % interval over clips.

    The classifiers are not refitted: the interval covers other test clips, not other training clips.
    """
    difference = np.asarray(correct, np.float64) - np.asarray(reference, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(difference), (draws, len(difference)))
    return (float(difference.mean()), *evaluate.interval(difference[drawn].mean(axis=1)))


def summarise(
    correct: Sequence[ArrayLike], folds: ArrayLike, log_mel: ArrayLike | None, untrained: ArrayLike | None
) -> dict[str, float]:
    """Accuracy over the folds, std, seeds, seed_std (NaN for one), vs_log_mel and vs_untrained with _low and _high.

    `correct` has for each seed what `classify` returns, [N]; the mean over seeds is compared with that of the log-mel
    statistics and of the untrained encoders (with the statistics if `correct` has them), [N] each.
    """
    by_seed, folds = np.asarray(correct, np.float64), np.asarray(folds)
    mean = by_seed.mean(axis=0)
    by_fold = np.array([mean[folds == fold].mean() for fold in np.unique(folds)])
    seed_std = float(by_seed.mean(axis=1).std(ddof=1)) if len(by_seed) > 1 else np.nan
    found = {"accuracy": by_fold.mean(), "std": by_fold.std(ddof=1), "seeds": len(by_seed), "seed_std": seed_std}
    for name, reference in (("vs_log_mel", log_mel), ("vs_untrained", untrained)):
        values = (np.nan,) * 3 if reference is None else compare(mean, reference)
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return found


def trained(config: Config, seed: int, modalities: Sequence[str] = ("audio",)) -> tuple[dict[str, MC3], list[str]]:
    """`seed`'s checkpoints of the methods that have `modalities`, and a sentence for each that cannot be used."""
    found: dict[str, MC3] = {}
    left_out = []
    for name in ("align", *methods.METHODS):
        method, folder = methods.get(name), config.paths.final(name, seed)
        if not set(modalities) <= set(method.modalities):
            continue
        try:
            model = MC3.load(folder)
            if model.config.audio != config.model.audio:
                remedy = f"run `mc3 train --method {name} --seed {seed}`"
                raise DataError(f"{folder} was trained with other `model.audio` settings; {remedy}")
            found[name] = model
        except DataError as error:
            left_out.append(f"{method.label}: {error}")
    return found, left_out


def prepare(config: Config, folder: Path, report: Report) -> tuple[pd.DataFrame, list[NDArray[np.float32]]]:
    """The clips of `folder` that can be read, with their log-mels as the encoders take them; prints what is not."""
    clips, found = log_mels(folder, read(folder, report), config.clips.sample_rate, config.clips.mel_bins, report)
    print(f"{len(clips)} clips of {clips['category'].nunique()} classes in {clips['fold'].nunique()} folds")
    for (category, fold), count in counts(clips).stack().items():
        if count != PER_FOLD:
            print(f"class {category} has {count} clips in fold {fold}, {PER_FOLD} as published")
    return clips, found


def list_left_out(report: Report, rows: Sequence[str]) -> dict[str, Any]:
    """Print the clips and the table's rows that are left out; returns them for the provenance."""
    for entry in report.dropped:
        print(f"left out: {entry['file']} {entry['row']}: {entry['reason']}".replace(" :", ":"))
    for sentence in rows:
        print(f"row left out: {sentence}")
    return {"rows": rows, "clips": report.dropped}


def origin(config: Config, folder: Path, clips: pd.DataFrame, seed: int, learned: Sequence[str]) -> dict[str, Any]:
    """Provenance of a result from `clips` of `folder` and `seed`'s checkpoints of the methods `learned`."""
    inputs = [*(config.paths.final(name, seed) for name in learned), config.paths.shards / "tokenizer.json"]
    facts = provenance.origin(config, inputs)
    listing = "".join(f"{name} {sha256(folder / name)}\n" for name in clips["file"])
    facts["inputs"][folder.resolve().name] = hashlib.sha256(listing.encode()).hexdigest()
    return facts


def run(config: Config, folder: Path, seed: int, full_size: bool = False) -> pd.DataFrame:
    """Probe all features on `folder` (see `read`); write figures/real_audio.{csv,png,svg,origin.json}.

    `seed` is that of the checkpoints, and the first of the untrained encoders; `full_size` also probes an untrained
    encoder of the paper's size (36 TFLOP for 400 clips). Returns method, log_mel (whether log-mel statistics are among
    the features), dim, clips and what `summarise` returns.
    """
    torch.set_num_threads(config.train.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(folder)
    clips, found = prepare(config, folder, report)
    models, left_out = trained(config, seed)
    learned = {name: cast("AudioEncoder", model.encoders["audio"]) for name, model in models.items()}
    missing = list_left_out(report, left_out)

    untrained = {f"untrained-{s}": MC3.initial(config, s).encoders["audio"] for s in range(seed, seed + SEEDS)}
    encoders = {name: cast("AudioEncoder", e.to(device).eval()) for name, e in {**untrained, **learned}.items()}
    features = pooled(encoders, found, config.probe.views, config.evaluate.batch_size, device)
    rows = {f"untrained, {SEEDS} seeds": [features[name] for name in untrained]}
    if full_size:
        torch.manual_seed(seed)
        size = load(FULL_SIZE).model
        label = f"untrained, the paper's size ({size.audio.dim} x {size.audio.depth})"
        large = {label: AudioEncoder(size.audio, size.embedding_dim).to(device).eval()}
        rows[label] = [pooled(large, found, FULL_VIEWS, FULL_BATCH, device)[label]]
    rows |= {methods.get(name).label: [features[name]] for name in learned}

    table = _table(rows, statistics(found), clips)
    write_atomic(Path("figures/real_audio.csv"), table.to_csv(index=False, float_format="%.4f").encode())
    save(plots.real_audio(table), Path("figures/real_audio"))
    facts = origin(config, folder, clips, seed, list(learned))
    facts["parameters"] = {"seed": seed, "full_size": full_size, "untrained_seeds": SEEDS, "draws": DRAWS,
                           "strengths": STRENGTHS, "full_size_views": FULL_VIEWS, "clips": len(clips)}  # fmt: skip
    facts["left_out"] = missing
    provenance.write(Path("figures/real_audio.origin.json"), facts)
    return table


def _table(rows: Mapping[str, Sequence[NDArray]], stats: NDArray, clips: pd.DataFrame) -> pd.DataFrame:
    """`rows` (label -> features [N, D], one a seed), alone and with log-mel `stats`; the first row is the reference."""
    labels, folds = clips["category"].to_numpy(dtype=str), clips["fold"].to_numpy()
    base, guess = classify(stats, labels, folds), chance(labels, folds)
    lines: list[dict[str, Any]] = [
        {"method": "chance", "log_mel": False, "dim": 0, **summarise([guess], folds, base, None)},
        {"method": "log-mel", "log_mel": True, "dim": stats.shape[1], **summarise([base], folds, None, None)},
    ]
    for log_mel in (False, True):
        untrained = None
        for label, features in rows.items():
            inputs = [np.concatenate([stats, own], axis=1) if log_mel else own for own in features]
            correct = [classify(values, labels, folds) for values in inputs]
            found = summarise(correct, folds, base, untrained)
            lines.append({"method": label, "log_mel": log_mel, "dim": inputs[0].shape[1], **found})
            untrained = np.mean(correct, axis=0) if untrained is None else untrained
    return pd.DataFrame(lines).assign(clips=len(clips))


def _esc50(table: Path, report: Report) -> Iterator[tuple[str, int, str]]:
    listed = read_table(table, ("filename", "fold", "category", "esc10"), "ESC-50's list of clips")
    for row in listed[listed["esc10"].str.lower() == "true"].itertuples():
        if not (is_safe_id(row.filename) and is_safe_id(row.category)):
            report.drop(table, str(row.line), "its filename or category is not a plain name")
        elif row.fold not in map(str, range(1, FOLDS + 1)):
            report.drop(table, str(row.line), f"fold {row.fold!r} is not one of 1..{FOLDS}")
        else:
            yield f"audio/{row.filename}", int(row.fold), row.category


def _esc10(folder: Path, report: Report) -> Iterator[tuple[str, int, str]]:
    for file in sorted(folder.glob("*/*")):
        category, clip = _CLASS_FOLDER.fullmatch(file.parent.name), _CLIP.fullmatch(file.name)
        if category and clip:
            yield f"{file.parent.name}/{file.name}", int(clip[1]), category[1]
        elif category:
            report.drop(file, "", "its name is not like 1-100032-A.ogg or .wav, whose first digit is the fold")
