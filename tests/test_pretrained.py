"""The model for a user's own code: files, arrays and tensors in, embeddings, cosines and rows of an index out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from raw_files import clicks, numbered, write_media
from torch.nn.functional import normalize

import mc3
from mc3 import index as indices
from mc3.data import tokenizer
from mc3.data.audio import fbank, resample
from mc3.data.media import clips_of
from mc3.errors import ConfigError, DataError
from mc3.index import Index, build
from mc3.pretrained import Model
from mc3.windows import clip_sec

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from small_work import mini, tiny

    from mc3 import config

    torch.manual_seed(0)
    settings = config.build(config.Config, tiny(mini(tmp_path_factory.mktemp("work"))))
    words = ["chops an onion", "washes a plate", "opens a door"]
    return Model(settings.model, tokenizer.train(words, 512)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos with sound, one without, and a sound."""
    folder = tmp_path_factory.mktemp("files")
    for n, (name, seconds) in enumerate((("a.mp4", 6.0), ("b: ü.mp4", 4.5))):
        sound = clicks(seconds, np.arange(0.4 + n / 9, seconds, 0.9 + n / 7), RATE)
        write_media(folder / name, seconds, sound=sound, picture=lambda i, n=n: numbered(i + 100 * n))
    write_media(folder / "silent.mp4", 4.0, picture=lambda i: numbered(i + 5000))
    write_media(folder / "sound.wav", 3.0, fps=0, sound=clicks(3.0, [0.5, 1.7], RATE))
    return folder


def sound_of(model: Model, wave: np.ndarray) -> torch.Tensor:
    """The embedding of one clip's samples at 16 kHz, by the encoder alone."""
    log_mel = torch.from_numpy(fbank(wave.astype(np.float32), RATE, model.config.audio.mel_bins))
    with torch.inference_mode():
        return model({"audio": log_mel[None]})["audio"][0]


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, mc3; print(sorted(sys.modules.keys() & {'torch', 'pandas', 'numpy', 'huggingface_hub'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert {"Model", "load"} <= set(dir(mc3))
    assert mc3.Model is Model
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        mc3.none  # noqa: B018


def test_a_file_longer_than_a_clip_is_the_normalised_mean_of_its_windows(model: Model, files: Path) -> None:
    path, size = files / "a.mp4", model.config.video.image_size
    spans = [(1.5 * k, 1.5 * k + 1.5) for k in range(4)]
    clips = list(clips_of(path, spans, model.config.video.frames, size, RATE))
    with torch.inference_mode():
        frames = model({"video": torch.from_numpy(np.stack([clip.frames for clip in clips]))})["video"]
    found = model.embed(video=path, audio=str(path))
    torch.testing.assert_close(found["video"][0], normalize(frames.mean(dim=0), dim=0))
    sounds = torch.stack([sound_of(model, clip.waveform) for clip in clips])
    torch.testing.assert_close(found["audio"][0], normalize(sounds.mean(dim=0), dim=0))
    part = model.embed(video=(path, 1.5, 3.0))["video"][0]
    torch.testing.assert_close(part, frames[1])


def test_sound_of_any_rate_channels_and_type_is_one_embedding(model: Model) -> None:
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.normal(size=round(clip_sec(model.config) * 48000)).astype(np.float32)
    known = sound_of(model, resample(wave, 48000, RATE))
    given = [(wave, 48000), (torch.from_numpy(np.stack([wave, wave])), 48000), (np.stack([2 * wave, 0 * wave]), 48000)]
    found = model.embed(audio=given)["audio"]
    for own in found:
        torch.testing.assert_close(own, known, atol=1e-5, rtol=1e-5)
    exact = np.round(wave[::3] * 32767).astype(np.int16)
    pair = model.embed(audio=[(exact, RATE), (exact / np.float32(32768), RATE)])["audio"]
    torch.testing.assert_close(pair[0], pair[1])
    long = np.concatenate([exact[: round(1.5 * RATE)], exact[::-1][: round(1.5 * RATE)]])
    halves = torch.stack([sound_of(model, half / 32768) for half in np.split(long.astype(np.float32), 2)])
    torch.testing.assert_close(model.embed(audio=(long, RATE))["audio"][0], normalize(halves.mean(dim=0), dim=0))


def test_pictures_of_any_number_layout_and_type_are_one_clip(model: Model) -> None:
    config = model.config.video
    frames = np.random.default_rng(0).integers(0, 256, (config.frames, 60, 90, 3), dtype=np.uint8)
    with torch.inference_mode():
        known = model({"video": torch.from_numpy(frames)[None]})["video"][0]
    repeated = frames.repeat(5, axis=0)
    given = [frames, torch.from_numpy(frames).movedim(-1, 1), frames / 255, torch.from_numpy(repeated)]
    for own in model.embed(video=given)["video"]:
        torch.testing.assert_close(own, known, atol=1e-5, rtol=1e-5)
    assert model.embed(video=frames[:1])["video"].shape == (1, model.config.embedding_dim)


def test_batches_do_not_change_an_embedding_and_similarities_are_cosines(model: Model, files: Path) -> None:
    items = [files / "a.mp4", files / "silent.mp4", files / "b: ü.mp4"]
    torch.testing.assert_close(model.embed(video=items)["video"], model.embed(video=items, batch_size=1)["video"])
    texts = ["chops an onion", "opens a door"]
    found = model.embed(video=items, text=texts)
    torch.testing.assert_close(model.similarity(video=items, text=texts), found["video"] @ found["text"].T)
    assert model.embed(text="opens a door")["text"].shape == (1, model.config.embedding_dim)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "nothing to embed"), ({"text": 3}, "text takes str, not int"), ({"text": ["a", None]}, "not NoneType"),
     ({"audio": np.zeros(9)}, "audio takes a path"), ({"audio": (np.zeros(0), RATE)}, r"sound of shape \(0,\)"),
     ({"audio": (np.zeros((99, 99)), RATE)}, "shape"), ({"audio": (np.full(99, np.nan), RATE)}, "float64 up to nan"),
     ({"audio": (np.zeros(99, np.int32) + 2**30, RATE)}, "give int16"), ({"audio": (np.zeros(9), 0)}, "at 0 a second"),
     ({"video": np.zeros((4, 8, 8))}, "video takes a path"), ({"video": np.full((4, 8, 8, 3), 2.0)}, "are in .0, 1."),
     ({"video": np.zeros((4, 8, 8, 3), np.int64)}, "not torch.int64"), ({"video": 7}, "video takes a path"),
     ({"video": ("a.mp4", 2.0, 1.0)}, "a part from 2.0 to 1.0 s")],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused_in_one_sentence(model: Model, given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.embed(**given)


def test_files_without_the_modality_and_a_path_for_the_bare_model_are_refused(model: Model, files: Path) -> None:
    for given, message in (({"audio": files / "silent.mp4"}, "has no sound"),
                           ({"video": files / "sound.wav"}, "has no pictures"),
                           ({"audio": (files / "silent.mp4", 0, 1)}, "has no sound"),
                           ({"video": files / "none.mp4"}, "no media file")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            model.embed(**given)
    with pytest.raises(ConfigError, match=r"model.embed\(video=...\) takes files"):
        model({"video": "x.mp4"})
    with pytest.raises(ConfigError, match="takes two of"):
        model.similarity(video=files / "a.mp4")


def test_a_saved_model_comes_back_with_its_card_and_runs_nothing(model: Model, tmp_path: Path) -> None:
    model.about = "a test's noise"
    model.save_pretrained(tmp_path / "hub")
    assert {f.name for f in (tmp_path / "hub").iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
    }
    for loaded in (Model.from_pretrained(tmp_path / "hub"), mc3.load(tmp_path / "hub")):
        assert loaded.about == "a test's noise"
        assert not loaded.training
        assert indices.fingerprint(loaded) == indices.fingerprint(model)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: mc3" in card
    settings = tmp_path / "hub" / "config.json"
    facts = json.loads(settings.read_text())
    assert facts["embedding_dim"] == 16
    settings.write_text(json.dumps({**facts, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(DataError, match="auto_map"):
        mc3.load(tmp_path / "hub")


def test_pushing_sends_the_same_four_files_and_loading_by_name_downloads_them(model, tmp_path, monkeypatch) -> None:
    sent: dict[str, Path] = {}

    class Hub:
        def __init__(self, **_: object) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: object) -> str:
            sent[repo_id] = Path(folder_path).rename(tmp_path / "sent")
            (tmp_path / "sent").mkdir(exist_ok=True)
            return f"hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    assert model.push_to_hub("me/mine") == "hub/me/mine"
    assert {f.name for f in sent["me/mine"].iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
    }

    def download(name: str, **options: object) -> str:
        assert "model.safetensors" in options["allow_patterns"]
        assert not any("*" in pattern for pattern in options["allow_patterns"])
        return str(sent[name])

    monkeypatch.setattr("mc3.pretrained.snapshot_download", download)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download", lambda repo_id, filename, **_: str(sent[repo_id] / filename)
    )
    assert indices.fingerprint(mc3.load("me/mine")) == indices.fingerprint(model)


def test_without_network_a_name_that_is_no_folder_is_one_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"no folder nobody/nothing, and the Hugging Face hub .*check the name"):
        mc3.load("nobody/nothing", offline=True)
    with pytest.raises(DataError, match="no checkpoint at"):
        mc3.load(tmp_path / "none")


def test_search_equals_a_loop_over_rows_in_any_direction(model: Model, files: Path, tmp_path: Path) -> None:
    texts = ["chops an onion", "opens a door"]
    built = build(model, sorted(files.iterdir()), texts)
    assert built.rows["file"].map(lambda name: Path(name).name).value_counts().to_dict() == {
        "a.mp4": 4, "b: ü.mp4": 3, "silent.mp4": 2, "sound.wav": 2, "": 2}  # fmt: skip
    built.save(tmp_path / "index")
    for index in (built, Index.load(tmp_path / "index")):
        for by, query in (("text", "opens a door"), ("video", files / "silent.mp4"), ("audio", files / "sound.wav")):
            for to in ("video", "audio", "text"):
                unit = model.embed(**{by: query})[by][0].numpy()
                known = [(float(unit @ row), n) for n, row in enumerate(index.embeddings[to]) if np.isfinite(row).all()]
                best = sorted(known, reverse=True)[:3]
                found = model.retrieve(query, index, by=by, to=to, top=3)
                np.testing.assert_allclose(found["similarity"], [score for score, _ in best], atol=1e-6)
                assert found["file"].tolist() == index.rows["file"].iloc[[n for _, n in best]].tolist()
    assert model.retrieve("opens a door", built, to="text", top=1)["text"].tolist() == ["opens a door"]
    own = model.retrieve((files / "a.mp4", 1.5, 3.0), tmp_path / "index", by="audio", to="audio", top=1)
    assert own[["file", "start_sec"]].to_numpy().tolist() == [[str(files / "a.mp4"), 1.5]]


def test_defaults_of_a_query_follow_what_it_is(model: Model, files: Path) -> None:
    built = build(model, sorted(files.iterdir()))
    for query, by, to in (("a text", "text", "audio"), (files / "a.mp4", "video", "audio"),
                          (str(files / "sound.wav"), "audio", "video")):  # fmt: skip
        pd.testing.assert_frame_equal(model.retrieve(query, built), model.retrieve(query, built, by=by, to=to))


def test_a_table_of_clips_is_indexed_with_its_texts_as_captions(model: Model, files: Path) -> None:
    clips = pd.DataFrame({"start_sec": [3.0, 0.5], "end_sec": [4.5, 2.0], "text": ["opens a door", "chops an onion"]})
    index = build(model, [(files / "a.mp4", clips)])
    assert index.rows["start_sec"].tolist() == [0.5, 3.0]
    assert index.rows["text"].tolist() == ["chops an onion", "opens a door"]
    torch.testing.assert_close(
        torch.from_numpy(index.embeddings["text"]), model.embed(text=index.rows["text"].tolist())["text"]
    )
    torch.testing.assert_close(
        torch.from_numpy(index.embeddings["audio"][0]), model.embed(audio=(files / "a.mp4", 0.5, 2.0))["audio"][0]
    )


def test_an_index_of_other_weights_without_the_modality_damaged_or_of_nothing_is_refused(model, files, tmp_path):
    built = build(model, [files / "silent.mp4"])
    other = Index(built.rows, built.embeddings, "other weights")
    for index, options, message in ((other, {}, "made by other weights"), (built, {}, "the index has no audio"),
                                    (built, {"to": "smell"}, "to is 'smell'; choose from"),
                                    (built, {"to": "video", "approximate": True}, "no graph video.faiss")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            model.retrieve("a text", index, **options)
    with pytest.raises(ConfigError, match="say by="):
        model.retrieve(np.zeros(9), built)
    (files / "broken.txt").write_text("no media")
    failed: list[str] = []
    with pytest.raises(DataError, match=r"nothing to index.*broken\.txt cannot be decoded"):
        build(model, [files / "broken.txt"], failed=failed)
    (files / "broken.txt").unlink()
    built.save(tmp_path / "index")
    (tmp_path / "index" / "rows.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"rows\.parquet is damaged"):
        Index.load(tmp_path / "index")
    with pytest.raises(DataError, match="no index at"):
        Index.load(tmp_path / "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"kept")
    with pytest.raises(DataError, match="holds files but no"):
        built.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "photo.jpg").read_bytes() == b"kept"


def test_the_graph_finds_nearly_all_of_the_exact_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(5000, 16)).astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    own[::7] = np.nan  # rows without the modality
    rows = pd.DataFrame({"file": [f"{n}.wav" for n in range(5000)], "start_sec": 0.0, "end_sec": 1.5, "text": ""})
    Index(rows, {"audio": own}, "m").save(tmp_path / "index", approximate=True)
    index = Index.load(tmp_path / "index")
    shared = [
        len(
            set(index.search(query, "audio", 10)["file"])
            & set(index.search(query, "audio", 10, approximate=True)["file"])
        )
        for query in rng.normal(size=(50, 16)).astype(np.float32)
    ]
    assert np.mean(shared) / 10 > 0.95


def test_approximate_search_without_faiss_is_one_sentence(
    model: Model, files: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        build(model, [files / "sound.wav"]).save(tmp_path / "index", approximate=True)


def test_hits_are_windows_that_share_half_of_their_length_with_a_sounding_clip() -> None:
    from mc3.extra import hits

    clips = pd.DataFrame({"start_sec": [1.0, 5.0], "end_sec": [2.5, 6.5]})
    starts = np.arange(0, 7, 0.25)
    known = [any(min(s + 1.5, e) - max(s, b) > 0.75 for b, e in clips.to_numpy()) for s in starts]
    assert hits._hits(clips, starts, 1.5).tolist() == known
    rng = np.random.default_rng(0)
    shares = {name: rng.uniform(size=(30, 2)) for name in (hits.CHANCE, hits.ONSET, hits.LOUDNESS, "MC3")}
    shares["MC3"] += 1
    table = hits.compare(shares, draws=500).set_index("scorer")
    assert table.loc["MC3", "share"] == pytest.approx(shares["MC3"].mean())
    assert table.loc["MC3", "vs_onset"] == pytest.approx((shares["MC3"].mean(1) - shares[hits.ONSET].mean(1)).mean())
    assert "better than chance" in hits.sentences(table.reset_index(), "MC3")[1]
