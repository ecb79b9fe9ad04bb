"""Data of Figures 2-7: the embedded clips joined with labels, regions and neighbours, as data frames.

`row` is always the clip's row in `clips`, in the embeddings and in `ClipDataset(..., split="validation+test")`, so that
number, picture and sound belong together. Figures are of the test split.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.data.annotations import REMEDY, read_json
from mc3.errors import ConfigError, DataError
from mc3.files import reading
from mc3.paper import priors, tables
from mc3.paper.priors import short

SPLITS = "validation+test"
DEPTH = 3  # clips of Figure 7 that are shown for each query
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


def checkpoints(config: Config) -> tuple[str, ...]:
    """The rows of Figures 2 and 3: align stage, rows with a role but "later", foreign ones with all modalities."""
    named = [name for name, entry in methods.METHODS.items() if entry.get("role", "later") != "later"]
    foreign = [row for row in store.rows(config) if row not in methods.METHODS]
    whole = [row for row in foreign if store.modalities(config, row) == methods.MODALITIES]
    return ("align", *named, *whole)


def clips(config: Config) -> pd.DataFrame:
    """The embedded clips: the manifest's columns and `region`, the clip's part of Figure 2's diagram.

    Without a generated world's truth.csv, labels only separate region I (visible and audible) from the rest, "II-IV".
    """
    index, truth = store.clips(config), config.paths.raw / "truth.csv"
    region = index["positive"].map({1: "I", 0: "II-IV"})
    if truth.exists():
        with reading(truth, "`mc3 world` makes it again"):
            known = pd.read_csv(truth, keep_default_na=False)
            ids = known["video_uid"] + (1000 * known["narration_time"]).round().map("_{:09.0f}".format)
            region = index["clip_id"].map(dict(zip(ids, known["region"], strict=True)))
            if region.isna().all():
                raise ValueError("it knows none of the embedded clips")
    return index.assign(region=region.fillna("unknown"))


def scenarios(config: Config) -> dict[str, str]:
    """Each video's scenarios in Ego4D's metadata, as one name; {} if the file is not there any more."""
    file = config.paths.raw / config.ego4d.metadata
    if not file.exists():
        return {}
    with reading(file, REMEDY):
        videos = read_json(file, "Ego4D's metadata")["videos"]
        return {str(video["video_uid"]): ", ".join(video.get("scenarios") or ()) for video in videos}


def sounding_rates(index: pd.DataFrame) -> pd.DataFrame:
    """Table 1: verb, sounding_rate, paper (NaN outside its ten verbs, which come first), n (labelled clips)."""
    labelled = index[index["positive"].notna() & (index["verb"] != "")]
    ours = labelled.groupby("verb")["positive"].agg(sounding_rate="mean", n="size").reset_index(names="label")
    ours = ours.assign(verb=ours["label"].map(short), sounding_rate=ours["sounding_rate"].astype(float))
    paper = priors.published_rates().rename("paper").reset_index()
    joined = ours.merge(paper.reset_index(names="order"), on="verb", how="left")
    joined = joined.sort_values(["order", "sounding_rate", "label"], ascending=[True, False, True], ignore_index=True)
    return joined[["verb", "sounding_rate", "paper", "n"]]


def long_tail(index: pd.DataFrame) -> pd.DataFrame:
    """Figure 4: sounding clips of each action group (verb and noun), the most frequent first: action_group, count."""
    groups = index.loc[index["positive"].eq(1).fillna(False) & (index["action_group"] != ""), "action_group"]
    counts = groups.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return pd.DataFrame({"action_group": counts.index.map(short), "count": counts.to_numpy()})


def one_of_each(index: pd.DataFrame) -> tuple[list[int], list[str]]:
    """A random row of every region, whose label agrees with it if there is one; and a note (region, label, votes)."""
    rng, rows, notes = np.random.default_rng(0), [], []
    agrees = (index["positive"] == (index["region"] == "I")).fillna(False)
    for region in sorted(index["region"].unique()):
        here = index["region"] == region
        rows.append(int(rng.choice(np.flatnonzero(here & agrees if (here & agrees).any() else here))))
        clip = index.iloc[rows[-1]]
        label = "not labelled" if pd.isna(clip["positive"]) else "sounds" if clip["positive"] else "does not sound"
        notes.append(f"region {region}: {label}" + (f" ({clip['votes']})" if clip["votes"] else ""))
    return rows, notes


def curves(
    config: Config, seed: int, rows: Sequence[str] | None = None, points: int = 200
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Figure 5: pair, method, recall, precision at the highest threshold that reaches it; and prevalence by pair."""
    grid, frames, prevalence = np.arange(1, points + 1) / points, [], {}
    for row in store.rows(config) if rows is None else rows:
        scored, label = store.discovery_scores(config, row, seed), tables.label(row)
        for name in scored.columns.intersection(evaluate.DISCOVERY):
            curve = evaluate.pr_curve(scored[name], scored["positive"])
            reached = curve["precision"].to_numpy()[np.searchsorted(curve["recall"].to_numpy(), grid - 1e-9)]
            pair = tables.header(name)
            frames.append(pd.DataFrame({"pair": pair, "method": label, "recall": grid, "precision": reached}))
            prevalence[pair] = float(scored["positive"].mean())
    return pd.concat(frames, ignore_index=True).sort_values("pair", ascending=False, kind="stable"), prevalence


def similarities(config: Config, seed: int, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Figures 2 and 3: the cosines av, al and vl of each test clip (clip_id, region, positive) by checkpoint."""
    index = clips(config)
    test, frames = (index["split"] == "test").to_numpy(), []
    about = index.loc[test, ["clip_id", "region", "positive"]]
    for name in checkpoints(config) if names is None else names:
        found = store.embeddings(config, name, seed)
        cosines = {p: evaluate.similarity(found[a][test], found[b][test]) for p, (a, b) in evaluate.PAIRS.items()}
        frames.append(about.assign(**cosines, checkpoint=tables.label(name)))
    return pd.concat(frames, ignore_index=True)


def examples(config: Config, seed: int) -> pd.DataFrame:
    """The first test clip of each region, for `mc3.paper.plots.method`: row, title, cosines before and after."""
    index, names = clips(config), ("align", methods.with_role("reference"))
    points = similarities(config, seed, names)
    before, after = (points[points["checkpoint"] == tables.label(name)].set_index("clip_id") for name in names)
    chosen = before[before["region"].str.startswith("I")].groupby("region").head(1).sort_values("region")
    table = pd.DataFrame({"row": index.reset_index().set_index("clip_id").loc[chosen.index, "index"].to_numpy()})
    table["title"] = [f"region {region}" for region in chosen["region"]]
    for pair in evaluate.DISCOVERY:
        table[f"{pair}_before"] = before.loc[chosen.index, pair].to_numpy()
        table[f"{pair}_after"] = after.loc[chosen.index, pair].to_numpy()
    return table


def failures(config: Config, seed: int) -> tuple[list[int], list[str]]:
    """Where consensus failed: the row of each region's test clip that it moved furthest to the wrong side, and a note.

    Ranks are by audio-video similarity; region I's should rise from the control to the reference row, the others fall.
    """
    region = clips(config).set_index("clip_id")["region"]
    names = (methods.with_role("control"), methods.with_role("reference"))
    cosines = similarities(config, seed, names).pivot(index="clip_id", columns="checkpoint", values="av")
    old, new = (cosines[methods.get(name).label].rank(pct=True, method="max") for name in names)
    wrong = (new - old) * np.where(region[cosines.index] == "I", -1, 1)
    worst = wrong.groupby(region[cosines.index]).idxmax()
    notes = [f"region {region[c]}: rank {old[c]:.0%} w/o consensus, {new[c]:.0%} with it" for c in worst]
    return [region.index.get_loc(clip) for clip in worst], notes


def by_region(points: pd.DataFrame) -> pd.DataFrame:
    """`similarities` by checkpoint, pair (in print) and region: n, mean, quantiles, roc (region I against this one)."""
    rows = []
    for (checkpoint, part), pair in product(points.groupby("checkpoint", sort=False), evaluate.PAIRS):
        inside = part.loc[part["region"] == "I", pair]
        for region, here in part[pair].groupby(part["region"]):
            row = {"checkpoint": checkpoint, "pair": "-".join(evaluate.PAIRS[pair]), "region": region, "n": len(here)}
            row |= {"mean": here.mean()} | {name: here.quantile(share) for name, share in QUANTILES.items()}
            labels = np.repeat([1, 0], [len(inside), len(here)])
            roc = evaluate.discovery(np.r_[inside, here], labels)["roc"] if len(inside) else np.nan
            rows.append({**row, "roc": roc})
    return pd.DataFrame(rows)


def agreement(points: pd.DataFrame) -> pd.DataFrame:
    """Figure 3 by checkpoint and region: n, means av, al, vl; of av and al mean distance, minimum and correlation."""
    rows = []
    for checkpoint, stage in points.groupby("checkpoint", sort=False):
        for region, part in [("all", stage), *stage.groupby("region")]:
            av, al = part["av"], part["al"]
            row = {"checkpoint": checkpoint, "region": region, "n": len(part), **part[[*evaluate.PAIRS]].mean()}
            gap, consensus = (av - al).abs().mean(), np.minimum(av, al).mean()
            rows.append({**row, "gap": gap, "consensus": consensus, "correlation": av.corr(al)})
    return pd.DataFrame(rows)


def zero_loss(config: Config, points: int = 801) -> pd.DataFrame:
    """The curve (al, av) of zero consensus loss in Figure 3; av is NaN where there is none or audio is no anchor."""
    import torch  # slow to import, and no other figure needs it

    from mc3 import losses

    reading, grid = config.loss.consensus, torch.linspace(-1, 1, points, dtype=torch.float64)
    if reading.anchor != "audio":
        return pd.DataFrame({"al": grid, "av": np.nan})
    x = torch.cartesian_prod(grid, grid)  # al, av
    alpha = x.new_tensor([reading.alpha["text"], reading.alpha["video"]])
    loss = (x - losses.consensus_score(x, alpha, reading.inverse)).abs().sum(dim=1).reshape(points, points)
    lowest, at = loss.min(dim=1)
    return pd.DataFrame({"al": grid, "av": grid[at].where(lowest <= 2 / (points - 1), torch.nan)})


def clusters(config: Config, method: str, seed: int, top: int = 8) -> pd.DataFrame:
    """Figure 6: the `top` clips nearest to the centre of each cluster of the test clips' video embeddings.

    With the cluster (0 the largest), its size, most frequent verb, purity (the share of that verb) and sounding (the
    share of labelled clips that sound), and of each clip rank, row, clip_id, text, title.
    """
    index = clips(config).query("split == 'test'")
    video = store.embeddings(config, method, seed)["video"][index.index]
    labels, found = evaluate.clusters(video, config.evaluate.clusters), []
    for cluster in range(config.evaluate.clusters):
        inside = index[labels == cluster]
        verbs, sounding = inside["verb"].value_counts(), inside["positive"].astype("Float64").mean()
        verb, size, purity = verbs.index[0], len(inside), verbs.iloc[0] / len(inside)
        title = (
            f"Cluster {cluster}: {size} clips, {purity:.0%} {short(verb) or 'without a verb'}, {sounding:.0%} sounding"
        )
        about = {"cluster": cluster, "size": size, "verb": verb, "purity": purity, "sounding": sounding, "title": title}
        part = index.iloc[evaluate.members(video, labels, cluster, top)]
        found.append(part.assign(**about, rank=range(1, len(part) + 1), row=part.index))
    columns = ["cluster", "size", "verb", "purity", "sounding", "rank", "row", "clip_id", "text", "title"]
    return pd.concat(found, ignore_index=True)[columns]


def purest_median_and_least(members: pd.DataFrame) -> pd.DataFrame:
    """The purest, the median and the least pure of `clusters`, by the share of their most frequent verb."""
    once = members.drop_duplicates("cluster").sort_values("purity", ascending=False, kind="stable")
    chosen = dict.fromkeys(once["cluster"].iloc[[0, len(once) // 2, -1]])
    return pd.concat([members[members["cluster"] == cluster] for cluster in chosen], ignore_index=True)


def retrieved(config: Config, method: str, seed: int) -> pd.DataFrame:
    """Figure 7: random queries with a correct clip among the first `DEPTH` (two of a direction) and without (one).

    Columns: direction, query and retrieved (rows; also their _clip, _text), rank, correct, first_correct, share_hit.
    `ConfigError` for a method without one of the modalities.
    """
    if lacking := set(methods.MODALITIES) - set(store.modalities(config, method)):
        whole = [row for row in store.rows(config) if set(store.modalities(config, row)) == set(methods.MODALITIES)]
        fault = f"{method} has no {' and no '.join(sorted(lacking))}, which Figure 7 compares"
        raise ConfigError(f"{fault}; rows with all modalities: {', '.join(whole)}")
    index, found = clips(config), store.embeddings(config, method, seed)
    groups, split = store.retrieval_split(config)
    cases = dict(evaluate.retrieval_directions(found, groups, split))
    rng, rows = np.random.default_rng(seed), []
    for name in ("v2a", "a2l"):
        near = evaluate.nearest(*cases[name][:2], DEPTH, config.evaluate.chunk)
        first = evaluate.first_correct(*cases[name], config.evaluate.chunk)
        hits, misses = (rng.permutation(np.flatnonzero(which)) for which in (first <= DEPTH, first > DEPTH))
        for query in (*hits[:2], *misses[:1]):
            for rank, neighbour in enumerate(near[query], start=1):
                ends = {"query": int(split[0][query]), "retrieved": int(split[1][neighbour])}
                row = {"direction": " → ".join(evaluate.DIRECTIONS[name]), **ends, "rank": rank}
                row |= {"correct": bool(groups[ends["query"]] == groups[ends["retrieved"]])}
                row |= {"first_correct": int(first[query]), "share_hit": len(hits) / len(first)}
                for end, at in ends.items():
                    row |= {f"{end}_clip": index["clip_id"].iloc[at], f"{end}_text": index["text"].iloc[at]}
                rows.append(row)
    return pd.DataFrame(rows)


def training(config: Config, seed: int) -> pd.DataFrame:
    """Validation ROCs after each epoch: method (or align stage), metric, step (from the align stage's start), value."""
    rows, aligned = [], max(line["step"] for line in store.training_log(config, "align", seed))
    for method in map(methods.get, ("align", *methods.METHODS)):
        first = aligned if method.start == "align" else 0
        for line, name in product(store.training_log(config, method.name, seed), ("av_roc", "al_roc")):
            if name in line:
                rows.append((method.label, tables.header(name), first + line["step"], line[name]))
    return pd.DataFrame(rows, columns=["method", "metric", "step", "value"])


def class_results(config: Config, seed: int) -> pd.DataFrame:
    """`mc3.evaluate.by_class` of the untrained and adapted encoders, with class_id, name, train (events) and probe."""
    scores = store.probe_scores(config, seed)
    truth, train = scores.pop("labels"), store.events(config, "train")["class_id"].value_counts()
    frames = []
    for key in sorted(scores, key=lambda k: (k.split("/")[1] != store.UNTRAINED, k)):
        protocol, method = key.split("/")
        if method in (store.UNTRAINED, *config.probe.official_methods, *config.probe.finetune_methods):
            table = evaluate.by_class(scores[key], truth)
            about = {"class_id": table.index, "name": _class_names(config, table.index)}
            about |= {"train": train.reindex(table.index, fill_value=0).astype(int), "n": table.pop("n")}
            frames.append(pd.DataFrame({**about, "probe": f"{tables.label(method)}, {protocol}"}).join(table))
    return pd.concat(frames, ignore_index=True)


def confusion(config: Config, seed: int, method: str, protocol: str) -> pd.DataFrame:
    """Confusions, a row a true class, the most frequent first: class_id, name, n, and shares by predicted class."""
    scores = store.probe_scores(config, seed)
    truth, key = scores.pop("labels"), f"{protocol}/{method}"
    if key not in scores:
        raise DataError(f"no scores {key} in {config.paths.probe_metrics(seed)}; it has {', '.join(sorted(scores))}")
    shares = evaluate.confusion(scores[key], truth)
    counts = np.bincount(truth, minlength=len(shares))
    order = np.argsort(-counts, kind="stable")
    about = pd.DataFrame({"class_id": order, "name": _class_names(config, order), "n": counts[order]})
    table = about.join(pd.DataFrame(shares[np.ix_(order, order)], columns=[str(number) for number in order]))
    return table[table["n"] > 0].reset_index(drop=True)


def _class_names(config: Config, numbers: Iterable[int]) -> list[str]:
    files = [config.paths.raw / config.epic_sounds.annotations[split] for split in ("train", "validation")]
    annotations = pd.concat([pd.read_csv(file, usecols=["class_id", "class"]) for file in files])
    names = annotations.groupby("class_id")["class"].agg(lambda given: given.mode()[0])
    return [str(names.get(number, f"class {number}")) for number in numbers]
