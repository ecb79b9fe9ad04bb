"""The rows of Tables 2 and 3 as data."""

import csv

import pytest
from small_work import ROOT

from mc3 import methods, objectives
from mc3.errors import ConfigError

ALL = [("audio", "video"), ("audio", "text"), ("video", "text")]


def test_recipes_and_the_rows_of_tables_2_and_3_match():
    for table in ("table2_discovery.csv", "table3_retrieval.csv"):
        rows = {row["method"] for row in csv.DictReader((ROOT / "data" / "paper" / table).open())} - {"Random"}
        assert {methods.get(name).paper for name in methods.METHODS} - {""} == rows


def test_recipes_use_the_modalities_that_table_2_ticks():
    columns = {"audio": "audio", "video": "vision", "text": "language"}
    for row in csv.DictReader((ROOT / "data" / "paper" / "table2_discovery.csv").open()):
        for name in methods.METHODS:
            if methods.get(name).paper == row["method"]:
                ticked = {m for m, column in columns.items() if row[column] == "1"}
                assert set(methods.get(name).modalities) == ticked, name


def test_each_ablation_differs_from_mc3_only_in_what_its_name_says():
    mc3 = methods.get("mc3").stages[0]
    without = {name: methods.get(name) for name in ("wo_consensus", "wo_contrastive", "wo_align")}
    assert without["wo_consensus"].stages[0].consensus == 0
    assert without["wo_contrastive"].stages[0].contrastive == 0
    for name in ("wo_consensus", "wo_contrastive"):
        assert (without[name].start, without[name].stages[0].epochs) == ("align", "refine")
    stage = without["wo_align"].stages[0]
    assert (without["wo_align"].start, stage.epochs) == ("init", "both")
    assert (stage.contrastive, stage.consensus, stage.pairs) == (mc3.contrastive, mc3.consensus, mc3.pairs)
    assert methods.get("align").stages[0].consensus == 0
    assert list(mc3.pairs) == ALL


def test_all_methods_train_for_as_many_epochs():
    epochs = {"align": 5, "refine": 7, "both": 12}
    for name in methods.METHODS:
        recipe = methods.get(name)
        before = epochs["align"] if recipe.start == "align" else 0
        assert before + sum(epochs[stage.epochs] for stage in recipe.stages) == 12, name
    assert methods.get("ssast").stages[0].epochs == "both"


def test_ssast_masks_its_papers_share_of_the_patches_and_hears_nothing_but_audio():
    (stage,) = methods.get("ssast").stages
    assert stage.settings == {"share": 400 / 512}
    assert (methods.get("ssast").start, stage.modalities, stage.train, stage.pairs) == (
        "random", ("audio",), ("audio",), (),
    )  # fmt: skip


def test_imagebind_aligns_video_and_text_and_then_audio_to_frozen_video():
    first, second = methods.get("imagebind").stages
    assert first.pairs == (("video", "text"),)
    assert set(first.train) == {"video", "text"}
    assert second.pairs == (("audio", "video"),)
    assert second.train == ("audio",)
    assert second.temperature == 1 / 20  # its fixed scale of audio


def test_baselines_have_their_published_losses():
    published = [name for name in methods.METHODS if methods.get(name).paper]
    kinds = {name: [stage.loss for stage in methods.get(name).stages] for name in published}
    own = {"clap": ["learnt_scale"], "cm_acc": ["active_negatives"]}
    assert {name: found for name, found in kinds.items() if set(found) != {"info_nce"}} == own
    assert [methods.get(name).stages[0].temperature for name in ("clap", "cmc")] == [0.07] * 2


def odd(monkeypatch, **stage):
    """A recipe with one stage that has these keys."""
    entry = {"label": "", "start": "init", "stages": [{"epochs": "both", "pairs": "all", **stage}]}
    monkeypatch.setitem(methods.OTHERS, "odd", entry)
    return methods.get("odd")


@pytest.mark.parametrize("name", ["align", "ssast", *methods.METHODS, *methods.OTHERS])
def test_every_recipe_has_a_loss_that_its_stages_can_have(name):
    objectives.check(methods.get(name))


UNKNOWN = "learnt_scale takes highest"


@pytest.mark.parametrize(
    ("stage", "reason"),
    [({"pairs": ["audio-video"], "loss": {"kind": "peers", "trust": "retrieval"}}, 'needs "pairs": "all"'),
     ({"loss": {"kind": "masked_patches", "share": 0.5}}, r'needs "pairs": \[\], "train": \["audio"\]'),
     ({"loss": {"kind": "triplet"}}, UNKNOWN), ({"loss": {"kind": "learnt_scale"}}, UNKNOWN),
     ({"loss": {"a": 1}}, UNKNOWN), ({"loss": {"kind": "learnt_scale", "highest": 9, "low": 1}}, UNKNOWN)],
)  # fmt: skip
def test_a_loss_that_is_unknown_or_that_a_stage_cannot_have_is_refused(monkeypatch, stage, reason):
    with pytest.raises(ConfigError, match=rf"method 'odd' in mc3/methods\.py has the loss .*{reason}"):
        objectives.check(odd(monkeypatch, **stage))


def test_an_unknown_method_modality_or_key_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"no method 'mc4'.*known: pretrain, align, ssast, clap"):
        methods.get("mc4")
    with pytest.raises(ConfigError, match="'smell'"):
        odd(monkeypatch, pairs=["audio-smell"])
    with pytest.raises(ConfigError, match="'temprature'"):
        odd(monkeypatch, temprature=1)
