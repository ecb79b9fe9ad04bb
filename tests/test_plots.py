"""Figures draw their data, stay inside the page, and are the same bytes every time."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from mc3 import methods
from mc3.extra import plots as extra_plots
from mc3.paper import plots

ENDS = ("", "_low", "_high")
DIAGONAL = pd.DataFrame({"al": [-1.0, 1.0], "av": [-1.0, 1.0]})
METHODS = ["CLAP", "w/o consensus", "w/o contrastive", "CMC (with a long label indeed)", "MC3"]


class Pictures:
    """Clips of a known colour and pitch; clip 2 has no sound."""

    index = pd.DataFrame({"text": ["C cuts the $x_1$ carrot & <b>", "C pours", "C waits " * 30, "", "#C C holds"]})

    def frames(self, i: int) -> np.ndarray:
        return np.full((4, 12, 16, 3), 40 * (i + 1), np.uint8)

    def waveform(self, i: int) -> tuple[np.ndarray, int]:
        return (np.zeros(0, np.int16) if i == 2 else np.linspace(-9000, 9000, 24000).astype(np.int16)), 16000

    def fbank(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).normal(size=(148, 128)).astype(np.float16)


def curves() -> pd.DataFrame:
    rows = itertools.product(("AV", "AL"), enumerate(METHODS), np.linspace(0.01, 1, 40))
    points = [(p, m, recall, 0.9 - recall * (0.3 + 0.01 * k)) for p, (k, m), recall in rows]
    return pd.DataFrame(points, columns=["pair", "method", "recall", "precision"])


def regions() -> pd.DataFrame:
    rows = itertools.product(("align stage", "MC3"), ("audio-video", "audio-text", "video-text"), ("I", "II", "III"))
    quantiles = {"q05": 0.0, "q25": 0.1, "median": 0.2, "q75": 0.3, "q95": 0.5, "mean": 0.2}
    return pd.DataFrame(rows, columns=["checkpoint", "pair", "region"]).assign(**quantiles)


def points() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = {"av": rng.normal(0, 0.2, 60), "al": rng.normal(0.2, 0.2, 60)}
    return pd.DataFrame({"checkpoint": ["align stage", "MC3"] * 30, "region": ["I", "II", "I"] * 20, **values})


def retrieved() -> pd.DataFrame:
    rows = [(d, 0, k, k, k == 1, 1) for d in ("video → audio", "audio → text") for k in (1, 2, 3)]
    return pd.DataFrame(rows, columns=["direction", "query", "retrieved", "rank", "correct", "first_correct"])


def measured() -> pd.DataFrame:
    rows = itertools.product(("AV ROC", "V→A @5"), enumerate(METHODS))
    scores = [(m, q, 0.6 + 0.01 * k, np.nan if k == 3 else 0.58, q != "AV ROC") for q, (k, m) in rows]
    table = pd.DataFrame(scores, columns=["method", "metric", "ours", "paper", "separate_axis"])
    return table.assign(std=np.nan, random=0.5, paper_random=0.5)


def differences() -> pd.DataFrame:
    panels = ("table2", "AV ROC"), ("table2", "AL ROC"), ("table4", "Top-1")
    rows = [(*panel, m, k) for panel, (k, m) in itertools.product(panels, enumerate(METHODS[:-1]))][1:]  # no CLAP in AV
    table = pd.DataFrame(rows, columns=["line", "panel", "label", "row"])
    return table.assign(difference=table["row"] - 2, low=table["row"] - 2.5, high=table["row"] - 1.5)


def worlds() -> pd.DataFrame:
    gap = {f"{p}_{m}_gap{e}": 0.1 + k for p in ("av", "al") for m in ("mc3", "peers") for k, e in enumerate(ENDS)}
    names = ["as generated", "on_screen 0", "on_screen 0, signal_db 6"]
    table = pd.DataFrame({"world": names, "on_screen": [0.3, 0.0, 0.0], "signal_db": [0.0, 0.0, 6.0]})
    return table.merge(pd.DataFrame({"seed": [0, 1]}), "cross").assign(**gap)


def trials() -> pd.DataFrame:
    made = table(
        group=["anchor", "anchor", "weight"], setting=["audio", "video", "5"], profile=[True, False, False],
        label=["CMC", "CMC", "MC3"], selection=[0.6, 0.7, 0.65], chosen=[False, True, True])  # fmt: skip
    scores = {f"{v}{p}_roc": [0.6, 0.7, np.nan] for v in ("", "validation_") for p in ("av", "al")}
    return made.assign(**scores, **{f"{name}_std": [0.01, np.nan, np.nan] for name in scores})


def windows_of() -> pd.DataFrame:
    starts = 0.5 * np.arange(40)
    return table(start_sec=starts, end_sec=starts + 1.5, similarity=0.1 * np.sin(starts), z=np.sin(starts))


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


FIGURES = {
    "study": lambda: plots.study(worlds()),
    "study_regions": lambda: plots.study_regions(
        regions().query("pair == 'audio-video'").assign(world="as generated", roc=0.6)),
    "ablations": lambda: plots.ablations(trials()),
    "selection": lambda: plots.selection(trials()),
    "objectives": lambda: plots.selection(trials().drop(columns="chosen")),
    "differences": lambda: plots.differences(differences()),
    "clip_cards": lambda: plots.clip_cards(
        Pictures(), [0, 2, 1], ["sounds", "silent", "region II: does not sound (1,0,0)"]),
    "sounding_rates": lambda: plots.sounding_rates(
        table(verb=["wash", "hold"], sounding_rate=[0.9, 0.05], paper=[0.9, np.nan], n=[30, 20])),
    "long_tail": lambda: plots.long_tail(
        table(action_group=[f"cut thing {k}" for k in range(50)], count=range(50, 0, -1))),
    "precision_recall": lambda: plots.precision_recall(curves(), {"AV": 0.54, "AL": 0.54}),
    "clusters": lambda: plots.clusters(
        Pictures(), table(cluster=[0, 0, 3], row=[0, 2, 1], title=["a $ title", "a $ title", "other"])),
    "retrieval": lambda: plots.retrieval(Pictures(), retrieved()),
    "per_class": lambda: plots.per_class(table(
        class_id=[0, 1] * 2, name=["cut / chop", "water"] * 2, n=[5, 50] * 2, probe=["MC3", "MC3", "b", "b"],
        recall=[0, 1.0, 0.5, 0.5])),
    "confusion": lambda: plots.confusion(
        table(class_id=[1, 0], name=["$x$ <b>", "water"], n=[50, 5], **{"1": [0.9, 0.2], "0": [0.1, 0.8]})),
    "regions": lambda: plots.regions(regions(), DIAGONAL),
    "consensus": lambda: plots.consensus(points(), DIAGONAL),
    "real_audio": lambda: extra_plots.real_audio(table(
        method=["chance", "log-mel", *METHODS, *METHODS], log_mel=[False, True, *[False] * 5, *[True] * 5],
        accuracy=[0.1, 0.8, *np.linspace(0.5, 0.9, 10)], vs_log_mel_low=[-0.75, np.nan, *np.linspace(-0.34, 0.06, 10)],
        vs_log_mel_high=[-0.65, np.nan, *np.linspace(-0.26, 0.14, 10)])),
    "narrated": lambda: extra_plots.narrated(
        table(score=["chance", "text"], roc=[0.5, 0.7], roc_low=[0.5, 0.6], roc_high=[0.5, 0.75],
              **{f"within_verb{end}": [0.5, np.nan] for end in ENDS}),
        table(verb=["take $x$", "turn-off", "rare"], narrations=[1900, 50, 49], sounding=[0.9, 0.0, 1.0],
              shifted=[0.1, 0.0, 0.1])),
    "hits": lambda: extra_plots.hits(
        table(scorer=["MC3", "onset", "chance"], share=[0.6, 0.5, 0.3], share_low=[0.5, 0.4, 0.2],
              share_high=[0.7, 0.6, 0.4]), "chance", "onset"),
    "timeline": lambda: extra_plots.timeline({
        name: (moments.head(2), moments, np.random.default_rng(0).normal(size=(64, 90)))
        for name, moments in (("a_$1$.mp4", windows_of()), ("b.mp4", windows_of().assign(z=np.nan)))}),
    "mined": lambda: extra_plots.mined(
        table(method=["MC3", "MC3", "CMC", "CMC"], keep=[0.1, 1.0] * 2, sounding=[0.8, 0.5, 0.6, 0.5])),
    "training": lambda: plots.training(
        table(method=["CMC", "CMC", "MC3", "MC3"], metric="AV ROC", step=[1, 2, 1, 2], value=[0.5, 0.6, 0.5, 0.7])),
    "scatter": lambda: plots.scatter(table(x=[0.0, 1], y=[0.0, 1], group=["cut", "wash"]), "a $ map"),
    "overview": lambda: plots.overview(measured()),
}  # fmt: skip


@pytest.fixture(scope="module", params=FIGURES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Figure, Path]:
    """A figure's name, the figure and the PNG it was saved as."""
    figure = FIGURES[request.param]()
    return request.param, figure, plots.save(figure, tmp_path_factory.mktemp(request.param) / "figure")


def test_a_figure_fits_the_papers_page_uncut_with_its_legend_beside_the_data(saved: tuple[str, Figure, Path]) -> None:
    _, figure, path = saved
    assert figure.get_figwidth() <= plots.PAGE
    assert Image.open(path).width <= 200 * plots.PAGE
    assert max(path.stat().st_size for path in path.parent.iterdir()) < 400_000
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.min() < 100  # something is drawn
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    figure.draw_without_rendering()
    for legend in figure.legends:
        for ax in figure.axes:
            assert not legend.get_window_extent().shrunk(0.98, 0.98).overlaps(ax.get_window_extent())


def test_saved_twice_a_figure_is_the_same_bytes_and_has_no_date_in_it(saved, tmp_path: Path) -> None:
    name, _, first = saved
    plots.save(FIGURES[name](), tmp_path / "figure")
    both = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (first.parent, tmp_path)]
    assert both[0] == both[1]
    assert both[0].keys() == {"figure.png", "figure.svg"}
    assert b"<dc:date>" not in both[0]["figure.svg"]


def test_curves_pass_through_the_points_given_and_a_method_keeps_its_colour_over_the_panels() -> None:
    table, figure = curves(), FIGURES["precision_recall"]()
    colours = [[line.get_color() for line in ax.lines] for ax in figure.axes]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == len(METHODS) + 1
    drawn = [tuple(map(tuple, (line.get_xdata(), line.get_ydata()))) for line in figure.axes[0].lines]
    for method in METHODS:
        part = table[(table["pair"] == "AV") & (table["method"] == method)]
        assert (tuple(part["recall"]), tuple(part["precision"])) in drawn


def test_a_methods_colour_depends_on_its_name_alone() -> None:
    known = ["align stage", *(methods.get(name).label for name in methods.METHODS)]
    alone = {label: plots.line_styles([label])[label] for label in [*known, "mine (foreign)"]}
    assert plots.line_styles([*reversed(known), "mine (foreign)"]) == alone
    assert len({style["color"] for style in alone.values()}) == len(alone)
    assert alone["MC3"]["color"] == plots.PALETTE[0]
    widths = sorted(alone, key=lambda label: alone[label]["linewidth"])
    assert widths[-2:] == ["w/o consensus", "MC3"]


def test_ours_and_the_papers_numbers_are_never_on_one_scale() -> None:
    figure = plots.overview(measured())
    assert len(figure.axes) == 4  # of ours and of the paper's two metrics each
    for ax, column in zip(figure.axes, ("ours", "ours", "paper", "paper"), strict=True):
        rows = measured().query("metric == @ax.get_title()").dropna(subset=column)
        assert [bar.get_x() + bar.get_width() for bar in ax.patches] == pytest.approx(rows[column].tolist())
        assert not [other for other in figure.axes if other is not ax and other.bbox.bounds == ax.bbox.bounds]


def test_a_worlds_name_is_in_words_and_an_unknown_one_stays() -> None:
    named = {
        "signal_db -12, on_screen 0": "loudness of actions -12 dB, on-screen source 0",
        "as generated": "as generated",
    }
    assert {world: plots.sweeps.world_name(world) for world in (*named, "odd 1, x")} == {
        **named,
        "odd 1, x": "odd 1, x",
    }


def test_verbs_of_few_narrations_are_not_drawn_and_bars_are_as_long_as_the_rates() -> None:
    left, _ = FIGURES["narrated"]().axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["take $x$ (1900)", "turn-off (50)"]
    assert [bar.get_width() for bar in FIGURES["sounding_rates"]().axes[0].patches] == [0.9, 0.05]


def test_a_difference_is_blue_ahead_orange_behind_and_grey_where_its_interval_holds_zero() -> None:
    first, second, _ = plots.differences(differences()).axes
    assert [label.get_text() for label in first.get_yticklabels()][:2] == ["CLAP", "w/o consensus"]  # by row, not panel
    lines = second.collections[0]
    assert [tuple(segment[:, 0]) for segment in lines.get_segments()] == [(k - 2.5, k - 1.5) for k in range(4)]
    drawn = [tuple(colour[:3]) for colour in lines.get_colors()]
    assert drawn == [to_rgb(plots.NO)] * 2 + [to_rgb(plots.GREY), to_rgb(plots.YES)]


def test_the_chosen_trials_are_filled_or_else_the_best_one() -> None:
    for name, expected in (("selection", ["full"] * 2), ("objectives", ["full"])):
        drawn = [line for line in FIGURES[name]().axes[0].lines if line.get_fillstyle() == "full"]
        assert [line.get_fillstyle() for line in drawn for _ in line.get_xdata()] == expected


def test_a_studys_gaps_are_labelled_by_method_and_drawn_at_their_mean() -> None:
    assert plots.sweeps.gaps(worlds()) == {"mc3": "MC3", "peers": "Peers"}
    shown = plots.study_cells(worlds().assign(seeds=2, prevalence=0.5))
    assert shown["Peers, AL ROC"].unique().tolist() == ["+0.100 [+1.100, +2.100]"]


def test_titles_of_checkpoints_are_beside_each_other_and_little_of_the_page_is_empty() -> None:
    names = ["align stage", "w/o consensus", "MC3", "Peers"]
    figure = plots.consensus(pd.concat([points().assign(checkpoint=name) for name in names]), DIAGONAL)
    figure.draw_without_rendering()
    titles = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(titles))
    assert figure.bbox.y1 - max(title.y1 for title in titles) < 0.1 * figure.dpi


def test_zero_consensus_loss_is_drawn_where_it_is_in_both_figures() -> None:
    zero = pd.DataFrame({"al": [-1.0, 0.0, 1.0], "av": [-1.0, -0.5, 1.0]})
    figure = plots.consensus(points(), zero)
    for ax in figure.axes:
        (line,) = [line for line in ax.lines if line.get_label() == "no consensus loss"]
        assert line.get_xydata().tolist() == zero.to_numpy().tolist()
    table = regions()
    first, *others = plots.regions(table, zero).axes
    drawn = [c for c in first.collections if c.get_label() == "no consensus loss"]
    assert len(drawn) == table["checkpoint"].nunique()
    for marks in drawn:
        assert {y for path in marks.get_paths() for y in path.vertices[:, 1]} == {-0.5 + 1.5 * 0.2}  # the mean al is .2
    assert not [c for ax in others for c in ax.collections if c.get_label() == "no consensus loss"]


def test_a_spectrograms_low_tones_are_below_and_later_is_right() -> None:
    class Tone(Pictures):
        def fbank(self, i: int) -> np.ndarray:
            mel = np.zeros((148, 128), np.float16)
            mel[100:, :20] = 1  # late and low
            return mel

    figure = plots.clip_cards(Tone(), [0], [""])
    picture = figure.axes[2].images[0].get_array()
    rows, columns = np.nonzero(picture > picture.min())
    assert rows.min() > picture.shape[0] / 2
    assert columns.min() > picture.shape[1] / 2


@pytest.mark.parametrize("kind", ["normal", "deuteranopia", "protanopia"])
def test_the_first_colours_are_distinct_to_eyes_that_lack_a_cone(kind: str) -> None:
    simulate = np.array({  # Viénot, Brettel & Mollon (1999): linear RGB after the loss of the M or L cones
        "normal": np.eye(3),
        "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    }[kind])  # fmt: skip
    seen = np.array([simulate @ np.array(to_rgb(c)) ** 2.2 for c in plots.PALETTE[:3]])
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distance[np.triu_indices(3, 1)].min() > 0.15
