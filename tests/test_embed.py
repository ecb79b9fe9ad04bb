"""Embeddings files: rows in order, equal bytes, and errors for missing inputs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_training
import small_work
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from mc3 import config, embed, methods, store
from mc3.data.shards import open_clips
from mc3.errors import DataError
from mc3.model import MC3
from mc3.paper import jobs


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    """Sixty-four clips, and checkpoints of mc3, clap and align with initial weights."""
    settings = config.load(small_work.make(tmp_path_factory.mktemp("embed") / "work", clips=64, events=8))
    settings = config.override(settings, {"train.threads": 1, "evaluate.batch_size": 20})
    small_work.initial(settings, ("mc3", "clap", "align"))
    return settings


def test_each_row_is_its_clip_embedded_alone_with_the_same_bytes_each_time(settings: config.Config) -> None:
    file = embed.run(settings, "mc3", 0)
    tensors, before = load_file(file), file.read_bytes()
    index, model = store.clips(settings), MC3.load(settings.paths.final("mc3", 0))
    assert set(index["split"]) == {"validation", "test"}
    assert index.index.tolist() == list(range(48))
    items = {}
    for split in ("validation", "test"):
        clips = open_clips(settings, split, model.tokenizer, methods.MODALITIES)
        items |= {clip: (clips, i) for i, clip in enumerate(clips.index["clip_id"])}
    for row in (0, 15, 16, 47):
        clips, i = items[index["clip_id"][row]]
        with torch.inference_mode():
            alone = model({m: clips[i][m][None] for m in ("audio", "video", "text")})
        for modality, vector in alone.items():
            np.testing.assert_allclose(tensors[modality][row], vector[0].numpy(), atol=1e-5)
    for tensor in tensors.values():
        assert (tensor.shape, tensor.dtype) == ((48, settings.model.embedding_dim), np.float32)
        np.testing.assert_allclose(np.linalg.norm(tensor, axis=1), 1, atol=1e-5)
    with safe_open(file, "numpy") as written:
        assert written.metadata() == {"method": "mc3", "seed": "0"}
    assert jobs.is_done(settings, "embed", "mc3", 0)
    assert embed.run(settings, "mc3", 0).read_bytes() == before


def test_only_trained_modalities_are_embedded_also_of_align(settings: config.Config) -> None:
    assert sorted(load_file(embed.run(settings, "clap", 0))) == ["audio", "text"]
    assert sorted(load_file(embed.run(settings, "align", 0))) == ["audio", "text", "video"]


def test_a_missing_input_is_named_with_the_command_that_makes_it(mini_config: config.Config) -> None:
    with pytest.raises(DataError, match=r"cmc-0.*mc3 train --method cmc --seed 0"):
        embed.run(mini_config, "cmc", 0)
    with pytest.raises(DataError, match="dvc repro shards"):
        store.clips(mini_config)


def test_only_changed_methods_are_embedded_again_and_leftover_files_are_removed(settings, monkeypatch, capsys) -> None:
    monkeypatch.setattr(methods, "METHODS", {name: methods.METHODS[name] for name in ("mc3", "clap")})
    leftover = settings.paths.embeddings("gone", 0)
    settings = config.override(settings, {"seeds": [0]})
    jobs.make(settings, "embed")
    leftover.write_bytes(b"")
    before = settings.paths.embeddings("clap", 0).read_bytes()
    MC3.initial(settings, 7).save(settings.paths.final("clap", 0))
    capsys.readouterr()
    jobs.make(settings, "embed")
    printed = capsys.readouterr().out
    assert "[1/1] embed clap-0" in printed
    assert "2 results were up to date" in printed
    assert settings.paths.embeddings("clap", 0).read_bytes() != before
    files = [settings.paths.embeddings(name, 0) for name in ("align", "mc3", "clap")]
    assert sorted(leftover.parent.iterdir()) == sorted(files)


def test_files_have_the_same_bytes_from_any_process_and_the_library_reads_them(tmp_path: Path) -> None:
    about = {"seed": "0", "method": "mc3", "checkpoint": "é", "more": "x"}
    tensors = "{'b': np.ones((3, 2), np.float32), 'a': np.arange(6).reshape(2, 3).T}"
    program = "import sys; from pathlib import Path; import numpy as np; from mc3 import store; "
    program += f"store.write_tensors(Path(sys.argv[1]), {tensors}, {about})"
    files = [tmp_path / f"{seed}.safetensors" for seed in "01"]
    for file in files:
        environment = {**os.environ, "PYTHONHASHSEED": file.stem}
        subprocess.run([sys.executable, "-c", program, str(file)], check=True, env=environment)
    assert files[0].read_bytes() == files[1].read_bytes()
    np.testing.assert_array_equal(load_file(files[0])["a"], np.arange(6).reshape(2, 3).T)
    with safe_open(files[0], "numpy") as written:
        assert written.metadata() == about
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.slow
def test_two_processes_write_the_rows_of_one_in_order(settings: config.Config) -> None:
    alone = load_file(embed.run(settings, "mc3", 0))
    settings.paths.embeddings("mc3", 0).unlink()
    small_training.processes(2, embed.run, settings, "mc3", 0)
    together = load_file(settings.paths.embeddings("mc3", 0))
    for modality, tensor in alone.items():
        np.testing.assert_allclose(together[modality], tensor, atol=1e-5)
