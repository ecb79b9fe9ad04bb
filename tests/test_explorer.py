"""The explorer's Python side: what it sends to the browser, and which requests it answers."""

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from mc3.config import Config
from mc3.errors import ConfigError, DataError
from mc3.extra import explorer
from mc3.extra.explorer import Explorer


@pytest.fixture(scope="module")
def view(small: Config) -> Explorer:
    return Explorer(small, "mc3", 0)


@pytest.fixture
def sent(view: Explorer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages to the browser, after a round trip through JSON."""
    found: list[Any] = []
    monkeypatch.setattr(
        Explorer, "send", lambda _, content, buffers=None: found.append(json.loads(json.dumps(content)))
    )
    return found


def decoded(uri: str, kind: str) -> io.BytesIO:
    head, data = uri.split(",")
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(data, validate=True))


def test_the_browser_first_gets_points_and_words_but_no_picture_or_sound(view: Explorer) -> None:
    assert "base64" not in json.dumps(view.points)
    assert len(view.points["x"]) == len(view.points["y"]) == len(view.points["text"]) == len(view.index)
    for group in view.points["groups"].values():
        assert len(group["codes"]) == len(view.index)
        assert max(group["codes"]) < len(group["names"]) <= explorer.COLOURED + 1


def test_a_click_is_answered_with_that_clips_frames_sound_and_narration(view: Explorer, sent: list[Any]) -> None:
    view._handle_custom_msg({"kind": "clip", "row": 7}, [])
    (clip,) = sent
    assert (clip["kind"], clip["row"], clip["text"]) == ("clip", 7, view.index.at[7, "text"])
    strip = np.asarray(Image.open(decoded(clip["strip"], "image/jpeg")))
    frames = view.clips.frames(7)
    assert strip.shape == (clip["frames"] * frames.shape[1], *frames.shape[2:])
    assert np.abs(strip.reshape(frames.shape).astype(int) - frames).mean() < 6
    with wave.open(decoded(clip["sound"], "audio/wav")) as sound:
        samples, rate = view.clips.waveform(7)
        assert (sound.getframerate(), sound.getnchannels()) == (rate, 1)
        assert sound.readframes(sound.getnframes()) == samples.tobytes()
    assert clip["seconds"] == pytest.approx(1.5)


def test_a_row_that_is_not_there_or_not_readable_or_a_malformed_message_gets_an_error(view, sent, monkeypatch) -> None:
    for row in (-1, 10**9, None, "7", "../../etc/passwd", 1.5, True, [1]):
        view._handle_custom_msg({"kind": "clip", "row": row}, [])
        assert "no clip" in sent[-1]["message"]
    view._handle_custom_msg("nonsense", [])
    monkeypatch.setattr(view.clips, "frames", Mock(side_effect=FileNotFoundError("shard is gone")))
    view._handle_custom_msg({"kind": "clip", "row": 0}, [])
    assert "shard is gone" in sent[-1]["message"]
    assert [message["kind"] for message in sent] == ["error"] * 10


def test_neighbours_are_the_most_similar_other_clips_across_modalities(view: Explorer) -> None:
    found = view.neighbours(5, k=4)
    assert set(found["pair"]) == {f"{a} → {b}" for a in view.embeddings for b in view.embeddings if a != b}
    for pair, part in found.groupby("pair"):
        source, target = pair.split(" → ")
        similarity = view.embeddings[target] @ view.embeddings[source][5]
        similarity[5] = -np.inf
        assert part["row"].tolist() == np.argsort(-similarity, kind="stable")[:4].tolist()
        np.testing.assert_allclose(part["similarity"], similarity[part["row"]], atol=1e-6)
        groups = view.index["action_group"]
        assert part["same_group"].tolist() == (groups[part["row"]] == groups[5]).tolist()


def test_pca_keeps_the_two_directions_of_largest_variance() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 6)) * [1, 9, 2, 5, 1, 1]
    flat = explorer.project(points, "pca")
    _, _, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    for k in range(2):
        assert abs(np.corrcoef(flat[:, k], points @ directions[k])[0, 1]) == pytest.approx(1)
    assert (flat.min(axis=0).tolist(), flat.max(axis=0).tolist()) == ([0, 0], [1, 1])


def test_tsne_separates_two_distant_groups_and_repeats() -> None:
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    points[20:] += 30
    flat = explorer.project(points, "tsne")
    np.testing.assert_array_equal(flat, explorer.project(points, "tsne"))
    first, second = flat[:20], flat[20:]
    spread = max(np.ptp(first, axis=0).max(), np.ptp(second, axis=0).max())
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > spread / 2


def test_an_unknown_projection_or_modality_and_the_command_for_missing_embeddings_are_named(small: Config) -> None:
    with pytest.raises(ConfigError, match="umap"):
        Explorer(small, "mc3", 0, projection="umap")
    with pytest.raises(ConfigError, match="no video embeddings here; this method has audio, text"):
        Explorer(small, "clap", 0, modality="video")
    with pytest.raises(DataError, match="dvc repro embed"):
        Explorer(small, "mc3", 5)


def test_the_map_without_widgets_has_every_clip_with_its_verb(view: Explorer) -> None:
    points = view.map("verb")
    assert len(points) == len(view.index)
    assert points["group"].tolist() == view.index["verb"].tolist()


def test_the_front_end_writes_text_as_text_and_contacts_no_other_host() -> None:
    front = Path(explorer.__file__).with_suffix(".js").read_text()
    assert "innerHTML =" not in front
    assert not any(word in front for word in ("http:", "https:", "import(", "eval(", "fetch("))
