"""The trainer: determinism, frozen encoders, checkpoints, resuming after kills, several processes."""

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_training
import torch
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st
from raw_files import contents
from safetensors.torch import save_file
from small_training import SEED, configured, weights
from small_work import mini
from torch.utils.data import Dataset

from mc3 import checkpoint, methods, pools, train
from mc3.config import Config, override
from mc3.data import batches
from mc3.data.shards import ClipDataset, open_clips
from mc3.errors import ConfigError, DataError
from mc3.model import MC3, embed_clips


def states(config: Config, method: str = "align") -> list[Path]:
    """The saved states, newest last."""
    return sorted((config.paths.work / "runs" / f"{method}-0").glob("state-*.pt"))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_of(folder: Path) -> list[dict]:
    return [line for line in lines_of(folder) if "loss" in line]


def test_the_same_seed_gives_the_same_bytes_with_and_without_workers_and_another_seed_does_not(settings):
    config = configured(settings)
    first = contents(train.run(config, "align", SEED))
    assert set(first) >= {"final/model.safetensors", "final/config.json", "metrics.jsonl"}
    assert contents(train.run(configured(settings, workers=2), "align", SEED)) == first
    assert contents(train.run(config, "align", 1))["final/model.safetensors"] != first["final/model.safetensors"]


def test_refining_without_an_align_checkpoint_of_the_same_model_is_refused_with_the_remedy(settings):
    config = configured(settings)
    with pytest.raises(DataError, match="mc3 train --method align --seed 0"):
        train.run(config, "mc3", SEED)
    MC3.initial(config, SEED).save(config.paths.final("align", SEED))
    with pytest.raises(ConfigError, match="other `model` settings"):
        train.run(override(config, {"model.video.depth": 2}), "mc3", SEED)


@dataclasses.dataclass
class Trained:
    """A run of every recipe."""

    folder: Path
    starts: list[dict[str, torch.Tensor]]  # weights before each stage
    clips: list[int] = dataclasses.field(default_factory=list)  # of all batches
    most_embedded: int = 0  # different clips in one step


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, shards: Path) -> dict[str, Trained]:
    settings = small_training.settings(mini(tmp_path_factory.mktemp("recipes") / "work"), shards)
    settings["model"]["text"]["dropout"] = 0.0
    config, made = configured(settings), {}
    begin, step, forward = train.Trainer.begin, train.Trainer.train_step, MC3.forward
    embedded: set[int] = set()

    def beginning(self, k):
        run = made.setdefault(self.recipe.name, Trained(config.paths.checkpoint(self.recipe.name, SEED), []))
        run.starts.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        begin(self, k)

    def stepping(self, k, number, *arguments):
        embedded.clear()
        found, run = step(self, k, number, *arguments), made[self.recipe.name]
        run.most_embedded = max(run.most_embedded, len(embedded))
        run.clips += self.plans[k][number].tolist()
        return found

    def watched(self, batch):
        embedded.update(hash(row.numpy().tobytes()) for row in batch[next(iter(batch))].detach())
        return forward(self, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train.Trainer, "begin", beginning)
        patched.setattr(train.Trainer, "train_step", stepping)
        patched.setattr(MC3, "forward", watched)
        for name in ("align", *methods.METHODS, *methods.OTHERS):
            train.run(config, name, SEED)
    for seed in (SEED, 1):
        made[f"initial {seed}"] = Trained(Path(), [train.start(config, methods.get("align"), seed).state_dict()])
    return made


@pytest.mark.parametrize("method", ["align", *methods.METHODS, *methods.OTHERS])
def test_all_methods_have_the_same_number_of_clips_and_the_same_initial_weights(recipes, method):
    """Momentum encoders and memories take the same clips; nothing is embedded beyond the batches."""
    run, align = recipes[method], recipes["align"]
    refines = methods.get(method).start == "align"
    origin, name = recipes[f"initial {SEED}"].starts[0], "encoders.video.projection.0.weight"
    assert not torch.equal(origin[name], recipes["initial 1"].starts[0][name])
    origin = weights(align.folder) if refines else origin
    assert run.starts[0].keys() == origin.keys()
    assert all(torch.equal(run.starts[0][name], origin[name]) for name in origin)
    assert 0 < run.most_embedded <= 14
    clips, epochs = run.clips + (align.clips if refines else []), 1 if method == "align" else 2
    assert sorted(clips) == sorted([*range(28)] * epochs)


@pytest.mark.parametrize("method", ["align", *methods.METHODS, *methods.OTHERS])
def test_every_recipe_trains_its_encoders_on_its_loss_and_frozen_ones_keep_every_bit(recipes, mini_config, method):
    run, recipe = recipes[method], methods.get(method)
    ends = [*run.starts[1:], weights(run.folder)]
    for stage, before, after in zip(recipe.stages, run.starts, ends, strict=True):
        for name in after:
            learns = name.split(".")[1] in stage.train
            if not learns or ".projection." in name:
                assert torch.equal(before[name], after[name]) != learns, name
    rows = steps_of(run.folder)
    assert 14 * len(rows) == len(run.clips)
    for row in rows:
        stage = recipe.stages[row["stage"]]
        terms = [value for key, value in row.items() if key.count("-") == 1 and "/" not in key]
        assert len(terms) == {"gram": 2, "triangle": 2, "symile": 3}.get(stage.loss, 2 * len(stage.pairs))
        assert ("consensus" in row) == (stage.consensus > 0)
        consensus = mini_config.loss.consensus_weight * row.get("consensus", 0.0)
        expected = stage.contrastive * sum(terms) + stage.consensus * consensus
        assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_ssast_starts_from_random_weights_and_trains_the_audio_trunk_alone(settings):
    config = configured(settings)
    drawn = train.start(config, methods.get("ssast"), SEED).state_dict()
    chosen = Path(settings["paths"]["work"], "audio.safetensors")
    audio = {name.removeprefix("encoders.audio."): tensor + 1 for name, tensor in drawn.items() if ".audio." in name}
    save_file(audio, chosen)
    config = dataclasses.replace(config, init={"audio": chosen})
    started = {name: train.start(config, methods.get(name), SEED).state_dict() for name in ("ssast", "clap")}
    assert not torch.equal(started["clap"]["encoders.audio.trunk.pos_embed"], drawn["encoders.audio.trunk.pos_embed"])
    assert all(torch.equal(started["ssast"][name], drawn[name]) for name in drawn)
    folder = train.run(config, "ssast", SEED)
    after = weights(folder)
    assert {n for n in drawn if not torch.equal(after[n], drawn[n])} == {n for n in drawn if ".audio.trunk." in n}
    assert not (folder / "best").exists()  # nothing that validation could compare
    rows = lines_of(folder)
    assert len(rows) == len(steps_of(folder)) == 4
    for step, row in enumerate(rows):
        assert row["loss"] == pytest.approx(row["discriminative"] + row["generative"])
        assert row["lr"] == pytest.approx(0.1 * train.learning_rate(config.train, step, 4))


def test_training_learns_what_two_modalities_share(settings, monkeypatch):
    entry = {"label": "", "start": "init", "stages": [{"epochs": "align", "pairs": ["video-text"]}]}
    monkeypatch.setitem(methods.METHODS, "pair", entry)
    settings["model"]["text"] |= {"dim": 64, "dropout": 0.0}
    settings["model"]["video"]["dim"] = settings["model"]["embedding_dim"] = 64
    config = configured(settings, epochs={"align": 20, "refine": 0}, learning_rate=3e-3, warmup_steps=5)
    losses = [row["loss"] for row in steps_of(train.run(config, "pair", SEED))]
    chance = 2 * math.log(14)
    assert losses[0] > 0.95 * chance
    assert np.mean(losses[-4:]) < 0.8 * chance  # fourteen clips of eight things cannot reach 0


def test_best_is_the_checkpoint_of_the_epoch_with_the_highest_mean_roc(settings):
    config = configured(settings, epochs={"align": 4, "refine": 1}, learning_rate=1e-2)
    folder = train.run(config, "align", SEED)
    rocs = [line for line in lines_of(folder) if "av_roc" in line]
    assert [line["epoch"] for line in rocs] == [1, 2, 3, 4]
    best = max(rocs, key=lambda row: row["av_roc"] + row["al_roc"])
    names = ("av_roc", "al_roc", "av_similarity", "al_similarity", "vl_similarity")
    for place, row in ((config.paths.run("align", SEED) / "best", best), (folder / "final", rocs[-1])):
        model = MC3.load(place)
        clips = open_clips(config, "validation", model.tokenizer, methods.MODALITIES)
        found = train.validate(model, clips, set(methods.MODALITIES), 5)
        assert found == pytest.approx({name: row[name] for name in names})
    labelled = clips.index["positive"].notna().to_numpy().nonzero()[0]
    with torch.no_grad():
        batch = torch.utils.data.default_collate([clips[i] for i in labelled])
        e = model({m: batch[m] for m in methods.MODALITIES})
    for name, (i, j) in {"av": ("audio", "video"), "al": ("audio", "text"), "vl": ("video", "text")}.items():
        mean = torch.cosine_similarity(e[i], e[j]).mean().item()
        assert found[f"{name}_similarity"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(("method", "rocs"), [("imagebind", [(1, "av_roc", "al_roc")]), ("clap", [(0, "al_roc")] * 2)])
def test_validation_covers_only_trained_modalities(recipes, method, rocs):
    rows = [row for row in lines_of(recipes[method].folder) if "loss" not in row]
    assert [(row["stage"], *(key for key in row if key.endswith("_roc"))) for row in rows] == rocs


def test_training_without_labels_skips_validation(settings, shards):
    work, index = Path(settings["paths"]["work"]), pd.read_parquet(shards / "index.parquet")
    (work / "shards").unlink()
    shutil.copytree(shards, work / "shards")
    index.assign(positive=pd.array([None] * len(index), dtype="Int8")).to_parquet(work / "shards" / "index.parquet")
    folder = train.run(configured(settings), "align", SEED)
    assert "roc" not in (folder / "metrics.jsonl").read_text()
    assert not (work / "runs" / f"align-{SEED}" / "best").exists()
    assert len(steps_of(folder)) == 2


def test_a_loss_that_is_not_finite_stops_with_advice_and_keeps_the_old_output(settings):
    config = configured(settings)
    before = contents(train.run(config, "align", SEED))
    wild = configured(settings, learning_rate=1e30, warmup_steps=0, schedule="constant", gradient_clip=1e9)
    with pytest.raises(ConfigError, match=r"nan.* at step 2 of align \(stage 0.*train.learning_rate.*train.precision"):
        train.run(wild, "align", SEED)
    assert contents(config.paths.checkpoint("align", 0)) == before
    state = torch.load(states(config)[-1], weights_only=True)
    assert state["step"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("optimizer", "sgd", "train.optimizer is 'sgd'"), ("schedule", "step", "train.schedule is 'step'"),
     ("precision", "fp8", "train.precision is 'fp8'"), ("crop_scale", [0.9, 0.5], "train.crop_scale"),
     ("batch_size", 29, "train.batch_size is 29, but there are 28 training clips"),
     ("freeze", ["encoders.vision.*"], r"'encoders\.vision\.\*', which fits no parameter"),
     ("freeze", ["*"], "leaves nothing to learn"), ("microbatch_size", 0, r"train\.microbatch_size is 0"),
     ("log_mel", "gpu", r"train\.log_mel is 'gpu'")],
)  # fmt: skip
def test_an_invalid_setting_is_named(settings, name, value, message):
    with pytest.raises(ConfigError, match=message):
        train.run(configured(settings, **{name: value}), "align", SEED)


def test_the_loss_curves_are_the_recorded_ones(settings):
    """Fails after a change of any loss, schedule, order, crop or initial weight; if intended, record the new curves.

    The curves are of align and MC3 (own inverse, weight 5) of `small_training` in float64, in which processors differ
    by less than 1e-9.
    """
    settings["loss"] |= {"consensus_weight": 5.0, "temperature": 0.05}
    settings["loss"]["consensus"] |= {"inverse": "own", "stop_gradient": True}
    config = configured(settings, epochs={"align": 4, "refine": 4}, precision="fp64")
    found = {method: [row["loss"] for row in steps_of(train.run(config, method, SEED))] for method in ("align", "mc3")}
    recorded = json.loads(Path(__file__).with_name("golden_losses.json").read_text())
    assert found == {method: pytest.approx(curve, rel=1e-6) for method, curve in recorded.items()}


# Killed runs ---------------------------------------------------------------------------------------------------------

LONG = {"epochs": {"align": 3, "refine": 2}, "checkpoint_every": 3, "log_every": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, shards: Path) -> dict[str, bytes]:
    """The output of align with the settings LONG."""
    settings = small_training.settings(mini(tmp_path_factory.mktemp("uninterrupted") / "work"), shards)
    return contents(train.run(configured(settings, **LONG), "align", SEED))


@contextmanager
def before_each_step(act: Callable[[int], object]) -> Iterator[list[int]]:
    """Call `act` with the number of steps taken; yields these steps, each counted from the beginning of its stage."""
    step, taken = train.Trainer.train_step, []

    def acting(self, *args):
        act(len(taken))
        taken.append(args[1])
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train.Trainer, "train_step", acting)
        yield taken


def interrupted(config: Config, at: int, method: str = "align") -> None:
    """A run that fails after `at` steps and leaves its states."""

    def cut(taken: int) -> None:
        if taken == at:
            raise RuntimeError("power cut")

    with before_each_step(cut), pytest.raises(RuntimeError, match="power cut"):
        train.run(config, method, SEED)


def resumed(config: Config, method: str = "align") -> tuple[dict[str, bytes], list[int]]:
    """The output of a run, and the steps that it took."""
    with before_each_step(id) as taken:
        return contents(train.run(config, method, SEED)), taken


@pytest.mark.parametrize("method", ["align", "imagebind", "clap", "cm_acc", "ssast"])
def test_a_run_interrupted_at_any_step_ends_with_the_bytes_of_an_uninterrupted_one(settings, method):
    config = configured(settings, **LONG)
    whole, taken = resumed(config, method)
    total = len(taken)
    for breaks in range(1, total, total // 3):
        interrupted(config, breaks, method)
        again, taken = resumed(config, method)
        assert again == whole
        saved = [0, 2, 3, 4, 6, 8, 9, 10]  # ends of epochs, and every third step of a stage of six and one of four
        assert len(taken) == total - max(at for at in saved if at <= breaks)
        assert states(config, method) == []


def test_twenty_kills_at_random_moments_end_with_the_bytes_of_an_uninterrupted_run(settings):
    config = configured(settings, **LONG)
    folder = config.paths.checkpoint("align", 0)
    began = time.monotonic()
    uninterrupted = contents(train.run(config, "align", SEED))
    duration, rng = time.monotonic() - began, np.random.default_rng(0)
    kills = finished = 0
    while kills < 20 or not finished:
        child = small_training.fresh.Process(target=train.run, args=(config, "align", SEED))
        child.start()
        child.join(rng.uniform(0, 1.2 * duration))
        if child.is_alive() and kills < 40:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        kills += child.exitcode != 0
        if folder.exists():
            assert contents(folder) == uninterrupted  # an older one, whole, or the new one
        if child.exitcode == 0:
            assert states(config) == []
            shutil.rmtree(folder)
            finished += 1


@pytest.mark.parametrize("damage", ["cut short", "one byte", "empty", "all of them"])
def test_a_damaged_state_is_detected_and_an_intact_one_before_it_is_used(settings, uninterrupted, capsys, damage):
    config = configured(settings, **LONG)
    interrupted(config, 5)
    older, newest = states(config)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = {"cut short": data[:-100], "one byte": data, "empty": b"", "all of them": data[:1000]}
    newest.write_bytes(damaged[damage])
    if damage == "all of them":
        older.write_bytes(older.read_bytes()[:1000])
    first = 0 if damage == "all of them" else int(older.name.split("-")[1])
    assert resumed(config) == (uninterrupted, [*range(first, 6)])
    errors = capsys.readouterr().err
    assert errors.count("is damaged; resuming from an earlier state") == (1 if first else 2)
    assert f"{newest} is damaged" in errors


@pytest.mark.parametrize("file", ["state.part", "output/metrics.jsonl"])
def test_a_full_disk_is_one_sentence_and_keeps_the_last_intact_state(settings, uninterrupted, file):
    config = configured(settings, **LONG)
    interrupted(config, 3)
    path, good = config.paths.work / "runs" / "align-0" / file, states(config)
    content = path.read_bytes() if path.exists() else None

    def fill(taken: int) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/full")  # every write there fails as on a full disk

    advice = r"cannot write to .*align-0.*free some space.*is intact, and"
    with before_each_step(fill), pytest.raises(DataError, match=advice):
        train.run(config, "align", SEED)
    assert states(config) == good
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    assert contents(train.run(config, "align", SEED)) == uninterrupted


def test_a_folder_that_cannot_be_made_is_one_sentence(settings):
    config = configured(settings)
    (config.paths.work / "runs").write_text("a file where a folder is wanted")
    with pytest.raises(DataError, match=r"cannot write to .*align-0 \(.*\); free some space .*: nothing was saved yet"):
        train.run(config, "align", SEED)


def test_a_linked_checkpoint_stays_a_link_to_where_the_new_one_is(settings, uninterrupted, tmp_path):
    config = configured(settings, **LONG)
    link, elsewhere = config.paths.checkpoint("align", SEED), tmp_path / "elsewhere"
    link.parent.mkdir(parents=True)
    elsewhere.mkdir()
    link.symlink_to(elsewhere, target_is_directory=True)
    for _ in range(2):  # into an empty folder, then over a checkpoint
        train.run(config, "align", SEED)
        assert link.is_symlink()
        assert contents(elsewhere) == uninterrupted


@pytest.mark.parametrize("at", ["mc3.model.save_file", "mc3.checkpoint.write_atomic", "shutil.copytree"])
def test_a_kill_while_a_run_is_finished_takes_no_step_again_and_publishes_nothing_else(settings, uninterrupted, at):
    config = configured(settings, **LONG)
    child = small_training.fresh.Process(target=killed_in, args=(at, config))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert resumed(config) == (uninterrupted, [])
    assert sorted(path.name for path in config.paths.work.rglob("*.mc3-partial")) == []


def killed_in(function: str, config: Config) -> None:
    """Train in a process that is killed when all steps are done, where it calls `function`."""
    finish = checkpoint.Run.finish

    def finish_until(self: checkpoint.Run, *arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(function, lambda *_, **options: os.kill(os.getpid(), signal.SIGKILL))
            finish(self, *arguments)

    checkpoint.Run.finish = finish_until
    train.run(config, "align", SEED)


def test_processes_that_cannot_share_a_batch_are_refused_before_a_step(settings, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 15)
    with pytest.raises(ConfigError, match=r"^train.batch_size is 14, which 15 processes cannot share; make"):
        train.run(configured(settings), "align", SEED)


def killed() -> None:
    time.sleep(1)  # so that the batch before is received
    os.kill(os.getpid(), signal.SIGKILL)


def hanging() -> None:
    time.sleep(600)


@pytest.mark.parametrize(("fault", "reason"), [(killed, "exited unexpectedly"), (hanging, "timed out")])
def test_a_process_that_reads_batches_and_is_killed_or_hangs_is_an_error_that_says_so(monkeypatch, fault, reason):
    monkeypatch.setattr(pools, "HANGING_SEC", 4)
    with pytest.raises(DataError, match=rf"the processes that read clips \(1, train.workers\).*{reason}"):
        list(pools.load(Faulty(fault), 1))
    assert not multiprocessing.active_children()


@dataclasses.dataclass
class Faulty(Dataset):
    fault: Callable[[], None]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> int:
        if i == 2:
            self.fault()
        return i


def test_a_second_training_of_the_same_name_is_refused(settings):
    config, held = configured(settings), []
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1, lambda: held.append(checkpoint.Run(config, "align", 0, "", main=True))) as pool:
        pool.apply(int)  # that process has begun
        with pytest.raises(DataError, match="another process is training align-0"):
            train.run(config, "align", SEED)
    train.run(config, "align", SEED)  # the lock ends with its process


def test_processes_that_do_not_know_each_other_are_refused(settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes were started.*ACCELERATE_USE_CPU=true"):
        train.run(configured(settings), "align", SEED)


@pytest.mark.parametrize(("at", "log_every"), [(2, 2), (4, 1)], ids=["at a step that saves anyway", "at another"])
def test_sigterm_saves_and_exits_with_75_and_the_next_run_resumes(settings, uninterrupted, at, log_every):
    config = configured(settings, **LONG | {"log_every": log_every})

    def terminate(taken: int) -> None:
        if taken == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with before_each_step(terminate) as taken, pytest.raises(SystemExit) as stopped:
        train.run(config, "align", SEED)
    assert stopped.value.code == 75
    again, others = resumed(config)
    same = [name for name in uninterrupted if name.startswith("final/") or log_every == LONG["log_every"]]
    assert [again[name] for name in same] == [uninterrupted[name] for name in same]
    assert taken + others == [*range(6)]  # no step twice


def test_a_state_of_other_settings_is_not_resumed(settings):
    config = configured(settings, **LONG)
    interrupted(config, 4)
    assert states(config)
    _, taken = resumed(configured(settings, **LONG, learning_rate=1e-2))
    assert taken == [*range(6)]
    assert [row["step"] for row in steps_of(config.paths.checkpoint("align", 0))] == [1, 2, 3, 4, 5, 6]


def test_other_initial_weights_in_the_same_file_change_the_fingerprint(settings, tmp_path):
    config = configured(settings)
    model = MC3.initial(config, SEED)
    path = tmp_path / "video.safetensors"
    config.init["video"] = path
    found = set()
    for scale in (1.0, 1.0, 2.0):
        save_file({name: scale * tensor for name, tensor in model.encoders["video"].state_dict().items()}, path)
        found.add(train.fingerprint(config, "clap", SEED))
    assert len(found) == 2


# Many processes ------------------------------------------------------------------------------------------------------


def test_three_processes_with_unequal_shares_reach_the_weights_of_one(settings):
    settings["model"]["text"]["dropout"] = 0.0  # each process draws its own
    settings["loss"]["consensus"]["stop_gradient"] = False
    config = configured(settings)
    alone = train.run(config, "wo_align", SEED)
    one, lines = weights(alone), lines_of(alone)
    shutil.rmtree(alone)
    small_training.processes(3, train.run, config, "wo_align", SEED)
    three = weights(alone)
    for name, tensor in one.items():
        # A bias of attention's keys shifts all scores of a query alike, so its gradient is 0 except for rounding, which
        # Adam divides by itself: such a bias is noise, in one process as in three.
        if name.endswith("k_lin.bias"):
            continue
        ours, theirs = three[name], tensor
        if name.endswith("qkv.bias"):
            ours, theirs = ours.view(3, -1)[[0, 2]], theirs.view(3, -1)[[0, 2]]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=name)
    for a, b in zip(lines_of(alone), lines, strict=True):  # validation too: each clip was embedded once
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def embed_in_its_own_order(config: Config, folder: Path) -> None:
    model, rank = MC3.initial(config, SEED), PartialState(cpu=True).process_index
    clips = open_clips(config, "validation", model.tokenizer, methods.MODALITIES)
    order = methods.MODALITIES[rank:] + methods.MODALITIES[:rank]
    np.savez(folder / f"{rank}.npz", **embed_clips(model, clips, order, 5))


def test_processes_that_name_the_modalities_in_other_orders_do_not_mix_them_up(settings, tmp_path):
    config = configured(settings)
    small_training.processes(3, embed_in_its_own_order, config, tmp_path)
    model = MC3.initial(config, SEED)
    clips = open_clips(config, "validation", model.tokenizer, methods.MODALITIES)
    alone = embed_clips(model, clips, methods.MODALITIES, 5)
    for rank in range(3):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for modality, tensor in alone.items():
                np.testing.assert_allclose(found[modality], tensor, atol=1e-6)


# Batches and crops ---------------------------------------------------------------------------------------------------


@given(clips=st.integers(1, 60), size=st.integers(1, 60), epochs=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_epoch_has_every_clip_at_most_once_in_a_new_order_and_full_batches(clips, size, epochs, seed):
    if clips < size:
        with pytest.raises(ConfigError, match=r"train\.batch_size"):
            batches.draw(clips, size, epochs, seed, 0)
        return
    plan = batches.draw(clips, size, epochs, seed, 0)
    assert plan.shape == (epochs * (clips // size), size)
    for epoch in plan.reshape(epochs, -1):
        assert len(set(epoch.tolist())) == len(epoch) == clips // size * size
        assert set(epoch.tolist()) <= set(range(clips))
    assert np.array_equal(plan, batches.draw(clips, size, epochs, seed, 0))


def test_orders_differ_between_epochs_stages_and_seeds_and_seeds_between_steps_and_directions():
    orders = [batches.draw(50, 50, 2, seed, stage) for seed in (0, 1) for stage in (0, 1)]
    assert len({tuple(order) for plan in orders for order in plan}) == 8
    seeds = [batches.seed_of(batches.seed_of(0, 0, step), direction) for step in range(9) for direction in (0, 1)]
    assert len(set(seeds)) == 18


def test_crops_of_squares_are_those_before_there_were_wide_frames():
    """Bit for bit: the recorded results of square frames depend on it."""
    for seed in range(20):
        found = batches.crops(64, [0.5, 1.0], True, torch.Generator().manual_seed(seed), torch.ones(64), 1.0)
        u = torch.rand(5, 64, generator=torch.Generator().manual_seed(seed))
        area, aspect = 0.5 + (1.0 - 0.5) * u[0], torch.exp((2 * u[1] - 1) * math.log(4 / 3))
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        assert torch.equal(found[:, 0, 0], torch.where(u[4] < 0.5, -width, width))
        assert torch.equal(found[:, 1, 1], height)
        assert torch.equal(found[:, 0, 2], (2 * u[2] - 1) * (1 - width))
        assert torch.equal(found[:, 1, 2], (2 * u[3] - 1) * (1 - height))


def from_or_above(least: float, most: float) -> st.SearchStrategy[float]:
    """Half of the draws are `least`."""
    return st.just(least) | st.floats(least, most)


@given(width=from_or_above(1.0, 2.4), margin=from_or_above(0.0, 1.0), low=st.floats(0.05, 1.0),
       more=st.floats(0.0, 1.0), seed=st.integers(0, 99))  # fmt: skip
def test_crops_lie_inside_the_frame_with_the_requested_area_and_aspect_in_pixels(width, margin, low, more, seed):
    """Pixels are as high as wide, so shapes are not distorted beyond 4/3; what extends a frame is not seen."""
    high = min(1.0, low + more)
    made = batches.crops(64, [low, high], True, torch.Generator().manual_seed(seed), width, width + margin)
    across, down = made[:, 0, 0].abs() * (width + margin), made[:, 1, 1]  # in units of the frame's height
    centre = made[:, 0, 2].abs() * (width + margin)
    assert torch.all(centre + across <= width + 1e-4)
    assert torch.all(made[:, 1, 2].abs() + down <= 1 + 1e-5)
    assert torch.all((across / down <= 4 / 3 + 1e-4) & (across / down >= 3 / 4 - 1e-4))
    area = across * down / width
    assert torch.all(area <= high + 1e-4)
    too_small = (down > 1 - 1e-5) | (across > width - 1e-4)
    assert torch.all((area >= low - 1e-4) | too_small)
    assert torch.all(made[:, [0, 1], [1, 0]] == 0)


def test_a_crop_of_a_wide_frame_is_that_part_of_its_pixels():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(112.0), indexing="ij")
    video = torch.stack([columns, rows, rows], dim=-1)[None, None].repeat(50, 2, 1, 1, 1)
    own = torch.tensor([84, 112]).repeat(25)  # in the middle of 112: from column 14 or 0
    theta = batches.crops(50, [0.5, 1.0], False, torch.Generator().manual_seed(0), own / 64, 112 / 64)
    found = batches.augment(video, theta, 224)
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.all(found[:, 0, 0, 0, 0] >= (112 - own) / 2 - 0.5)
    assert torch.all(found[:, 0, 0, -1, 0] <= (112 + own) / 2 - 0.5)
    across, down = (found[:, 0, 112, 113, n] - found[:, 0, 111, 112, n] for n in (0, 1))  # pixels a step
    assert torch.all((across / down < 4 / 3 + 1e-3) & (across / down > 3 / 4 - 1e-3))


@given(taken=st.integers(1, 6), each=st.integers(1, 5), seed=st.integers(0, 9), step=st.integers(0, 9))
def test_one_frame_of_each_equal_segment_is_drawn_at_random(taken, each, seed, step):
    found = batches.sample_frames(300, taken * each, taken, seed, 1, step)
    assert found.shape == (300, taken)
    assert (found // each == np.arange(taken)).all()
    assert {tuple(c) for c in found.T % each} != {(0,) * 300} or each == 1
    for column in found.T % each:
        counts = np.bincount(column, minlength=each)
        assert (np.abs(counts - 300 / each) < 6 * (300 / each) ** 0.5).all()
    again = batches.sample_frames(300, taken * each, taken, seed, 1, step)
    assert np.array_equal(found, again)
    if each > 1:
        assert not np.array_equal(found, batches.sample_frames(300, taken * each, taken, seed, 1, step + 1))


def test_training_draws_frames_by_step_and_evaluation_takes_the_middle_ones(settings):
    """Of four stored pictures of a clip the model takes two."""
    settings["model"]["video"]["frames"] = 2
    trainer = small_training.trainer(configured(settings), "align")
    first, second = trainer.loader(0)
    (resumed,) = trainer.loader(0, 1)
    assert torch.equal(resumed["video"], second["video"])
    seen = set()
    for step, batch in enumerate((first, second)):
        for row, clip, video in zip(trainer.plans[0][step], batch["index"], batch["video"], strict=True):
            assert row == clip
            stored = torch.from_numpy(trainer.clips.frames(int(row)))
            (pair,) = [(a, b) for a in (0, 1) for b in (2, 3) if torch.equal(video, stored[[a, b]])]
            seen.add(pair)
    assert seen == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert torch.equal(trainer.held_out[0]["video"], torch.from_numpy(trainer.held_out.frames(0)[[1, 3]]))
    assert trainer.inputs(0, 0, first)["video"].shape == (14, 2, 32, 32, 3)


def test_a_crop_is_the_same_part_of_every_frame_resized_and_a_negative_width_its_mirror_image():
    video = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8)
    theta = torch.eye(2, 3).repeat(3, 1, 1)
    theta[1, 0, 0] = -1
    theta[2] = torch.tensor([[0.5, 0.0, 0.25], [0.0, 0.5, -0.5]])  # columns 12-27, rows 0-15
    same, mirror, part = batches.augment(video, theta, 32)
    torch.testing.assert_close(same, video[0].float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(mirror, video[1].flip(2).float(), rtol=0, atol=1e-3)
    cut = video[2, :, 0:16, 12:28].movedim(-1, 1).float()
    expected = torch.nn.functional.interpolate(cut, (32, 32), mode="bilinear", align_corners=False).movedim(1, -1)
    torch.testing.assert_close(part[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=0, atol=1e-3)


def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine(mini_config):
    settings = dataclasses.replace(mini_config.train, learning_rate=1e-3, warmup_steps=20, schedule="cosine")
    rates = [train.learning_rate(settings, step, 120) for step in range(120)]
    assert rates[:20] == pytest.approx([1e-3 * (i + 1) / 20 for i in range(20)])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for rate in rates[20:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    settings = dataclasses.replace(settings, schedule="constant", warmup_steps=0)
    assert {train.learning_rate(settings, step, 5) for step in range(5)} == {1e-3}


def test_clips_that_do_not_fit_in_memory_are_read_from_the_shards(settings, monkeypatch):
    config = configured(settings)
    model = MC3.initial(config, SEED)
    cached = open_clips(config, "train", model.tokenizer, ("video", "audio"))
    monkeypatch.setattr("mc3.data.shards.IN_MEMORY_BYTES", 28 * 4 * 32 * 32 * 3)
    read = open_clips(config, "train", model.tokenizer, ("video", "audio"))
    assert isinstance(read, ClipDataset)
    assert len(cached._decoded["video"]) == 28
    assert "video" not in read._decoded
    assert torch.equal(cached[3]["video"], read[3]["video"])
