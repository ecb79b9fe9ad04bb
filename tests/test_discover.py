"""`mc3 discover`: windows of a user's video with their audio-video similarity, and a column for each text."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from raw_files import clicks, write_media

from mc3.cli import main
from mc3.config import Config
from mc3.data import tokenizer
from mc3.data.audio import fbank
from mc3.data.media import clips_of
from mc3.discover import moments
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SECONDS, RATE = 10.0, 16000


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound = clicks(SECONDS, np.arange(0.7, SECONDS, 1.3), RATE)
    return write_media(tmp_path_factory.mktemp("media") / "video.mp4", SECONDS, sound=sound)


@pytest.fixture
def model(mini_config: Config) -> MC3:
    torch.manual_seed(0)
    return MC3(mini_config.model, tokenizer.train(["washes a plate", "similarity"], 512)).eval()


def test_similarities_are_those_of_the_windows_embedded_one_by_one(model: MC3, video: Path) -> None:
    table = moments(model, video, every_sec=2.0, texts=["washes a plate"])
    assert list(table) == ["start_sec", "end_sec", "similarity", "text: washes a plate"]
    assert table["start_sec"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    with torch.inference_mode():
        text = model({"text": model.tokenize(["washes a plate"])})["text"][0]
        for row in table.itertuples(index=False):
            (clip,) = clips_of(video, [(row.start_sec, row.end_sec)], 4, model.config.video.image_size, RATE)
            inputs = {"video": torch.tensor(clip.frames), "audio": torch.tensor(fbank(clip.waveform, mel_bins=64))}
            x = {m: model({m: one[None]})[m][0] for m, one in inputs.items()}
            assert row.similarity == pytest.approx(float(x["audio"] @ x["video"]), abs=1e-5)
            assert row[3] == pytest.approx(float(x["audio"] @ text), abs=1e-5)


def test_no_text_replaces_a_column_of_the_table_and_a_repeated_one_makes_one(model: MC3, video: Path) -> None:
    names = ["start_sec", "end_sec", "similarity", "text: similarity"]
    plain, table = moments(model, video), moments(model, video, texts=[*names, names[1]])
    assert list(table) == [*names[:3], *(f"text: {name}" for name in names)]
    pd.testing.assert_frame_equal(table[list(plain)], plain, check_exact=True)


def test_the_command_ranks_by_audio_and_video_whatever_the_texts(model: MC3, video: Path, tmp_path, capsys) -> None:
    model.save(tmp_path / "final")
    arguments = ["discover", str(video), "--checkpoint", str(tmp_path / "final"), "--out", str(tmp_path / "all.csv")]
    main([*arguments, "--text", "similarity", "--top", "3"])
    table = pd.read_csv(tmp_path / "all.csv")
    best = table.sort_values("similarity", ascending=False)["start_sec"].head(3).tolist()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["start_sec", "end_sec", "similarity", "text:", "similarity"]
    assert [float(line.split()[0]) for line in printed[1:4]] == best


def test_a_step_or_window_of_no_length_and_a_video_without_sound_or_too_short_are_refused(model, video, tmp_path):
    for name, seconds in (("every_sec", 0.0), ("every_sec", -1.0), ("window_sec", float("nan"))):
        with pytest.raises(ConfigError, match=f"{name} is .*more than 0 seconds"):
            moments(model, video, **{name: seconds})
    with pytest.raises(DataError, match=r"silent\.mp4 has no sound"):
        moments(model, write_media(tmp_path / "silent.mp4", 3.0))
    with pytest.raises(DataError, match=r"lasts 10\.\d\d s, less than one window of 60"):
        moments(model, video, window_sec=60.0)
