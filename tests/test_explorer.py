"""The explorer's Python side: its answers to the browser's questions, and what it refuses."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pandas as pd
import pytest
from markup import obeyed
from PIL import Image
from scipy.io import wavfile
from scipy.stats import percentileofscore

from mc3 import evaluate, store
from mc3.config import Config
from mc3.data.encode import encode
from mc3.errors import ConfigError, DataError
from mc3.extra import explore_html, explorer
from mc3.extra.explorer import Explorer

MAP = {"kind": "map", "method": "mc3", "seed": 0, "modality": "video", "projection": "pca", "onto": ""}


@pytest.fixture(scope="module")
def view(small: Config) -> Explorer:
    return Explorer(small, "mc3", 0, compare="wo_consensus")


@pytest.fixture
def sent(view: Explorer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is sent to the browser: JSON, after a round trip, and buffers."""
    found: list[Any] = []
    monkeypatch.setattr(
        Explorer, "send", lambda _, content, buffers=None: found.append((json.loads(json.dumps(content)), buffers))
    )
    return found


def xy(answer: explorer.Answer) -> np.ndarray:
    return np.frombuffer(answer[1][0], np.float32).reshape(-1, 2)


def test_the_browser_first_gets_words_and_names_but_no_point_picture_or_sound(view: Explorer) -> None:
    assert view.setup["text"] == view.index["text"].tolist()
    assert set(view.setup) == {"text", "of", "fields", "projections", "checkpoints"}
    names = {entry["name"]: entry for entry in view.setup["checkpoints"]}
    assert set(names) == {"align", *store.rows(view.config)}
    assert set(names["clap"]["modalities"]) == {"audio", "text"}
    assert view.view["projection"] == "tsne"


def test_a_map_together_holds_each_modality_after_another_and_no_clip_has_moved(view: Explorer) -> None:
    content, buffers = view.answer(MAP | {"modality": "together"})
    tensors = store.embeddings(view.config, "mc3", 0)
    joined = np.concatenate([tensors[m] for m in content["modalities"]]).astype(float)
    assert set(content["modalities"]) == set(tensors)
    np.testing.assert_allclose(xy((content, buffers)), explorer.project(joined, "pca"), atol=1e-5)


def test_pca_keeps_the_two_directions_of_largest_variance_and_their_proportion() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 6)) * [1, 9, 2, 5, 1, 1]
    points[7] = np.nan  # a clip that a foreign row lacks
    flat, known = explorer.project(points, "pca"), np.arange(200) != 7
    assert np.isnan(flat[7]).all()
    centred = points[known] - points[known].mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    for k in range(2):
        assert abs(np.corrcoef(flat[known, k], centred @ directions[k])[0, 1]) == pytest.approx(1, abs=1e-5)
    assert np.divide(*flat[known].std(axis=0)) == pytest.approx(sizes[0] / sizes[1], rel=1e-4)
    assert np.mean(np.sum(flat[known] ** 2, axis=1)) == pytest.approx(1, abs=1e-5)


def test_tsne_separates_two_distant_groups_and_repeats() -> None:
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    points[20:] += 30
    flat = explorer.project(points, "tsne")
    np.testing.assert_array_equal(flat, explorer.project(points, "tsne"))
    first, second = flat[:20], flat[20:]
    spread = max(np.ptp(first, axis=0).max(), np.ptp(second, axis=0).max())
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > spread / 2


def test_the_second_map_is_turned_onto_the_first_as_near_as_any_rotation_or_mirror_brings_it(view: Explorer) -> None:
    ours, theirs = xy(view.answer(MAP)), xy(view.answer(MAP | {"method": "wo_consensus"}))
    turned = xy(view.answer(MAP | {"method": "wo_consensus", "onto": "mc3"}))
    np.testing.assert_allclose(turned @ turned.T, theirs @ theirs.T, atol=1e-4)  # neither stretched nor bent
    angles = np.linspace(0, 2 * np.pi, 720)
    turns = [np.array([[np.cos(a), np.sin(a)], [-s * np.sin(a), s * np.cos(a)]]) for a in angles for s in (1, -1)]
    best = min(np.sum((theirs @ turn - ours) ** 2) for turn in turns)
    assert np.sum((turned - ours) ** 2) <= best + 1e-3


def test_a_map_turned_by_hand_is_turned_back_by_its_known_rows() -> None:
    places = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    turned = places @ np.array([[0.6, 0.8], [0.8, -0.6]])
    turned[3] = np.nan
    back = explorer.turn_onto({"audio": turned, "text": places}, {"audio": places})["audio"]
    np.testing.assert_allclose(np.delete(back, 3, 0), np.delete(places, 3, 0), atol=1e-5)


def test_colours_are_the_clips_own_groups_scores_and_clusters(view: Explorer) -> None:
    fixed = {"kind": "field", "method": "", "seed": 0, "modality": ""}
    own = {"kind": "field", "method": "mc3", "seed": 0, "modality": "video"}
    for name in ("verb", "noun", "region", "split"):
        content, (codes,) = view.answer(fixed | {"field": name})
        names = np.take(content["names"], np.frombuffer(codes, np.uint8))
        assert names.tolist() == view.index[name].tolist()
    content, (codes,) = view.answer(own | {"field": "cluster"})
    tensors = store.embeddings(view.config, "mc3", 0)
    expected = evaluate.clusters(tensors["video"], view.config.evaluate.clusters)
    names = np.take(content["names"], np.frombuffer(codes, np.uint8))
    assert names.tolist() == [f"cluster {label + 1}" for label in expected]
    content, (scores,) = view.answer(own | {"field": "al"})
    cosines = np.sum(tensors["audio"] * tensors["text"], axis=1)
    np.testing.assert_allclose(np.frombuffer(scores, np.float32), cosines, atol=1e-5)


def test_more_groups_than_colours_end_in_other() -> None:
    names, codes = explorer._coded(pd.Series([f"g{k:02d}" for k in range(30) for _ in range(40 - k)]))
    assert names == [*(f"g{k:02d}" for k in range(explorer.COLOURED)), "other"]
    assert codes.max() == explorer.COLOURED
    assert (codes == explorer.COLOURED).sum() == sum(40 - k for k in range(explorer.COLOURED, 30))


def test_similarities_come_with_the_share_of_clips_that_have_no_higher_one(view: Explorer) -> None:
    about, _ = view.answer({"kind": "about", "row": 11, "method": "mc3", "seed": 0})
    tensors = store.embeddings(view.config, "mc3", 0)
    assert about["label"] == "MC3"
    assert [score["pair"] for score in about["scores"]] == ["audio–video", "audio–text", "video–text"]
    for score in about["scores"]:
        first, second = (tensors[m] for m in score["pair"].split("–"))
        every = np.sum(first.astype(float) * second, axis=1)
        assert score["cosine"] == pytest.approx(every[11], abs=1e-5)
        assert score["percent"] == pytest.approx(percentileofscore(every, every[11], "weak"))
    only, _ = view.answer({"kind": "about", "row": 11, "method": "clap", "seed": 0})
    assert [score["pair"] for score in only["scores"]] == ["audio–text"]
    assert {part["pair"] for part in only["neighbours"]} == {"audio → text", "text → audio"}


def test_neighbours_are_the_most_similar_other_clips_across_modalities(view: Explorer) -> None:
    found, tensors = view.neighbours(5, k=4), store.embeddings(view.config, "mc3", 0)
    assert set(found["pair"]) == {f"{a} → {b}" for a in tensors for b in tensors if a != b}
    for pair, part in found.groupby("pair"):
        source, target = pair.split(" → ")
        similarity = tensors[target] @ tensors[source][5]
        assert set(part["own"]) == {1 + np.sum(similarity > similarity[5])}
        similarity[5] = -np.inf
        assert part["row"].tolist() == np.argsort(-similarity, kind="stable")[:4].tolist()
        np.testing.assert_allclose(part["similarity"], similarity[part["row"]], atol=1e-6)
        groups = view.index["action_group"]
        assert part["same_group"].tolist() == (groups[part["row"]] == groups[5]).tolist()


def test_a_sample_has_its_own_rows_and_neighbours_but_the_maps_and_ranks_of_all(view: Explorer, small: Config) -> None:
    rows = np.array([3, 50, 51, 90])
    part = Explorer(small, "mc3", 0, sample=rows)
    np.testing.assert_array_equal(xy(part.answer(MAP)), xy(view.answer(MAP))[rows])
    ask = {"kind": "about", "row": 1, "method": "mc3", "seed": 0}
    assert part.answer(ask)[0]["scores"] == view.answer(ask | {"row": 50})[0]["scores"]
    assert set(part.neighbours(1)["row"]) == {0, 2, 3}
    assert part.index["row"].tolist() == rows.tolist()
    frame, whole = part.answer({"kind": "frame", "row": 2}), view.answer({"kind": "frame", "row": 51})
    assert frame == whole


def test_a_click_without_the_raw_video_is_answered_with_stored_frames_and_sound(view: Explorer, sent: list) -> None:
    view._handle_custom_msg({"kind": "clip", "row": 7}, [])
    ((clip, (strip, sound)),) = sent
    assert clip["ask"] == {"kind": "clip", "row": 7}
    assert clip["media"] == {"strip": 0, "sound": 1}
    assert view.index.at[7, "clip_id"] in clip["facts"]
    frames, (samples, rate) = view.clips.frames(7), view.clips.waveform(7)
    pictures = np.asarray(Image.open(io.BytesIO(strip))).reshape(frames.shape)
    assert np.abs(pictures.astype(int) - frames).mean() < 6
    found, played = wavfile.read(io.BytesIO(sound))
    assert (found, clip["seconds"]) == (rate, 1.5)
    np.testing.assert_array_equal(played, samples)


def test_a_click_with_the_raw_video_is_answered_with_the_clip_cut_from_it(small: Config, tmp_path: Path) -> None:
    view = Explorer(replace(small, paths=replace(small.paths, raw=tmp_path)), "mc3", 0)
    about, times = view.index.loc[20], np.arange(8 * 60) / 8
    raw = tmp_path / about["path"]
    raw.parent.mkdir(parents=True)
    pictures = np.broadcast_to((4 * times).astype(np.uint8)[:, None, None, None], (len(times), 32, 32, 3))
    encode(raw, pictures, 8, np.sin(np.arange(60 * 16000) / 9).astype(np.float32), 16000)
    content, (mp4,) = view.answer({"kind": "clip", "row": 20})
    assert content["media"] == {"video": 0}
    with av.open(io.BytesIO(mp4)) as file:
        shown = next(file.decode(video=0)).to_ndarray(format="rgb24").mean()
        assert shown == pytest.approx(4 * about["start_sec"], abs=4)
        assert len(file.streams.audio) == 1


def test_a_question_that_makes_no_sense_or_a_shard_that_is_gone_gets_an_error(view, sent, monkeypatch) -> None:
    for row in (-1, 10**9, None, "7", "../../etc/passwd", 1.5, True, [1]):
        view._handle_custom_msg({"kind": "clip", "row": row}, [])
    wrong = [{"method": "../x"}, {"method": "foreign-../x"}, {"projection": "mds"}, {"modality": "smell"}, {"seed": 9}]
    for change in wrong:
        view._handle_custom_msg(MAP | change, [])
    view._handle_custom_msg({"kind": "field", "field": "age", "method": "mc3", "seed": 0, "modality": "video"}, [])
    view._handle_custom_msg("nonsense", [])
    monkeypatch.setattr(view.clips, "frames", Mock(side_effect=FileNotFoundError("shard is gone")))
    view._handle_custom_msg({"kind": "frame", "row": 0}, [])
    assert all("error" in content and buffers == [] for content, buffers in sent)
    assert len(sent) == 16
    assert "shard is gone" in sent[-1][0]["error"]


def test_the_selection_is_a_data_frame_that_can_be_observed(view: Explorer) -> None:
    changes: list[Any] = []
    view.observe(lambda change: changes.append(change["new"]["row"].tolist()), "selected")
    view.set_state({"selection": [4, 2, 10**6]})  # as the browser sends it
    view.selection = [5]
    assert changes == [[4, 2], [5]]
    assert view.selected["clip_id"].tolist() == [store.clips(view.config).at[5, "clip_id"]]
    assert not any(name.endswith(("_offset", "_size")) for name in view.selected)


def test_a_wrong_name_missing_umap_and_missing_embeddings_are_named_with_their_remedy(
    small: Config, monkeypatch
) -> None:
    with pytest.raises(ConfigError, match="one of tsne, pca, umap, not 'mds'"):
        Explorer(small, "mc3", 0, projection="mds")
    with pytest.raises(ConfigError, match="no video embeddings here; clap has audio, text and together"):
        Explorer(small, "clap", 0, modality="video")
    with pytest.raises(DataError, match="dvc repro embed"):
        Explorer(small, "mc3", 5)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match="pip install umap-learn"):
        explorer.project(np.eye(5, dtype=np.float32), "umap")


def test_the_map_without_widgets_has_every_clip_with_its_verb(view: Explorer) -> None:
    points = view.map("verb")
    assert points["group"].tolist() == view.index["verb"].tolist()
    assert view.title == "MC3, seed 0: video embeddings by TSNE"


def test_the_front_end_writes_text_as_text_and_contacts_no_other_host() -> None:
    for name in ("explorer.js", "explore.js"):
        front = Path(explorer.__file__).with_name(name).read_text()
        assert not any(word in front for word in ("innerHTML =", "http:", "https:", "import(", "eval(", "fetch("))


def test_a_page_is_replaced_only_where_this_command_wrote_it(small: Config, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"mine holds files but no .*--html"):
        explore_html.write(small, tmp_path / "mine", "mc3", "", 0, 3)
    (tmp_path / "other.html").write_text("<p>mine")
    with pytest.raises(DataError, match="was not written by `mc3 explore`"):
        explore_html.write(small, tmp_path / "other.html", "mc3", "", 0, 3, single=True)
    for _ in range(2):
        explore_html.write(small, tmp_path / "page.html", "mc3", "", 0, 0.02, single=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other.html", "page.html"]
    with pytest.raises(ConfigError, match="two clips or more"):
        explore_html.write(small, tmp_path / "page.html", "mc3", "", 0, 1)


def test_the_same_input_gives_the_same_page_and_no_narration_is_markup_in_it(small: Config, tmp_path: Path) -> None:
    pages = []
    for name in "ab":
        explore_html.write(small, tmp_path / name, "mc3", "wo_consensus", 0, 4)
        pages.append((tmp_path / name / "index.html").read_bytes())
        assert len(list((tmp_path / name / "clips").iterdir())) == 12  # without raw videos: pictures, sound, a frame
    assert pages[0] == pages[1]
    text = pages[0].decode()
    assert r"left hand $1 \u003c" in text
    assert text.count("<script") == text.count("</script>") == 2
    assert obeyed(text, scripts=2) == []
    assert "default-src 'none'" in text
