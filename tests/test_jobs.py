"""The pipeline's trainings side by side, what they start from, and training anew: against single runs and by hand."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_training
import small_work
import yaml
from joblib.externals.loky import get_reusable_executor
from safetensors.numpy import load_file, save_file

from mc3 import config, methods, store, train
from mc3.config import Config, override
from mc3.data import manifest
from mc3.errors import DataError
from mc3.model import MC3
from mc3.paper import jobs, pretrain, retrain


@pytest.fixture
def made(tmp_path: Path, mini_settings: dict, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A pipeline of seconds with two rows, one of which starts from the align stage, and SSAST's."""
    names = ("mc3", "clap")  # the row that waits stands first
    monkeypatch.setattr(methods, "METHODS", {name: methods.METHODS[name] for name in names})
    settings = small_training.settings(mini_settings, small_training.make_shards(tmp_path / "clips"))
    return small_training.configured({**settings, "seeds": [0, 1]})


def weights(of: Config) -> dict[str, bytes]:
    found = (of.paths.work / "checkpoints").glob("*/final/model.safetensors")
    return {file.parts[-3]: file.read_bytes() for file in sorted(found)}


def test_all_rows_and_seeds_are_trained_as_one_by_one_and_only_once(made, monkeypatch, capsys):
    jobs.make(made, "train")
    together = weights(made)
    assert set(together) == {f"{name}-{seed}" for name in ("align", "mc3", "clap", "ssast") for seed in (0, 1)}
    alone = override(made, {"paths.work": str(made.paths.work / "alone")})
    for name in ("align", "mc3", "clap", "ssast"):
        train.run(alone, name, 1)
    assert weights(alone) == {name: data for name, data in together.items() if name.endswith("-1")}
    runs: list[str] = []
    monkeypatch.setattr(train, "run", lambda of, method, seed: runs.append(f"{method}-{seed}"))
    capsys.readouterr()
    jobs.make(made, "train")
    assert runs == []
    assert "8 results were up to date" in capsys.readouterr().out
    shutil.rmtree(made.paths.checkpoint("clap", 0))
    jobs.make(made, "train")
    assert runs == ["clap-0"]
    runs.clear()
    jobs.make(override(made, {"train.learning_rate": 1e-3}), "train")
    assert sorted(runs) == sorted(together)


def test_a_row_whose_align_checkpoint_changes_is_not_up_to_date_and_others_are(made):
    jobs.make(override(made, {"seeds": [0]}), "train")
    changes = {"loss.consensus.stop_gradient": False, "loss.consensus_weight": 3.0, "loss.temperature": 0.2}
    other = override(made, changes)
    assert jobs.is_done(other, "train", "clap", 0)  # which has its own temperature and no consensus
    assert not jobs.is_done(other, "train", "align", 0)
    assert not jobs.is_done(override(made, {"loss.consensus_weight": 3.0}), "train", "mc3", 0)
    MC3.initial(made, 7).save(made.paths.final("align", 0))
    assert not jobs.is_done(made, "train", "mc3", 0)
    assert jobs.is_done(made, "train", "clap", 0)


def test_weights_that_were_changed_by_one_bit_are_named_and_made_again(made, capsys):
    one = override(made, {"seeds": [0]})
    train.run(one, "clap", 0)  # not by the pipeline, which notes the hash when it first sees them
    jobs.make(one, "train")
    before, path = weights(one), one.paths.final("clap", 0) / "model.safetensors"
    path.write_bytes(before["clap-0"][:-1] + bytes([before["clap-0"][-1] ^ 1]))
    capsys.readouterr()
    jobs.make(one, "train")
    printed = capsys.readouterr().out
    assert "train clap-0: its result was changed after it was made" in printed
    assert "3 results were up to date" in printed
    assert weights(one) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_two_at_a_time_give_the_weights_of_one_at_a_time_also_with_loaders_of_their_own(made, workers):
    jobs.make(override(made, {"seeds": [0]}), "train")
    both = {"paths.work": str(made.paths.work / f"both {workers}"), "train.threads": 2, "train.workers": workers}
    both = override(made, {**both, "seeds": [0]})
    rows = {f"train {name}-0": partial(jobs.do, both, "train", name, 0) for name in ("align", "clap")}
    assert set(jobs.run(rows, dict.fromkeys(rows, 1.0), threads=2, processes=2)) == set(rows)
    get_reusable_executor().shutdown()  # whose processes would stay in the folder of this test
    assert weights(both) == {name: weights(made)[name] for name in ("align-0", "clap-0")}


def test_published_weights_are_checked_and_a_missing_one_is_named(made, tmp_path):
    published = override(made, {"pretrain": None, "init.video": str(tmp_path / "egovlp" / "video.safetensors")})
    with pytest.raises(DataError, match=r"egovlp/video.safetensors of `init` is missing; `mc3 weights convert`"):
        pretrain.write(published)
    assert list(pretrain.write(override(published, {"init.video": None})).iterdir()) == []


def test_pretraining_aligns_video_and_text_on_videos_of_its_own_for_every_seed(repository, monkeypatch):
    settings = small_work.tiny(yaml.safe_load((repository / "params.yaml").read_text()))
    settings["train"] |= {"batch_size": 16, "epochs": {"pretrain": 1, "align": 1, "refine": 1}}
    settings["world"] |= {"seconds": 20.0, "silent_videos": 1}
    settings["pretrain"]["world.videos"] = {"train": 4, "validation": 1, "test": 2}
    made = config.build(Config, settings)

    def damage_and_write(own: Config) -> Path:
        min((own.paths.raw / "v2" / "full_scale").glob("*.mp4")).write_bytes(b"half a video")
        return write(own)

    write = manifest.write
    monkeypatch.setattr(manifest, "write", damage_and_write)
    with pytest.raises(DataError, match=r"video \S+, generated in .*, is damaged"):
        pretrain.write(made)
    monkeypatch.setattr(manifest, "write", write)
    shutil.rmtree(made.paths.work / "pretraining" / "raw")
    folder = pretrain.write(made)
    assert sorted(path.name for path in folder.iterdir()) == ["text.safetensors", "tokenizer.json", "video.safetensors"]
    for modality in ("video", "text"):  # on a grid with one zero, at which threads and processors agree
        stored = np.concatenate([w.ravel() for w in load_file(folder / f"{modality}.safetensors").values()])
        assert (stored * 1024 == (stored * 1024).round()).all()
        assert (stored == 0).any()
        assert not np.signbit(stored[stored == 0]).any()
    assert not (made.paths.work / "pretraining").exists()
    made.paths.shards.mkdir()
    shutil.copy(folder / "tokenizer.json", made.paths.shards)
    one, two = (MC3.initial(made, seed).encoders.state_dict() for seed in (0, 1))
    assert {name.split(".")[0] for name in one} == {"audio", "video", "text"}
    assert {name.split(".")[0] for name in one if not (one[name] == two[name]).all()} == {"audio"}


def test_training_anew_is_compared_in_weights_and_in_every_printed_digit(tmp_path, capsys):
    released = config.load(small_work.make(tmp_path / "top"))
    released = override(released, {"seeds": [0]})
    again = override(released, {"paths.work": str(tmp_path / "again")})
    for name in ("embeddings", "probe"):
        shutil.copytree(released.paths.work / name, again.paths.work / name)
    rng = np.random.default_rng(0)
    for name in jobs.trained(released):
        values = {"x": rng.normal(size=99).astype(np.float16)}
        for of in (released, again):
            of.paths.final(name, 0).mkdir(parents=True)
            save_file(values, of.paths.final(name, 0) / "model.safetensors")
    assert retrain.compare(released, again)
    assert "all weights are equal" in capsys.readouterr().out
    save_file({"x": values["x"] * np.float16(1.5)}, again.paths.final("ssast", 0) / "model.safetensors")
    file = again.paths.embeddings("mc3", 0)
    tensors = load_file(file)
    store.write_tensors(file, tensors | {"video": np.roll(tensors["video"], 1, axis=0)}, {})
    assert not retrain.compare(released, again)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "weights differ by at most 5.0e-01 of their norm (ssast-0)"
    assert any(line.startswith("  Table 2, MC3, AV ROC: ") for line in printed)
    listed = [line for line in printed if line.startswith("  Table ")]
    more = int(printed[-1].split()[1]) if printed[-1].startswith("  and ") else 0
    assert printed[1].startswith(f"{len(listed) + more} of ")
    assert len(listed) <= 10
