import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
import torch
from PIL import Image
from raw_files import clicks, contents, number_of, numbered, write_media, write_raw
from scipy.io import wavfile
from tokenizers import Tokenizer

from mc3 import config
from mc3.config import Config, override
from mc3.data import manifest, media, prepare, shards, tokenizer
from mc3.data.audio import fbank
from mc3.encoders.text import fit_tokenizer
from mc3.errors import DataError
from mc3.methods import MODALITIES


def build(folder: Path, workers: int = 1, train: int = 3, clips_per_shard: int = 5) -> Config:
    """Raw files, manifest and configuration of a small set whose raw files are in `folder`/world."""
    profile = small_work.mini(folder)
    profile["clips"] |= {"workers": workers, "clips_per_shard": clips_per_shard, "frame_size": 64}
    built = config.build(Config, profile)
    if not built.paths.raw.exists():
        write_raw(built, train=train)
    manifest.write(built)
    return built


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Config:
    built = build(tmp_path_factory.mktemp("work"))
    prepare.write(built)
    return built


@pytest.fixture
def uncut(written: Config, tmp_path: Path) -> Config:
    """A copy of the same raw files, with the manifest, not cut yet."""
    shutil.copytree(written.paths.raw, tmp_path / "world")
    return build(tmp_path)


def test_the_index_has_the_manifests_clips_in_their_order_and_a_shard_whole_videos_of_one_split(written: Config):
    index, plain = shards.read_index(written.paths.shards), pd.read_parquet(written.paths.shards / "index.parquet")
    table = manifest.read(written.paths.work / "manifest.parquet")
    assert index[list(manifest.COLUMNS)].astype(manifest.COLUMNS).equals(table)
    places = [f"{member}_{place}" for member in ("frames", "fbank", "audio") for place in ("offset", "size")]
    assert list(plain.columns) == [*manifest.COLUMNS, "shard", *places, "sha256"]
    assert (index.groupby(["dataset", "split", "video_uid"])["shard"].nunique() == 1).all()
    assert (index.groupby("shard")["split"].nunique() == 1).all()
    assert index.loc[(index["dataset"] == "ego4d") & (index["split"] == "train"), "shard"].nunique() == 2


def test_offsets_hashes_and_names_are_those_that_tarfile_reads(written: Config):
    folder = written.paths.shards
    index = shards.read_index(folder).set_index("clip_id")
    members = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                clip_id, _, suffix = info.name.rpartition(".")
                member = path.name, info.offset_data, info.size, tar.extractfile(info).read()
                members.setdefault(clip_id, {})[suffix] = member
                assert (info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "")
    assert set(members) == set(index.index)
    for clip_id, found in members.items():
        row = index.loc[clip_id]
        for name, suffix in (("frames", "jpg"), ("fbank", "npy"), ("audio", "wav")):
            shard, offset, size, _ = found.get(suffix, (row["shard"], 0, 0, b""))
            assert (row["shard"], row[f"{name}_offset"], row[f"{name}_size"]) == (shard, offset, size)
        data = b"".join(found[suffix][3] for suffix in ("jpg", "npy", "wav") if suffix in found)
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_two_workers_and_a_resumed_run_write_the_same_bytes_as_one(written: Config, tmp_path: Path, monkeypatch):
    one = contents(written.paths.shards)
    (tmp_path / "world").symlink_to(written.paths.raw, target_is_directory=True)
    built = build(tmp_path, workers=2)
    assert contents(prepare.write(built)) == one
    # stop after two shards, as a killed job would: what is done stays, and is not done again
    partial = tmp_path / "shards.partial"
    partial.mkdir()
    jobs = prepare.plan(manifest.read(tmp_path / "manifest.parquet"), built, partial)
    for job in jobs[:2]:
        prepare.write_shard(job)
    (partial / "ego4d-gone-00000.tar").write_bytes(b"left over")
    kept = jobs[0].path.stat().st_mtime_ns
    assert contents(prepare.write(built)) == one
    assert (tmp_path / "shards" / jobs[0].path.name).stat().st_mtime_ns == kept
    assert not partial.exists()


def test_a_shard_of_other_settings_is_cut_again(written: Config, tmp_path: Path):
    table = manifest.read(written.paths.work / "manifest.parquet")
    changes = {}, {"clips.jpeg_quality": 50}, {"clips.workers": 7}
    first, other, more = (prepare.plan(table, override(written, change), tmp_path)[0].key for change in changes)
    assert first == more != other


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_clip_has_the_pictures_the_sound_and_the_text_of_its_window(written: Config, in_memory: bool):
    text = replace(written.model.text, max_length=16)
    padded = fit_tokenizer(written.paths.shards / "tokenizer.json", text)
    data = shards.ClipDataset(written.paths.shards, modalities=MODALITIES, tokenizer=padded, in_memory=in_memory)
    words = Tokenizer.from_file(str(written.paths.shards / "tokenizer.json"))
    assert len(data) == len(data.index) == 12
    for i, row in data.index.iterrows():
        clip = data[i]
        times = media.frame_times(row["start_sec"], row["end_sec"], 4)
        expected = [max(0, int(np.floor(t * 8 + 1e-6))) for t in times]
        assert [number_of(picture) for picture in clip["video"].numpy()] == expected
        assert (clip["video"].shape, clip["video"].dtype) == ((4, 64, 64, 3), torch.uint8)
        assert (clip["audio"].shape, clip["audio"].dtype) == ((148, written.clips.mel_bins), torch.float16)
        assert clip["text"].dtype == torch.int64
        assert clip["index"] == i
        ids = words.encode(row["text"]).ids
        assert clip["text"].tolist() == ids + [0] * (16 - len(ids))


def test_clips_of_square_and_wide_videos_are_of_one_shape_with_the_picture_in_the_middle(uncut: Config):
    """Two shapes of video, twelve stored pictures, of which a model takes four."""
    built = override(uncut, {"clips.frames": 12, "clips.max_aspect": 1.78})
    left, right = (np.full((64, 24, 3), grey, np.uint8) for grey in (60, 180))
    wide = {"picture": lambda number: np.concatenate([left, numbered(number), right], axis=1)}
    sound = clicks(12.0, np.arange(0.5, 12.0), 16000)
    write_media(built.paths.raw / built.ego4d.videos / "t0.mp4", 12.0, sound=sound, **wide)
    prepare.write(built)
    words = Tokenizer.from_file(str(built.paths.shards / "tokenizer.json"))
    data = shards.open_clips(built, "train", words, ("video",))
    assert set(data.index["video_uid"]) == {"t0", "t1", "t2"}
    for i, row in data.index.iterrows():
        times = media.frame_times(row["start_sec"], row["end_sec"], 12)
        shown = [max(0, int(np.floor(t * 8 + 1e-6))) for t in times]
        middle = media.frame_times(row["start_sec"], row["end_sec"], 4)
        assert times[1::3] == pytest.approx(middle)  # the centres of the model's four segments
        for frames, clip in (([1, 4, 7, 10], data[i]), ([0, 5, 6, 11], data[i, np.array([0, 5, 6, 11])])):
            video = clip["video"].numpy()
            assert video.shape == (4, 64, 112, 3)
            assert [number_of(picture[:, 24:88]) for picture in video] == [shown[f] for f in frames]
            if row["video_uid"] == "t0":
                assert clip["width"] == 112
                assert np.abs(video[:, :, 4:20].mean((1, 2)) - 60).max() < 5
                assert np.abs(video[:, :, -20:-4].mean((1, 2)) - 180).max() < 5
            else:
                assert clip["width"] == 64
                assert (video[:, :, :24] == video[:, :, 24:25]).all()
                assert (video[:, :, 88:] == video[:, :, 87:88]).all()
        assert data.frames(i).shape == (12, 64, clip["width"], 3)


def test_the_log_mel_is_that_of_the_stored_sound_and_the_sound_that_of_the_file(written: Config):
    for dataset, split in (("ego4d", "test"), ("epic_sounds", "train")):
        data = shards.ClipDataset(written.paths.shards, dataset, split, ("audio",))
        for i, row in data.index.iterrows():
            samples, rate = data.waveform(i)
            assert (samples.dtype, rate) == (np.int16, 16000)
            assert len(samples) == round((row["end_sec"] - row["start_sec"]) * 16000)
            assert (data.fbank(i) == fbank(samples / np.float32(32768), mel_bins=64).astype(np.float16)).all()
            loud = np.flatnonzero(np.abs(samples) > 16000)
            times = row["start_sec"] + loud[np.diff(loud, prepend=-999) > 200] / 16000
            made = np.array([2.0]) if dataset == "epic_sounds" else np.arange(0.5, 12.0)
            first, last = row["start_sec"] + 0.01, row["end_sec"] - 0.01
            heard, expected = (clicks[(first < clicks) & (clicks < last)] for clicks in (times, made))
            assert heard == pytest.approx(expected, abs=0.01)


def test_members_are_files_that_other_readers_open(written: Config):
    path = sorted((written.paths.shards).glob("ego4d-test*.tar"))[0]
    with tarfile.open(path) as tar:
        files = {info.name.rpartition(".")[2]: tar.extractfile(info).read() for info in tar}
    rate, samples = wavfile.read(io.BytesIO(files["wav"]))
    assert (rate, samples.shape, samples.dtype) == (16000, (24000,), np.int16)
    assert Image.open(io.BytesIO(files["jpg"])).size == (64, 256)
    assert np.load(io.BytesIO(files["npy"])).dtype == np.float16


def test_events_have_the_length_of_their_window_and_no_pictures(written: Config):
    data = shards.ClipDataset(written.paths.shards, "epic_sounds", "train", ("audio",))
    assert [data.fbank(i).shape[0] for i in range(3)] == [148, 248, 398]  # 1.5 s at least, the event, 4 s at most
    with pytest.raises(DataError, match="P01_00_0 has no frames"):
        data.frames(0)


def test_batches_from_worker_processes_are_those_of_the_main_process(written: Config):
    padded = fit_tokenizer(written.paths.shards / "tokenizer.json", written.model.text)
    data = shards.ClipDataset(written.paths.shards, modalities=MODALITIES, tokenizer=padded)
    data[0]  # opens a shard here, which the workers must not share
    alone = list(torch.utils.data.DataLoader(data, batch_size=5))
    spread = list(torch.utils.data.DataLoader(data, batch_size=5, num_workers=2))
    for a, b in zip(alone, spread, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("video", "audio", "text", "index"))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[3]["video"], data[3]["video"])


def test_several_splits_are_read_in_the_order_of_the_index(written: Config):
    data = shards.ClipDataset(written.paths.shards, split="validation+test", modalities=("audio",))
    index = shards.read_index(written.paths.shards)
    rows = index[(index["dataset"] == "ego4d") & (index["split"] != "train")]
    assert data.index["clip_id"].tolist() == rows["clip_id"].tolist()


def test_absent_or_short_shards_and_unknown_splits_are_named(written: Config, tmp_path: Path):
    with pytest.raises(DataError, match="`mc3 shards` writes them"):
        shards.ClipDataset(tmp_path)
    with pytest.raises(DataError, match="has no clips of ego4d dev; it has ego4d test, ego4d train"):
        shards.ClipDataset(written.paths.shards, split="dev")
    for name, data in contents(written.paths.shards).items():
        (tmp_path / name).write_bytes(data[:-20000] if name == "ego4d-train-00000.tar" else data)
    with pytest.raises(DataError, match=r"ego4d-train-00000\.tar is missing or cut short"):
        shards.ClipDataset(tmp_path)


def test_one_damaged_video_is_listed_and_loses_only_its_clips(uncut: Config):
    victim = uncut.paths.raw / uncut.ego4d.videos / "t1.mp4"
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    folder = prepare.write(uncut)
    report = json.loads((uncut.paths.work / "shards_report.json").read_text())
    assert report["dropped_clips"] == 4
    assert [(f["video_uid"], f["clips"]) for f in report["failed_videos"]] == [("t1", 4)]
    assert report["failed_videos"][0]["reason"].startswith("v2/full_scale/t1.mp4 cannot be decoded")
    index = shards.read_index(folder)
    assert set(index.loc[index["split"] == "train", "video_uid"]) == {"t0", "t2", "P01_00"}


def test_a_video_without_the_sound_of_its_metadata_is_listed_and_many_missing_ones_stop_the_run(uncut: Config):
    videos = uncut.paths.raw / uncut.ego4d.videos
    (videos / "t0.mp4").write_bytes((videos / "s0.mp4").read_bytes())
    folder = prepare.write(uncut)
    report = json.loads((uncut.paths.work / "shards_report.json").read_text())
    assert "has no audio stream" in report["failed_videos"][0]["reason"]
    shutil.rmtree(folder)
    for uid in ("t0", "t2"):
        (videos / f"{uid}.mp4").unlink()
    with pytest.raises(DataError, match=r"2 of 7 videos cannot be used.*t0\.mp4.*t2\.mp4"):
        prepare.write(uncut)
    assert not folder.exists()


TEXTS = [f"C {verb}s the {noun}" for verb in ("cut", "wash", "Stir", "pour") for noun in ("plate", "pan", "café")] * 3


def test_the_learned_tokenizer_is_the_same_in_every_process_and_order():
    script = f"from mc3.data import tokenizer; print(tokenizer.train({TEXTS!r}, 60).to_str(), end='')"
    ours = tokenizer.train(TEXTS[::-1], 60).to_str()
    for _ in range(2):
        assert subprocess.check_output([sys.executable, "-c", script], text=True) == ours


def test_the_learned_tokenizer_has_distilberts_form_and_knows_its_letters():
    words = tokenizer.train(TEXTS, 60)
    assert [words.token_to_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert words.get_vocab_size() <= 60
    encoded = words.encode("C WASHS the cafe")
    assert (encoded.tokens[0], encoded.tokens[-1]) == ("[CLS]", "[SEP]")
    assert "[UNK]" not in encoded.tokens
    assert words.decode(encoded.ids) == "c washs the cafe"
    assert words.encode("zzz").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert words.encode("##a [MASK]").ids.count(4) == 1


def test_only_training_narrations_shape_the_tokenizer(written: Config):
    words = Tokenizer.from_file(str(written.paths.shards / "tokenizer.json"))
    table = manifest.read(written.paths.work / "manifest.parquet")
    texts = table.loc[(table["dataset"] == "ego4d") & (table["split"] == "train"), "text"]
    assert words.to_str() == tokenizer.train(texts, written.model.text.vocab_size).to_str()


def test_a_named_tokenizer_is_copied_or_its_absence_or_other_padding_explained(tmp_path, mini_config, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text, absent = (replace(mini_config.model.text, tokenizer=n) for n in (str(tmp_path), "nobody/no-such-model"))
    with pytest.raises(DataError, match=r"no .*tokenizer\.json"):
        tokenizer.make(text, [])
    published = tokenizer.train(TEXTS, 60)
    published.enable_padding(length=9)
    published.save(str(tmp_path / "tokenizer.json"))
    copied = tokenizer.make(text, [])
    assert copied.get_vocab() == published.get_vocab()
    assert len(copied.encode("C cuts").ids) < 9
    with pytest.raises(DataError, match=r"`hf download nobody/no-such-model tokenizer\.json` fetches one"):
        tokenizer.make(absent, [])
    (tmp_path / "tokenizer.json").write_text(published.to_str().replace("[PAD]", "[FILL]"))
    with pytest.raises(DataError, match=r"does not pad with \[PAD\] = 0"):
        tokenizer.make(text, [])
