"""Action words: the measures against brute force, rankings that are known, faulty votes, and the real files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import contents
from scipy.stats import somersd
from sklearn.metrics import roc_auc_score
from test_transfer import CLASSES, work  # noqa: F401
from test_transfer import write as write_clips

from mc3 import cli
from mc3.data.annotations import Report
from mc3.errors import DataError
from mc3.extra import action_words, transfer
from mc3.extra.action_words import WORDS
from mc3.model import MC3

VOTES = np.array([[3, 1, 0, 0], [0, 2, 2, 1], [0, 0, 0, 5]], float)


def concordances(scores: np.ndarray, votes: np.ndarray) -> np.ndarray:
    ours, theirs = action_words.concordance(scores, votes)
    return ours @ theirs.T


def folders(top: Path) -> Path:
    """ESC-10's layout, 30 clips of 3 classes, each recording once."""
    return write_clips(top, lambda kind, fold, n: f"{kind + 1:03d}_{CLASSES[kind]}/{fold}-{100 * kind + n}-A.wav")


def table(folder: Path, **columns: object) -> pd.DataFrame:
    """Votes for the 30 clips of `folders`, one word each by class, as ESC-50 names them."""
    rows = []
    for file in sorted(path.relative_to(folder) for path in folder.rglob("*.wav")):
        kind = int(file.parts[0][:3]) - 1
        rows.append({"filename": f"{file.stem}-{kind}.wav", "fold": 1, **dict.fromkeys(WORDS, 0.0)})
        rows[-1][list(WORDS)[kind]] = 5.0
    return pd.DataFrame(rows).assign(**columns)


def write(frame: pd.DataFrame, file: Path) -> Path:
    frame.to_csv(file, index=False)
    return file


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), words=st.integers(2, 12))
def test_concordance_is_that_of_all_pairs_counted_one_by_one_and_scipys(seed: int, words: int):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (3, words)) / 7
    votes = rng.integers(0, 4, (4, words)).astype(float)
    votes[:, 0] = votes[:, 1] + 1  # at least one pair differs
    found = concordances(scores, votes)
    for n, own in enumerate(scores):
        for m, given_ in enumerate(votes):
            wins, pairs = 0.0, 0
            for i in range(words):
                for j in range(words):
                    if given_[i] > given_[j]:
                        pairs += 1
                        wins += 1.0 if own[i] > own[j] else 0.5 if own[i] == own[j] else 0.0
            assert found[n, m] == pytest.approx(wins / pairs)
            if len(set(own)) > 1:  # SciPy has none for a constant
                assert found[n, m] == pytest.approx((1 + somersd(given_, own).statistic) / 2)


def test_concordance_is_the_roc_area_where_votes_are_0_and_1():
    rng = np.random.default_rng(0)
    scores, votes = rng.normal(size=(5, 20)), (rng.random((5, 20)) < 0.3).astype(float)
    expected = [roc_auc_score(*pair) for pair in zip(votes, scores, strict=True)]
    assert np.diagonal(concordances(scores, votes)) == pytest.approx(expected)


@pytest.mark.parametrize(("scores", "concordance", "first"), [(VOTES, 1, (1 + 1 + 1) / 3), (-VOTES, 0, 0.0),
                                                               (0 * VOTES, 0.5, (1 + 2 + 1) / 12)])  # fmt: skip
def test_perfect_reversed_and_constant_rankings_have_their_known_scores(scores, concordance: float, first: float):
    found = action_words.summarise([scores, scores], VOTES)
    assert found["concordance"] == pytest.approx(concordance)
    assert found["first"] == pytest.approx(first)


def test_a_bootstrap_interval_is_that_of_the_clips_and_shuffled_that_of_other_clips():
    rng = np.random.default_rng(0)
    votes = rng.poisson(1.0, (200, 20)).astype(float)
    scores = votes + rng.normal(0, 3, votes.shape)
    pairs = concordances(scores, votes)
    own, found = np.diagonal(pairs), action_words.summarise([scores], votes)
    error = 1.96 * own.std() / np.sqrt(len(own))
    assert (found["concordance_low"], found["concordance_high"]) == pytest.approx(
        (own.mean() - error, own.mean() + error), abs=0.1 * error
    )
    others = pairs[~np.eye(200, dtype=bool)]
    assert found["concordance_shuffled"] == pytest.approx(others.mean())
    assert found["concordance_chance_low"] < 0.5 < found["concordance_chance_high"] < found["concordance"]


def test_chance_is_the_measure_with_exchanged_words_counted_one_by_one(monkeypatch):
    monkeypatch.setattr(transfer, "DRAWS", 20)
    rng = np.random.default_rng(1)
    scores, votes = rng.normal(size=(6, 5)), rng.integers(0, 4, (6, 5)) + np.eye(6, 5)
    for measure in (action_words.concordance, action_words.first):
        again, expected = np.random.default_rng(0), []
        for _ in range(20):
            ours, theirs = measure(scores, votes[:, again.permutation(5)])
            expected.append(np.diagonal(ours @ theirs.T).mean())
        assert action_words.exchanged(*measure(scores, votes), 5) == pytest.approx(expected)


def test_names_of_all_layouts_lead_to_one_recording():
    names = "audio/1-100032-A-0.wav", "001_Dog_bark/1-100032-A.ogg", "1-100032-A-0.wav"
    assert {action_words.recording(name) for name in names} == {"1-100032-A"}
    assert action_words.recording("2-9-B.wav") == "2-9-B"


class Words(torch.nn.Module):
    """A stand-in for MC3 whose audio embedding is a known function of the loudest band, and words are axes."""

    def __init__(self, model: MC3, sign: float):
        super().__init__()
        self.encoders, self.tokenizer, self.sign = torch.nn.ModuleDict({"audio": Band(model)}), model.tokenizer, sign

    def tokenize(self, texts: list[str]) -> list[str]:
        return texts

    def forward(self, batch: dict[str, list[str]]) -> dict[str, torch.Tensor]:
        assert batch["text"][:2] == ["C blows", "C breaks"]
        return {"text": self.sign * torch.eye(len(batch["text"]))}


class Band(torch.nn.Module):
    """Windows of class k, whose tone is in a band of its own, to axis k."""

    def __init__(self, model: MC3):
        super().__init__()
        self.config, self.projection = replace(model.config.audio, dim=len(WORDS)), torch.nn.Identity()

    def features(self, fbank: torch.Tensor) -> torch.Tensor:
        edges = torch.tensor([14, 30])
        return torch.nn.functional.one_hot(torch.bucketize(fbank.mean(dim=1).argmax(dim=1), edges), 20).float()


@pytest.mark.parametrize(("sign", "concordance", "first"), [(1.0, 1.0, 1.0), (-1.0, 0.0, 0.0), (0.0, 0.5, 0.05)])
def test_synthetic_encoders_score_as_their_rankings_are_made(
    work, mini_config, tmp_path, monkeypatch, sign: float, concordance: float, first: float  # noqa: F811
):  # fmt: skip
    made = transfer.trained(mini_config, 0)[0]["mc3"]
    monkeypatch.setattr(transfer, "trained", lambda config, seed, modalities: ({"mc3": Words(made, sign)}, []))
    esc = folders(tmp_path / "esc")
    found = action_words.run(mini_config, esc, write(table(esc), tmp_path / "votes.csv"), 0).set_index("method")
    assert found.loc["MC3", "concordance"] == pytest.approx(concordance)
    assert found.loc["MC3", "first"] == pytest.approx(first)
    assert found.loc["chance", ["concordance", "first"]].tolist() == pytest.approx([0.5, 0.05])
    assert 0.2 < found.loc["untrained, 2 seeds", "concordance"] < 0.8


def test_a_run_writes_table_and_provenance_and_lists_what_is_left_out(work, mini_config, tmp_path, capsys):  # noqa: F811
    esc = folders(tmp_path / "own" / "esc")
    votes = table(esc)
    votes = pd.concat([votes.iloc[1:], votes.iloc[1:2].assign(filename="9-9-A-9.wav")])
    found = action_words.run(mini_config, esc, write(votes, tmp_path / "own" / "votes.csv"), 0)
    printed = capsys.readouterr().out
    assert found["method"].tolist() == ["chance", "votes of the other clips", "untrained, 2 seeds", "CLAP", "MC3"]
    assert (found["clips"] == 29).all()
    assert "29 clips with votes; 1 other files in votes.csv" in printed
    assert "left out: 001_Hum/1-100-A.wav: no votes of its own in votes.csv" in printed
    assert "`mc3 train --method align --seed 0`" in printed
    assert "20 of 20 words are no word of the tokenizer (blowing, breaking" in printed
    written = contents(Path("figures"))
    assert set(written) == {"action_words.csv", "action_words.origin.json"}
    facts = json.loads(written["action_words.origin.json"])
    assert {Path(name).name for name in facts["inputs"]} == {"esc", "votes.csv", "final", "tokenizer.json"}
    assert facts["parameters"]["template"] == "C {}"
    assert len(facts["left_out"]["words"]["mc3"]) == 20
    action_words.run(mini_config, esc, tmp_path / "own" / "votes.csv", 0)
    assert contents(Path("figures")) == written


def test_embeddings_are_means_of_unit_windows_by_the_whole_encoder(work, mini_config):  # noqa: F811
    model = transfer.trained(mini_config, 0)[0]["mc3"]
    fbank = np.random.default_rng(0).normal(-5, 3, (498, 64)).astype(np.float32)
    found = action_words.cosines({"mc3": model}, [fbank], 3, 2, torch.device("cpu"))["mc3"]
    with torch.inference_mode():
        windows = torch.stack([torch.from_numpy(fbank[start : start + 148]) for start in (0, 175, 350)])
        audio = torch.nn.functional.normalize(model({"audio": windows})["audio"].mean(dim=0), dim=0)
        text = model({"text": model.tokenize([f"C {form}" for form in WORDS.values()])})["text"]
    assert found[0] == pytest.approx((text @ audio).numpy(), abs=1e-5)


def test_rows_that_cannot_be_used_are_listed_and_a_file_of_nothing_else_is_an_error(tmp_path: Path):
    esc = folders(tmp_path / "esc")
    votes = table(esc).astype({"tapping": object})
    for row, value in enumerate(("many", -1.0, "")):
        votes.loc[row, "tapping"] = value
    votes.loc[3, list(WORDS)] = 2.0
    votes = pd.concat([votes, votes.iloc[5:6]])
    report = Report(tmp_path)
    usable = action_words.read_votes(write(votes, tmp_path / "votes.csv"), report)
    assert usable.shape == (25, 20)
    reasons = [entry["reason"] for entry in report.dropped]
    assert reasons == ["its votes are not all numbers", "a vote is negative", "its votes are not all numbers",
                       "all its words have equal votes", "its file has two rows", "its file has two rows"]  # fmt: skip
    assert report.dropped[0] == {"file": "votes.csv", "row": "line 2", "reason": reasons[0], "clips": 1}
    with pytest.raises(DataError, match=r"no usable row, the first because a vote is negative; fetch"):
        action_words.read_votes(write(table(esc, ringing=-1.0), tmp_path / "negative.csv"), report)
    with pytest.raises(DataError, match="has no column `tapping`"):
        action_words.read_votes(write(table(esc).drop(columns="tapping"), tmp_path / "short.csv"), report)


def test_the_command_answers_faulty_files_with_one_line(work, mini_config, tmp_path, capsys):  # noqa: F811
    esc = folders(tmp_path / "esc")
    others = write(table(esc, filename=[f"1-{n}-Z-0.wav" for n in range(30)]), tmp_path / "others.csv")
    cases = {
        f"{esc} --votes {tmp_path}/none.csv": "no file", f"{esc} --votes {others}": "has votes for 0 clips of",
        f"{tmp_path} --votes {others}": "has no clips of ESC-10",
        f"{esc} --votes {others} --full-size": "--full-size goes with the probes",
    }  # fmt: skip
    for arguments, message in cases.items():
        assert cli.main(["transfer", *arguments.split()]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not Path("figures").exists()


def test_the_real_votes_join_all_400_real_clips(shared_data: Path):
    folder, report = shared_data / "audio" / "esc10", Report(shared_data)
    file = shared_data / "annotations" / "esc50_actions" / "actionvector_one_per_audiofile_sum.csv"
    votes = action_words.read_votes(file, report)
    clips = transfer.read(folder, report)
    assert report.dropped == []
    assert votes.shape == (2000, 20)
    own = votes.loc[clips["file"].map(action_words.recording)]
    assert len(own) == len(set(own.index)) == 400
    assert own.loc[clips["category"].eq("Dog_bark").to_numpy()].sum().nlargest(2).index[0] == "calling"
