"""The baselines' losses, against loops and closed forms: learnt scale, chosen negatives, masks."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import published
import pytest
import small_training
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_training import SEED, configured, weights
from torch import Tensor
from torch.nn.functional import normalize

from mc3 import methods, objectives, train
from mc3.config import Config, override
from mc3.errors import ConfigError
from mc3.model import MC3
from mc3.objectives import active_negatives, masked_patches
from mc3.objectives.active_negatives import EMPTY, Queue
from mc3.objectives.learnt_scale import LearntScale
from mc3.objectives.masked_patches import MaskedPatches

OWN = ("clap", "cm_acc", "ssast")


@pytest.fixture
def settings(settings: dict) -> dict:
    settings["model"]["text"]["dropout"] = 0.0
    return settings


def unit(rows: int, width: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def small(settings: dict, **sizes: float) -> Config:
    """With other sizes of CM-ACC's loss."""
    return override(configured(settings), {f"loss.active_negatives.{name}": size for name, size in sizes.items()})


def stepped(config: Config, method: str, count: int, watch: Callable[[train.Trainer], None] | None = None):
    """A trainer after `count` steps of plain gradient descent in float64; Adam would magnify rounding."""
    trainer = small_training.trainer(config, method, torch.float64)
    trainer.begin(0)
    optimizer = torch.optim.SGD([*trainer.model.parameters(), *trainer.objective.parameters()], lr=0.1)
    prepared = trainer.accelerator.prepare_model(trainer.objective.module(trainer.model))
    for step, batch in zip(range(count), trainer.loader(0), strict=False):
        trainer.train_step(0, step, 0.1, prepared, optimizer, batch)
        if watch is not None:
            watch(trainer)
    return trainer


def tensors(trainer: train.Trainer) -> dict[str, Tensor]:
    kept = {f"objective {name}": tensor for name, tensor in trainer.objective.state_dict().items()}
    return {name: t.clone() for name, t in {**trainer.model.state_dict(), **kept}.items()}


def write_tensors(config: Config, folder: Path) -> None:
    for method in OWN:
        found = tensors(stepped(config, method, 4))
        if torch.distributed.get_rank() == 0:
            save_file(found, folder / f"{method}.safetensors")


# CLAP's learnt scale --------------------------------------------------------------------------------------------------


def objective(config: Config, method: str) -> objectives.Objective:
    model = MC3.initial(config, SEED).double()
    return objectives.make(config, methods.get(method).stages[0], model, 28, SEED)


@pytest.mark.parametrize("kind", objectives.kinds())
def test_every_kind_of_loss_can_be_made_with_its_settings(settings, kind: str):
    config = configured(settings)
    known = objectives.kinds()[kind]
    stage = dataclasses.replace(methods.get("mc3").stages[0], loss=kind, settings=dict.fromkeys(known.takes, 8))
    assert type(objectives.make(config, stage, MC3.initial(config, SEED), 28, SEED)) is known


def test_a_new_kind_of_loss_is_one_class(settings):
    try:

        class Half(objectives.Objective, kind="half", takes=("share",)):
            def terms(self, queries, keys, offset, batch):
                whole = super().terms(queries, keys, offset, batch)
                return {name: self.stage.settings["share"] * term for name, term in whole.items()}

        config, embeddings = configured(settings), {m: unit(5, seed=n) for n, m in enumerate(methods.MODALITIES)}
        plain = methods.get("align").stages[0]
        stage = dataclasses.replace(plain, loss="half", settings={"share": 0.5})
        found = [objectives.make(config, s, MC3.initial(config, SEED), 28, SEED) for s in (plain, stage)]
        whole, half = (float(made(embeddings, batch_of(torch.arange(5)))[0]) for made in found)
        assert half == pytest.approx(whole / 2)
    finally:
        objectives.kinds().pop("half", None)


def batch_of(clips: Tensor, inputs: dict[str, Tensor] | None = None) -> objectives.Batch:
    return objectives.Batch(inputs or {}, [slice(len(clips))], clips, [len(clips)], SEED)


def test_the_scale_starts_at_one_over_the_temperature_with_its_gradient_and_is_clamped_to_its_bound(settings):
    clap = objective(configured(settings), "clap")
    assert isinstance(clap, LearntScale)
    assert float(clap.log_scale.detach().exp()) == pytest.approx(1 / 0.07)
    embeddings, batch = {"audio": unit(9, seed=1), "text": unit(9, seed=2)}, batch_of(torch.arange(9))
    loss, parts = clap(embeddings, batch)
    loss.backward()
    values = []
    for shift in (-1e-5, 1e-5):
        with torch.no_grad():
            clap.log_scale += shift
            values.append(float(clap(embeddings, batch)[0]))
            clap.log_scale -= shift
    assert float(clap.log_scale.grad) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-6)
    assert float(parts["logit_scale"]) == pytest.approx(1 / 0.07)
    # the mean of both directions, as CLIP and CLAP write it
    logits = embeddings["audio"] @ embeddings["text"].T / 0.07
    both = [torch.nn.functional.cross_entropy(x, torch.arange(9)) for x in (logits, logits.T)]
    assert float(loss.detach()) == pytest.approx(float(sum(both)) / 2)
    with torch.no_grad():
        clap.log_scale.fill_(9.0)
    clap.after_step(MC3.initial(configured(settings), SEED))
    assert float(clap.log_scale.detach().exp()) == pytest.approx(100.0)


def test_the_scale_is_learnt_without_decay_and_is_in_no_checkpoint(settings):
    config = configured(settings, epochs={"align": 1, "refine": 2}, weight_decay=0.5)
    folder = train.run(config, "clap", SEED)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    scales = [row["logit_scale"] for row in rows if "logit_scale" in row]
    assert scales[0] == pytest.approx(1 / 0.07)
    assert len(set(scales)) == len(scales)
    model = MC3.initial(config, SEED)
    assert weights(folder).keys() == model.state_dict().keys()
    clap = objectives.make(config, methods.get("clap").stages[0], model, 28, SEED)
    groups = train.make_optimizer(config.train, model, clap).param_groups
    decays = [(group["weight_decay"], len(group["params"])) for group in groups]
    assert decays == [(0.5, len(list(model.parameters()))), (0.0, 1)]


# CM-ACC's chosen negatives --------------------------------------------------------------------------------------------


def test_gradient_embeddings_are_the_gradients_of_a_last_layer_of_queries():
    candidates, queries, temperature = unit(6, seed=1), unit(9, seed=2), 0.3
    factors = active_negatives.gradient_factors(candidates, queries, temperature)
    for candidate, factor in zip(candidates, factors, strict=True):
        layer = queries.clone().requires_grad_()
        logits = layer @ candidate / temperature
        torch.nn.functional.cross_entropy(logits, logits.argmax()).backward()
        torch.testing.assert_close(torch.outer(factor, candidate) / temperature, layer.grad)


@given(points=st.integers(1, 12), classes=st.integers(1, 5), seed=st.integers(0, 999), data=st.data())
@hypothesis_settings(max_examples=60)
def test_seeding_is_k_means_plus_plus_on_the_outer_products(points, classes, seed, data):
    generator = torch.Generator().manual_seed(seed)
    factors, embeddings = torch.randn(points, classes, generator=generator).double(), unit(points, seed=seed)
    count = data.draw(st.integers(1, points))
    draws = torch.empty(count, points, dtype=torch.float64).exponential_(generator=generator)
    products = [torch.outer(f, e) for f, e in zip(factors, embeddings, strict=True)]
    expected: list[int] = []
    for draw in draws:
        weights = [min((float((p - products[c]).square().sum()) for c in expected), default=1.0) for p in products]
        expected.append(max(range(points), key=lambda n, w=weights, d=draw: w[n] / float(d[n])))
    assert active_negatives.kmeans_plusplus(factors, embeddings, draws).tolist() == expected


def test_seeds_are_drawn_by_squared_distance():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
    factors, generator = torch.ones(3, 1, dtype=torch.float64), torch.Generator().manual_seed(0)
    counts = torch.zeros(3, 3, dtype=torch.float64)
    for _ in range(4000):
        draws = torch.empty(2, 3, dtype=torch.float64).exponential_(generator=generator)
        first, second = active_negatives.kmeans_plusplus(factors, embeddings, draws).tolist()
        counts[first, second] += 1
    squared = torch.cdist(embeddings, embeddings).square()
    expected = squared / squared.sum(dim=1, keepdim=True) / 3
    torch.testing.assert_close(counts / 4000, expected, rtol=0, atol=0.02)


def test_a_queue_keeps_the_newest_in_order():
    queue, rows = Queue(5, 16), torch.randn(12, 16)
    for part in (slice(0, 3), slice(3, 10), slice(10, 12)):
        queue.push(rows[part], torch.arange(12)[part])
        last = list(range(part.stop))[-5:]
        assert queue.clips.tolist() == [EMPTY] * (5 - len(last)) + last
        assert torch.equal(queue.embeddings[-len(last) :], rows[last])


def queued(queues: dict[str, Queue]) -> dict[str, tuple[Tensor, list[int]]]:
    """The embeddings and clips of each queue."""
    return {name: (queue.embeddings, queue.clips.tolist()) for name, queue in queues.items()}


@pytest.fixture
def cm_acc(settings, monkeypatch) -> list[dict]:
    """Four steps with short queues: what each one's loss was made of, and what there was after it."""
    forward, steps = objectives.Objective.forward, []

    def watched(self, embeddings, batch):
        value, parts = forward(self, embeddings, batch)
        steps.append({"loss": float(value.detach()), "embeddings": embeddings, "keys": self.averaged(batch.inputs),
                      "dictionaries": queued(self.negatives), "clips": batch.clips.tolist()})  # fmt: skip
        return value, parts

    def after(trainer):
        assert all(parameter.grad is None for parameter in trainer.objective.parameters())
        steps[-1] |= {"tensors": tensors(trainer), "pool": queued(trainer.objective.pool)}

    monkeypatch.setattr(objectives.Objective, "forward", watched)
    stepped(small(settings, momentum=0.75, pool=30, negatives=10), "cm_acc", 4, after)
    return steps


def test_the_momentum_encoders_are_the_moving_average_and_get_no_gradient(settings, cm_acc):
    start = MC3.initial(configured(settings), SEED).double().state_dict()
    names = [name for name in start if not name.startswith("encoders.text.")]
    expected = {name: start[name] for name in names}
    for step in cm_acc:
        after = step["tensors"]
        expected = {name: 0.75 * expected[name] + (1 - 0.75) * after[name] for name in names}
        assert {f"objective averaged.{name}" for name in names} == {n for n in after if "objective averaged" in n}
        for name in names:
            torch.testing.assert_close(after[f"objective averaged.{name}"], expected[name], rtol=1e-14, atol=1e-15)


def test_the_pool_holds_the_newest_keys(cm_acc):
    clips = [clip for step in cm_acc for clip in step["clips"]]
    for modality, (embeddings, of) in cm_acc[-1]["pool"].items():
        assert of == clips[-30:]
        torch.testing.assert_close(embeddings, torch.cat([step["keys"][modality] for step in cm_acc])[-30:])


def test_dictionaries_take_past_keys_that_they_do_not_contain(cm_acc):
    assert all(set(clips) == {EMPTY} for _, clips in cm_acc[0]["dictionaries"].values())  # no past keys yet
    for number, step in enumerate(cm_acc[1:], 1):
        for name, (embeddings, clips) in step["dictionaries"].items():  # fourteen are chosen and ten fit: all are new
            pools = torch.cat([before["pool"][name.split("-")[1]][0] for before in cm_acc[:number]])
            assert (torch.cdist(embeddings, pools).amin(dim=1) < 1e-7).all()
            assert not set(clips) & {EMPTY, *cm_acc[number - 1]["dictionaries"][name][1]}


def test_cm_acc_is_info_nce_over_the_batch_and_the_dictionary_without_the_clip_itself(cm_acc):
    hidden = 0
    for step in cm_acc:
        total = 0.0
        for i, j in (("audio", "video"), ("video", "audio")):
            past, of = step["dictionaries"][f"{i}-{j}"]
            for t, clip in enumerate(step["clips"]):
                others = [e for e, n in zip(past, of, strict=True) if n not in (clip, EMPTY)]
                hidden += clip in of
                scores = torch.stack([step["embeddings"][i][t] @ e for e in [*step["keys"][j], *others]]) / 0.7
                total += float((scores.logsumexp(0) - scores[t]).detach()) / 14
        assert step["loss"] == pytest.approx(total, rel=1e-9)
    assert hidden


# SSAST's masked patches -----------------------------------------------------------------------------------------------

MEAN, STD = -4.2677393, 2 * 4.5689974  # of SSAST's inputs


def masking(settings) -> tuple[MaskedPatches, MC3, dict]:
    """The objective with a learnt token, a model in float64, and a batch of three clips among fourteen."""
    config = configured(settings)
    model, made = MC3.initial(config, SEED).double(), objective(config, "ssast")
    assert isinstance(made, MaskedPatches)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        made.token += torch.randn(16, generator=generator).double()
    clips = MEAN + STD * torch.randn(3, 148, 128, generator=generator).double()
    return made, model, {"audio": clips, "rows": [1, 5, 13], "seed": 7}


def test_masked_patches_are_found_and_reconstructed_as_in_a_loop(settings):
    made, model, batch = masking(settings)
    found = made.module(model)(batch)["audio"]
    assert found.shape == (3, 2)
    assert found.dtype == torch.float64
    audio, trunk = model.config.audio, model.encoders["audio"].trunk
    masked = masked_patches.draw(14, (8, 9), 400 / 512, 7)[batch["rows"]]
    inputs = (batch["audio"] - MEAN) / STD
    theirs = published.audio_model(trunk.state_dict(), audio).double()

    def mask(_module, _inputs, patches):
        for b in range(3):
            for n in masked[b]:
                patches[b, n] = made.token
        return patches

    theirs.embeddings.patch_embeddings.register_forward_hook(mask)
    with torch.no_grad():
        tokens = theirs(inputs).last_hidden_state[:, 2:].numpy()
    layers = [[(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in (h[0], h[2])] for h in made.heads]

    def head(k: int, x: np.ndarray) -> np.ndarray:
        (w, b), (v, c) = layers[k]
        return v @ np.maximum(w @ x + b, 0) + c

    for b in range(3):
        contrast, square = 0.0, 0.0
        truth = [inputs[b, 16 * (n % 9) : 16 * (n % 9) + 16, 16 * (n // 9) : 16 * (n // 9) + 16].T.reshape(-1).numpy()
                 for n in masked[b].tolist()]  # fmt: skip
        for i, n in enumerate(masked[b].tolist()):
            scores = np.array([head(0, tokens[b, n]) @ patch for patch in truth])
            contrast += (np.log(np.exp(scores).sum()) - scores[i]) / len(truth)
            square += ((head(1, tokens[b, n]) - truth[i]) ** 2).mean() / len(truth)
        assert found[b].tolist() == pytest.approx([contrast, square], rel=1e-9)
    loss, parts = made({"audio": found.detach()}, batch_of(torch.arange(3)))
    assert float(loss) == pytest.approx(float((found[:, 0] + 10 * found[:, 1]).mean().detach()))
    assert float(parts["generative"]) == pytest.approx(10 * float(found[:, 1].mean().detach()))


def test_a_masked_patch_reaches_its_loss_but_no_prediction(settings):
    made, model, batch = masking(settings)
    predicted: list[Tensor] = []
    for head in made.heads:
        head.register_forward_hook(lambda _module, _inputs, output: predicted.append(output.detach()))
    masked = masked_patches.draw(14, (8, 9), 400 / 512, 7)[batch["rows"]]
    hidden = torch.zeros(3, 72, dtype=torch.bool).scatter(1, masked, True)

    def changed(patches: Tensor) -> dict:
        """The batch with other values in these patches, bool [3, 72]."""
        cells = patches.unflatten(1, (8, 9)).repeat_interleave(16, 1).repeat_interleave(16, 2).mT  # [3, 144, 128]
        audio = batch["audio"].clone()
        audio[:, :144] += cells * torch.randn(cells.shape, generator=torch.Generator().manual_seed(1))
        return {**batch, "audio": audio}

    first = made.module(model)(batch)["audio"]
    other = made.module(model)(changed(hidden))["audio"]
    assert (first != other).all()
    made.module(model)(changed(~hidden))
    own, again, visible = (predicted[i : i + 2] for i in (0, 2, 4))
    assert all(torch.equal(a, b) for a, b in zip(own, again, strict=True))
    assert not any((a == b).any() for a, b in zip(own, visible, strict=True))


@given(st.integers(0, 2**62), st.tuples(st.integers(5, 9), st.integers(5, 12)), st.floats(0.1, 0.9))
@hypothesis_settings(max_examples=30)
def test_masks_are_squares_until_there_are_enough_and_depend_on_the_seed_alone(seed, grid, share):
    found = masked_patches.draw(6, grid, share, seed)
    assert torch.equal(found, masked_patches.draw(6, grid, share, seed))
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(6, *grid, generator=generator, dtype=torch.float64).flatten(1).argsort(dim=1)
    sides = 3 + torch.randint(3, (6,), generator=generator)
    count = round(share * grid[0] * grid[1])
    for clip in range(6):
        expected: set[int] = set()
        for corner in order[clip].tolist():
            row, column = divmod(corner, grid[1])
            before, side = set(expected), int(sides[clip])
            expected |= {r * grid[1] + c for r in range(row, min(row + side, grid[0]))
                         for c in range(column, min(column + side, grid[1]))}  # fmt: skip
            if len(expected) >= count:
                break
        masked = found[clip].tolist()
        assert len(set(masked)) == len(masked) == count
        assert before <= set(masked) <= expected


def test_masks_differ_between_clips_and_steps(settings, monkeypatch):
    seen, real = [], masked_patches.draw
    monkeypatch.setattr(masked_patches, "draw", lambda *a: seen.append(real(*a).sort(dim=1).values) or seen[-1])
    stepped(configured(settings), "ssast", 4)
    masks = torch.cat(seen).tolist()
    assert len(masks) == len({tuple(mask) for mask in masks}) == 4 * 14


def test_overlapping_patches_cannot_be_masked(settings):
    settings["model"]["audio"]["stride"] = 10
    with pytest.raises(ConfigError, match=r"model\.audio\.stride is 10 and patch is 16; set both to the same number"):
        objective(configured(settings), "ssast")


# All of them ----------------------------------------------------------------------------------------------------------


def test_two_processes_and_microbatches_end_with_the_weights_and_state_of_one_process_and_batch(settings, tmp_path):
    config = configured(settings)
    small_training.processes(2, write_tensors, config, tmp_path)
    changed = configured(settings, microbatch_size=4), configured(settings, recompute=True)
    for method in OWN:
        whole, *others = (tensors(stepped(of, method, 4)) for of in (config, *changed))
        for found in (load_file(tmp_path / f"{method}.safetensors"), *others):
            torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-10)
