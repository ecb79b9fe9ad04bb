"""Does what the audio encoders learned carry over to real recordings? A linear probe on ESC-10, five folds.

ESC-10 (Piczak, ACM MM 2015): 400 recordings of about 5 s in 10 classes, in five folds that keep the clips of one
recording together. Each kind of features is classified by logistic regression and compared, clip by clip, with the
mean and standard deviation of the log-mel spectrogram, which need no learning. Beside the trained encoders stand
untrained ones, several because their weights are drawn, and each encoder together with the log-mel statistics.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mc3 import config as settings
from mc3 import evaluate, methods
from mc3.config import Config
from mc3.data import media
from mc3.data.annotations import Report, read_table
from mc3.errors import DataError
from mc3.files import is_safe_id, sha256, write_atomic
from mc3.paper import plots, provenance

if TYPE_CHECKING:
    from mc3.encoders.audio import AudioEncoder

FOLDS, PER_FOLD = 5, 8  # of each class, as published
LONGEST_SEC = 10.0  # some of ESC-10's last 7 s; a longer file is of another collection
SEEDS = 5  # untrained encoders, whose weights are drawn
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, the inverse of the regularisation
DRAWS = 10_000
FULL_SIZE, FULL_VIEWS, FULL_BATCH = Path("profiles/ego4d.yaml"), 3, 8
BASELINE = "log-mel"

_CLASS_FOLDER = re.compile(r"\d{3}(?:_| - )([A-Za-z][A-Za-z _-]*)")
_CLIP = re.compile(r"([1-5])-[A-Za-z0-9-]+\.(?:ogg|wav)")


class Row(NamedTuple):
    """What one line of the table is of: whether log-mel statistics are in it, and the encoders that take turns."""

    method: str
    log_mel: bool
    encoders: tuple[str, ...]


def read(folder: Path, report: Report) -> pd.DataFrame:
    """List the clips of an ESC-style folder in either of its publisher's layouts.

    ESC-50's: `meta/esc50.csv` with filename, fold, category and esc10, of which the rows that are True are
    taken, and `audio/`. ESC-10's: `NNN_Class/FOLD-ID-TAKE.ogg` or .wav (or "NNN - Class").

    Args:
        folder: the top of either.
        report: gets what is left out, and why.

    Returns:
        file (relative to `folder`), fold (1..5) and category, by file.

    Raises:
        DataError: `folder` is neither, or has no clips.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; fetch ESC-50 or ESC-10 (K. J. Piczak) and give its top folder")
    table = folder / "meta" / "esc50.csv"
    rows = _official(folder, table, report) if table.exists() else _folders(folder, report)
    if not rows:
        raise DataError(
            f"{folder} has no clips of ESC-10: neither meta/esc50.csv with `esc10` rows and audio/, nor folders as "
            "001_Dog_bark with files as 1-100032-A.ogg; give the top folder of either"
        )
    return pd.DataFrame(rows, columns=["file", "fold", "category"]).sort_values("file", ignore_index=True)


def log_mels(
    folder: Path, clips: pd.DataFrame, rate: int, mel_bins: int, report: Report
) -> tuple[pd.DataFrame, list[NDArray[np.float32]]]:
    """Decode `clips` from begin to end and compute AST's raw log-mel of each.

    Returns:
        The clips that could be read, and of each float32 [L, mel_bins]; the others are in `report`.

    Raises:
        DataError: a class is left without a clip in one of the folds.
    """
    kept, found = [], []
    for row, name in enumerate(clips["file"]):
        try:
            seconds = media.probe(folder / name).duration_sec
            if not 0.1 <= seconds <= LONGEST_SEC:
                raise DataError(f"it lasts {seconds:.1f} s, the collection's clips about 5 s; fetch it again")
            found.append(media.fbank(media.read_audio(folder / name, 0.0, seconds, rate), rate, mel_bins))
        except DataError as error:
            report.drop(folder / name, "", str(error).replace(str(folder / name), "it"))
        else:
            kept.append(row)
    clips = clips.iloc[kept].reset_index(drop=True)
    for (category, fold), count in counts(clips).stack().items():
        if count == 0:
            raise DataError(f"class {category} has no readable clip in fold {fold} of {folder}; fetch the folder again")
    return clips, found


def counts(clips: pd.DataFrame) -> pd.DataFrame:
    """Clips by class (rows) and fold (columns 1..5)."""
    return pd.crosstab(clips["category"], clips["fold"]).reindex(columns=range(1, FOLDS + 1), fill_value=0)


def statistics(found: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean and standard deviation over time of each log-mel [L, mel]: [N, 2 mel]."""
    return np.stack([np.concatenate([x.mean(axis=0), x.std(axis=0)]) for x in found])


def pooled(
    encoders: Mapping[str, AudioEncoder], found: Sequence[NDArray[np.float32]], views: int, batch_size: int, device: Any
) -> dict[str, NDArray[np.float32]]:
    """Each encoder's trunk output, mean of `views` uniform windows over the clip: name -> [N, D]."""
    import torch

    from mc3.data.epic_views import AstViews
    from mc3.paper import probe

    clips = cast(Any, [{"audio": torch.from_numpy(fbank)} for fbank in found])
    windows = AstViews(clips, next(iter(encoders.values())).config.length)
    by_name = probe.features(encoders, windows, views, batch_size, device)
    return {name: outputs.mean(axis=1) for name, outputs in by_name.items()}


def classify(features: ArrayLike, labels: ArrayLike, folds: ArrayLike) -> NDArray[np.float64]:
    """Logistic regression on standardised features, fit on all folds but one and tested on that one, in turn.

    C is chosen among `STRENGTHS` inside the training folds, each held out once; the tested fold takes no part.

    Returns:
        [N]: 1 for a clip that was named rightly, 0 for one that was not.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, folds = np.asarray(features, np.float64), np.asarray(labels), np.asarray(folds)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=LeaveOneGroupOut())
    right = np.empty(len(labels))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        search.fit(features[train], labels[train], groups=folds[train])
        right[test] = search.predict(features[test]) == labels[test]
    return right


def chance(labels: ArrayLike, folds: ArrayLike) -> NDArray[np.float64]:
    """[N]: how often a guess by the class frequencies of the other folds is right."""
    labels, folds = np.asarray(labels), np.asarray(folds)
    return np.array([(labels[folds != fold] == label).mean() for label, fold in zip(labels, folds, strict=True)])


def compare(right: ArrayLike, baseline: ArrayLike, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """The difference of two mean accuracies on the same clips, and its paired bootstrap 95 % interval.

    The clips are drawn again, with replacement, and with them both results; the classifiers are not fit again, so
    that the interval tells what other clips would change, not other training clips.
    """
    difference = np.asarray(right, np.float64) - np.asarray(baseline, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(difference), (draws, len(difference)))
    return (float(difference.mean()), *evaluate.interval(difference[drawn].mean(axis=1)))


def summarise(
    right: Sequence[ArrayLike], folds: ArrayLike, log_mel: ArrayLike | None, untrained: ArrayLike | None
) -> dict[str, float]:
    """Accuracy, over the folds and with its standard deviation, and what sets it apart from two references.

    Args:
        right: of each seed, [N] as `classify` gives it; the mean over the seeds is what is compared.
        folds: [N].
        log_mel: [N] of log-mel statistics, or None where there is nothing to compare.
        untrained: [N] of the untrained encoders in the same company, likewise.

    Returns:
        accuracy, std, seeds, seed_std (between seeds; NaN of one), and vs_log_mel and vs_untrained, each also with
        _low and _high: see `compare`.
    """
    each, folds = np.asarray(right, np.float64), np.asarray(folds)
    mean = each.mean(axis=0)
    by_fold = np.array([mean[folds == fold].mean() for fold in np.unique(folds)])
    over_seeds = each.mean(axis=1).std(ddof=1) if len(each) > 1 else np.nan
    found = {"accuracy": float(by_fold.mean()), "std": float(by_fold.std(ddof=1)),
             "seeds": len(each), "seed_std": float(over_seeds)}  # fmt: skip
    for name, reference in (("vs_log_mel", log_mel), ("vs_untrained", untrained)):
        values = (np.nan,) * 3 if reference is None else compare(mean, reference)
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return found


def trained(config: Config, seed: int) -> tuple[dict[str, AudioEncoder], list[str]]:
    """The audio encoders of `seed`'s checkpoints by method, and a sentence for each that cannot be had."""
    from mc3.model import MC3

    found: dict[str, AudioEncoder] = {}
    left_out = []
    for name in ("align", *methods.METHODS):
        if "audio" not in methods.get(name).modalities:
            continue
        folder = config.paths.final(name, seed)
        try:
            model = MC3.load(folder)
        except DataError as error:
            left_out.append(f"{methods.get(name).label}: {error}")
            continue
        if model.config.audio != config.model.audio:
            left_out.append(
                f"{methods.get(name).label}: {folder} was trained with other `model.audio` settings; "
                f"run `mc3 train --method {name} --seed {seed}`"
            )
            continue
        found[name] = cast("AudioEncoder", model.encoders["audio"])
    return found, left_out


def run(
    config: Config, folder: Path, seed: int, full_size: bool = False, figures: Path = Path("figures")
) -> pd.DataFrame:
    """Probe every kind of features on `folder`; write figures/real_audio.{csv,png,svg,origin.json}.

    Args:
        config: the profile; its `probe.views` windows a clip are averaged.
        folder: of ESC-10 or ESC-50, see `read`.
        seed: of the checkpoints, and the first of the untrained encoders'.
        full_size: whether an untrained encoder of the paper's size is probed too (36 TFLOP for 400 clips).
        figures: where to write.

    Returns:
        The table: method, log_mel (whether log-mel statistics are among the features), dim, clips and what
        `summarise` gives, in the order drawn.
    """
    import torch

    from mc3.encoders.audio import AudioEncoder
    from mc3.train import initial

    torch.set_num_threads(config.train.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    untrained = {f"untrained-{s}": initial(config, s).encoders["audio"] for s in range(seed, seed + SEEDS)}
    learned, left_out = trained(config, seed)
    encoders = cast("dict[str, AudioEncoder]", {**untrained, **learned})
    report = Report(folder)
    clips = read(folder, report)
    clips, found = log_mels(folder, clips, config.clips.sample_rate, config.clips.mel_bins, report)
    account(clips, report, left_out)

    encoders = {name: encoder.to(device).eval() for name, encoder in encoders.items()}
    features = pooled(encoders, found, config.probe.views, config.evaluate.batch_size, device)
    rows = [Row(f"untrained, {SEEDS} seeds", False, tuple(untrained))]
    if full_size:
        torch.manual_seed(seed)
        size = settings.load(FULL_SIZE).model
        large = {"full size": AudioEncoder(size.audio, size.embedding_dim).to(device).eval()}
        features |= pooled(large, found, FULL_VIEWS, FULL_BATCH, device)
        rows.append(Row(f"untrained, the paper's size ({size.audio.dim} x {size.audio.depth})", False, ("full size",)))
    rows += [Row(methods.get(name).label, False, (name,)) for name in learned]
    rows += [row._replace(log_mel=True) for row in rows]

    table = _table(rows, features, statistics(found), clips)
    write_atomic(figures / "real_audio.csv", table.to_csv(index=False, float_format="%.4f").encode())
    plots.save(plots.real_audio(table), figures / "real_audio")
    _record(config, folder, seed, full_size, clips, list(learned), left_out, report, figures)
    return table


def account(clips: pd.DataFrame, report: Report, left_out: Sequence[str]) -> None:
    """Print what is probed, what differs from the published counts, and what is left out and why."""
    print(f"{len(clips)} clips of {clips['category'].nunique()} classes in {clips['fold'].nunique()} folds")
    for (category, fold), count in counts(clips).stack().items():
        if count != PER_FOLD:
            print(f"class {category} has {count} clips in fold {fold}, {PER_FOLD} as published")
    for entry in report.dropped:
        print(f"left out: {entry['file']} {entry['row']}: {entry['reason']}".replace(" :", ":"))
    for sentence in left_out:
        print(f"row left out: {sentence}")


def _table(
    rows: Sequence[Row], features: Mapping[str, NDArray[np.float32]], stats: NDArray[np.float32], clips: pd.DataFrame
) -> pd.DataFrame:
    """The first row alone and the first with log-mel statistics are the untrained encoders: the others' reference."""
    labels, folds = clips["category"].to_numpy(dtype=str), clips["fold"].to_numpy()
    base = classify(stats, labels, folds)
    guess = summarise([chance(labels, folds)], folds, base, None)
    lines: list[dict[str, Any]] = [
        {"method": "chance", "log_mel": False, "dim": 0, **guess},
        {"method": BASELINE, "log_mel": True, "dim": stats.shape[1], **summarise([base], folds, None, None)},
    ]
    untrained: dict[bool, NDArray[np.float64]] = {}
    for row in rows:
        inputs = [features[name] for name in row.encoders]
        if row.log_mel:
            inputs = [np.concatenate([stats, values], axis=1) for values in inputs]
        right = [classify(values, labels, folds) for values in inputs]
        found = summarise(right, folds, base, untrained.get(row.log_mel))
        lines.append({"method": row.method, "log_mel": row.log_mel, "dim": inputs[0].shape[1], **found})
        untrained.setdefault(row.log_mel, np.mean(right, axis=0))
    return pd.DataFrame(lines).assign(clips=len(clips))


def _record(
    config: Config, folder: Path, seed: int, full_size: bool, clips: pd.DataFrame, learned: Sequence[str],
    left_out: Sequence[str], report: Report, figures: Path,
) -> None:  # fmt: skip
    work = config.paths.work
    inputs = [work / "checkpoints" / f"{name}-{seed}" / "final" for name in learned]
    data = provenance.origin(config, [*inputs, work / "shards" / "tokenizer.json"])
    listing = "".join(f"{name} {sha256(folder / name)}\n" for name in clips["file"])
    data["inputs"][folder.resolve().name] = hashlib.sha256(listing.encode()).hexdigest()
    data["parameters"] = {"seed": seed, "full_size": full_size, "untrained_seeds": SEEDS, "draws": DRAWS,
                          "strengths": STRENGTHS, "full_size_views": FULL_VIEWS, "clips": len(clips)}  # fmt: skip
    data["left_out"] = {"rows": list(left_out), "clips": report.dropped}
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    write_atomic(figures / "real_audio.origin.json", text.encode())


def _official(folder: Path, table: Path, report: Report) -> list[tuple[str, int, str]]:
    rows = []
    listed = read_table(table, ("filename", "fold", "category", "esc10"), "ESC-50's list of clips")
    for number, (name, fold, category, chosen) in enumerate(
        zip(listed["filename"], listed["fold"], listed["category"], listed["esc10"], strict=True), 2
    ):
        if chosen.lower() != "true":
            continue
        if not (is_safe_id(name) and is_safe_id(category)):
            report.drop(table, str(number), "its filename or category is not a plain name")
        elif fold not in {str(f) for f in range(1, FOLDS + 1)}:
            report.drop(table, str(number), f"fold {fold!r} is not one of 1..{FOLDS}")
        else:
            rows.append((f"audio/{name}", int(fold), category))
    return rows


def _folders(folder: Path, report: Report) -> list[tuple[str, int, str]]:
    rows = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not (category := _CLASS_FOLDER.fullmatch(inner.name)):
            continue
        for file in sorted(inner.iterdir()):
            if clip := _CLIP.fullmatch(file.name):
                rows.append((f"{inner.name}/{file.name}", int(clip[1]), category[1]))
            else:
                report.drop(file, "", "its name is not as 1-100032-A.ogg or .wav, whose first digit is the fold")
    return rows
