"""Real recordings: both layouts of ESC, folds that do not leak, chance, intervals, and reports of what is left out."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import contents, write_media
from scipy.io import wavfile
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mc3 import cli, config, methods
from mc3.data import tokenizer
from mc3.data.annotations import Report
from mc3.encoders.audio import AudioEncoder
from mc3.errors import DataError
from mc3.extra import transfer
from mc3.model import MC3

RATE = 16000
CLASSES = ("Hum", "Tone", "Whistle")


def tone(kind: int, rng: np.random.Generator, seconds: float = 2.0) -> np.ndarray:
    """A tone at its class's pitch, with random loudness and a little noise: int16."""
    t = np.arange(round(RATE * seconds)) / RATE
    sound = rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * 200 * 4**kind * rng.uniform(0.95, 1.05) * t)
    return ((sound + rng.normal(0, 1e-3, len(t))) * 32767).astype(np.int16)


def write(top: Path, file: Callable[[int, int, int], str]) -> Path:
    """Two clips of each class in each fold, in the file of its class, fold and number."""
    rng = np.random.default_rng(0)
    for kind, number in product(range(len(CLASSES)), range(10)):
        path = top / file(kind, number % 5 + 1, 100 + number)
        path.parent.mkdir(parents=True, exist_ok=True)
        wavfile.write(path, RATE, tone(kind, rng))
    return top


def folders(top: Path) -> Path:
    """ESC-10's layout: NNN_Class/FOLD-ID-TAKE.wav."""
    return write(top, lambda kind, fold, number: f"{kind + 1:03d}_{CLASSES[kind]}/{fold}-{number}-A.wav")


def official(top: Path) -> Path:
    """ESC-50's layout: meta/esc50.csv and audio/, with a class that is not in ESC-10."""
    rows = []
    for (kind, name), number in product(enumerate((*CLASSES, "Other")), range(10)):
        fold, source = number % 5 + 1, 100 + number
        rows.append((f"{fold}-{source}-A-{kind}.wav", fold, kind, name, name != "Other", source, "A"))
    (top / "meta").mkdir(parents=True)
    columns = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    pd.DataFrame(rows, columns=columns).to_csv(top / "meta" / "esc50.csv", index=False)
    return write(top, lambda kind, fold, number: f"audio/{fold}-{number}-A-{kind}.wav")


def loaded(folder: Path) -> tuple[pd.DataFrame, list[np.ndarray], Report]:
    report = Report(folder)
    clips, found = transfer.log_mels(folder, transfer.read(folder, report), RATE, 128, report)
    return clips, found, report


@pytest.mark.parametrize("layout", [folders, official])
def test_both_layouts_give_every_clip_with_its_fold_and_class_which_log_mels_tell_by_pitch(layout, tmp_path):
    clips, found, report = loaded(layout(tmp_path / "esc"))
    assert (len(clips), len(found), report.dropped) == (30, 30, [])
    assert (transfer.counts(clips) == 2).all(axis=None)
    assert set(clips["category"]) == set(CLASSES)
    for name, fold in zip(clips["file"], clips["fold"], strict=True):
        assert Path(name).name.startswith(f"{fold}-")
    right = transfer.classify(transfer.statistics(found), clips["category"], clips["fold"])
    assert right.mean() == 1.0


def test_the_publishers_folder_names_and_files_of_other_lengths_are_read(tmp_path):
    top = folders(tmp_path / "esc")
    (top / "001_Hum").rename(top / "001 - Hum")
    write_media(top / "002_Tone" / "1-7-B.wav", 3.3, 0, tone(1, np.random.default_rng(1), 3.3) / 32767, RATE)
    clips, found, report = loaded(top)
    assert report.dropped == []
    assert set(clips["category"]) == set(CLASSES)
    lengths = dict(zip(clips["file"], map(len, found), strict=True))
    assert lengths["002_Tone/1-7-B.wav"] == 328  # 1 + (3300 - 25) // 10
    assert Counter(lengths.values()) == {198: 30, 328: 1}


def test_unreadable_files_are_listed_and_the_rest_is_used(tmp_path):
    top = folders(tmp_path / "esc")
    first = top / "001_Hum"
    (first / "2-9-A.wav").write_bytes(b"RIFF, but no sound")
    (first / "notes.wav").write_bytes(b"")
    wavfile.write(first / "3-9-B.wav", RATE, tone(0, np.random.default_rng(0), 12.0))
    clips, _, report = loaded(top)
    assert len(clips) == 30
    reasons = {entry["file"]: entry["reason"] for entry in report.dropped}
    assert set(reasons) == {f"001_Hum/{name}" for name in ("2-9-A.wav", "notes.wav", "3-9-B.wav")}
    assert "lasts 12.0 s" in reasons["001_Hum/3-9-B.wav"]
    assert str(tmp_path) not in json.dumps(report.dropped)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [("filename", "../../1-1-A-0.wav", "plain name"), ("category", "a/b", "plain name"), ("fold", "6", "1..5")],
)
def test_rows_of_the_official_list_that_are_unsafe_or_have_no_file_are_listed(column, value, reason, tmp_path):
    top = official(tmp_path / "esc")
    file = top / "meta" / "esc50.csv"
    table = pd.read_csv(file, dtype=str)
    table.loc[3, column] = value
    table.to_csv(file, index=False)
    (top / "audio" / "1-100-A-0.wav").unlink()
    clips, _, report = loaded(top)
    assert len(clips) == 28
    row, absent = report.dropped
    assert (row["file"], row["row"]) == ("meta/esc50.csv", "5")
    assert reason in row["reason"]
    assert absent["file"] == "audio/1-100-A-0.wav"


def test_a_class_without_a_clip_in_a_fold_and_a_folder_of_something_else_are_one_sentence(tmp_path):
    top = folders(tmp_path / "esc")
    for file in (top / "003_Whistle").glob("4-*"):
        file.unlink()
    (tmp_path / "empty").mkdir()
    messages = {"esc": "class Whistle has no readable clip in fold 4", "empty": "no clips of ESC-10"}
    for folder, message in {**messages, "absent": "no folder"}.items():
        with pytest.raises(DataError, match=message):
            loaded(tmp_path / folder)


def noisy(n: int, classes: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, 6] around their class's centre, labels, and folds 1..5 that each have every class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, 6))
    return centres[labels] + rng.normal(0, spread, (n, 6)), labels, np.arange(n) // classes % 5 + 1


def test_each_fold_is_classified_by_a_model_chosen_and_fitted_on_the_other_folds():
    features, labels, folds = noisy(150, 3, 1.5)
    expected = np.empty(150)

    def fit(rows: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
        centre, scale = features[rows].mean(axis=0), features[rows].std(axis=0)
        model = LogisticRegression(C=strength, max_iter=10_000).fit((features[rows] - centre) / scale, labels[rows])
        return lambda other: model.predict((features[other] - centre) / scale) == labels[other]

    for tested in range(1, 6):
        others = [fold for fold in range(1, 6) if fold != tested]
        scores = []
        for strength in transfer.STRENGTHS:
            inside = [fit((folds != tested) & (folds != inner), strength)(folds == inner).mean() for inner in others]
            scores.append(np.mean(inside))
        best = transfer.STRENGTHS[int(np.argmax(scores))]
        expected[folds == tested] = fit(folds != tested, best)(folds == tested)
    assert 0.4 < expected.mean() < 0.95  # neither perfect nor chance, so that the choice of C matters
    assert (transfer.classify(features, labels, folds) == expected).all()


def test_chance_is_the_probability_that_scikit_learns_prior_gives_the_right_class():
    labels = np.random.default_rng(0).choice(3, 100, p=[0.6, 0.3, 0.1])
    folds = np.arange(100) % 5 + 1
    expected = np.empty(100)
    for fold in range(1, 6):
        train, test = folds != fold, folds == fold
        prior = DummyClassifier(strategy="prior").fit(np.zeros((train.sum(), 1)), labels[train])
        expected[test] = prior.predict_proba(np.zeros((test.sum(), 1)))[np.arange(test.sum()), labels[test]]
    assert transfer.chance(labels, folds) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(200, 500), ours=st.floats(0.2, 0.9), theirs=st.floats(0.2, 0.9), seed=st.integers(0, 99))
def test_the_paired_interval_is_that_of_the_normal_distribution_on_the_clips_differences(n, ours, theirs, seed):
    rng = np.random.default_rng(seed)
    right, baseline = (rng.random(n) < ours).astype(float), (rng.random(n) < theirs).astype(float)
    error = 1.96 * (right - baseline).std() / np.sqrt(n)
    mean, low, high = transfer.compare(right, baseline, draws=4000)
    assert mean == pytest.approx(right.mean() - baseline.mean())
    assert (low, high) == pytest.approx((mean - error, mean + error), abs=0.1 * error + 1 / n)


def test_seeds_are_averaged_before_folds_and_references_are_paired():
    folds = np.repeat([1, 2, 3, 4, 5], 4)
    right = np.array([np.tile([1, 1, 1, 0], 5), np.tile([1, 0, 0, 0], 5)])
    right[1, :4] = 1
    found = transfer.summarise(right, folds, right[0], None)
    by_fold = [(0.75 + 1.0) / 2] + [(0.75 + 0.25) / 2] * 4
    assert found["accuracy"] == pytest.approx(np.mean(by_fold))
    assert found["std"] == pytest.approx(np.std(by_fold, ddof=1))
    assert found["seed_std"] == pytest.approx(np.std([0.75, 0.4], ddof=1))
    assert found["vs_log_mel"] == pytest.approx(np.mean(by_fold) - 0.75)
    assert np.isnan(found["vs_untrained"])
    alone = transfer.summarise(right[:1], folds, None, right[0])
    assert np.isnan([alone["seed_std"], alone["vs_log_mel"]]).all()
    assert (alone["vs_untrained"], alone["vs_untrained_low"], alone["vs_untrained_high"]) == (0, 0, 0)


def test_pooled_features_are_the_mean_over_windows_cut_by_hand(mini_config):
    torch.manual_seed(0)
    encoder = AudioEncoder(mini_config.model.audio, 8).eval()
    rng = np.random.default_rng(0)
    found = [rng.normal(-5, 3, (frames, 64)).astype(np.float32) for frames in (148, 248, 498)]
    pooled = transfer.pooled({"a": encoder}, found, 3, 2, torch.device("cpu"))["a"]
    for fbank, own in zip(found, pooled, strict=True):
        last = len(fbank) - 148
        windows = [fbank[start : start + 148] for start in (0, last // 2, last)]
        with torch.inference_mode():
            expected = torch.stack([encoder.features(torch.from_numpy(w)[None])[0] for w in windows]).mean(dim=0)
        assert own == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.fixture
def work(mini_config, repository: Path, monkeypatch) -> Path:
    """A work folder with a tokenizer and seed 0's checkpoints of MC3 and CLAP; fewer untrained seeds and strengths."""
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # it would slow down the tests that follow
    monkeypatch.setattr(transfer, "SEEDS", 2)
    monkeypatch.setattr(transfer, "STRENGTHS", (0.1,))
    folder = mini_config.paths.work
    (folder / "shards").mkdir(parents=True)
    texts = ["washes the plate", "cuts a carrot"] * 20
    tokenizer.train(texts, mini_config.model.text.vocab_size).save(str(folder / "shards" / "tokenizer.json"))
    for number, name in enumerate(("mc3", "clap")):
        MC3.initial(mini_config, 10 + number).save(folder / "checkpoints" / f"{name}-0" / "final")
    return folder


def test_a_run_writes_table_figure_and_provenance_and_names_missing_rows(work, mini_config, tmp_path, capsys):
    esc = folders(tmp_path / "own" / "esc")
    (esc / "001_Hum" / "2-9-A.wav").write_bytes(b"RIFF, but no sound")
    table = transfer.run(mini_config, esc, 0)
    printed = capsys.readouterr().out
    absent = [n for n in ("align", *methods.METHODS) if n not in ("mc3", "clap")]
    remedies = [f"`mc3 train --method {name} --seed 0`" for name in absent]
    for text in ("30 clips of 3 classes in 5 folds", "class Hum has 2 clips in fold 1, 8 as published", *remedies):
        assert text in printed
    assert "left out: 001_Hum/2-9-A.wav" in printed
    encoders = ["untrained, 2 seeds", "CLAP", "MC3"]
    assert table["method"].tolist() == ["chance", "log-mel", *encoders, *encoders]
    assert table["dim"].tolist() == [0, 128, 64, 64, 64, 192, 192, 192]
    assert table.set_index("method").loc["chance", "accuracy"] == pytest.approx(1 / 3)
    assert (table["clips"] == 30).all()
    written = contents(Path("figures"))
    assert set(written) == {f"real_audio.{kind}" for kind in ("csv", "png", "svg", "origin.json")}
    provenance = json.loads(written["real_audio.origin.json"])
    assert str(esc.parent) not in written["real_audio.origin.json"].decode()
    assert {Path(name).name for name in provenance["inputs"]} == {"esc", "final", "tokenizer.json"}
    assert len(provenance["left_out"]["rows"]) == len(absent)
    assert provenance["left_out"]["clips"][0]["file"] == "001_Hum/2-9-A.wav"
    transfer.run(mini_config, esc, 0)
    assert contents(Path("figures")) == written


def test_a_checkpoint_of_other_settings_is_left_out_and_named(work, mini_config):
    other = config.override(mini_config, {"model.audio.depth": 1})
    MC3.initial(other, 0).save(work / "checkpoints" / "clap-0" / "final")
    found, left_out = transfer.trained(mini_config, 0)
    assert list(found) == ["mc3"]
    assert any("CLAP" in s and "other `model.audio` settings" in s for s in left_out)


def test_the_command_answers_a_wrong_folder_with_one_line(work, capsys, tmp_path):
    assert cli.main(["transfer", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "has no clips of ESC-10" in error
    assert error.count("\n") == 1
    assert not Path("figures").exists()


def test_the_400_real_clips_are_eight_of_each_class_in_each_fold(shared_data):
    folder = shared_data / "audio" / "esc10"
    clips = transfer.read(folder, report := Report(folder))
    assert (len(clips), report.dropped) == (400, [])
    assert transfer.counts(clips).shape == (10, 5)
    assert (transfer.counts(clips) == transfer.PER_FOLD).all(axis=None)
    assert set(clips["file"]) == {path.relative_to(folder).as_posix() for path in folder.rglob("*.ogg")}


@pytest.mark.slow
def test_logistic_regression_on_the_real_clips_log_mel_statistics_reaches_the_known_accuracy(shared_data):
    clips, found, report = loaded(shared_data / "audio" / "esc10")
    assert report.dropped == []
    features, labels, folds = transfer.statistics(found), clips["category"], clips["fold"]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))  # C = 1
    scores = cross_val_score(model, features, labels, groups=folds, cv=LeaveOneGroupOut())
    assert scores.mean() == pytest.approx(0.777, abs=0.006)
    assert transfer.classify(features, labels, folds).mean() > 0.777
