"""Training everything anew, apart from the released weights, and comparing both digit by digit (`mc3 retrain`)."""

import shutil
from collections.abc import Sequence

import numpy as np
from safetensors.numpy import load_file

from mc3.config import Config, override
from mc3.errors import DataError
from mc3.paper import jobs, pretrain, tables

TABLES = {"Table 2": tables.table2, "Table 3": tables.table3, "Table 4": tables.table4}


def run(config: Config, seeds: Sequence[int], fresh: bool) -> bool:
    """Pretrain, train, embed and probe in work/retrained, and `compare` the results of `seeds`.

    A stopped call continues, unless `fresh`. `DataError` if the pipeline has no results of these seeds.
    """
    work = config.paths.work / "retrained"
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    init = {m: str(work / "pretrained" / path.name) if path else None for m, path in config.init.items()}
    ours = override(config, {"seeds": list(seeds), "paths.work": str(work)})
    again = override(ours, {"init": init} if config.pretrain else {})
    if missing := [seed for seed in seeds if not config.paths.final("align", seed).exists()]:
        raise DataError(f"there is nothing to compare seed {missing[0]} with; `mc3 repro` makes it")
    if not (again.paths.pretrained / "tokenizer.json").exists():
        pretrain.write(ours)
    for step in jobs.MADE_FROM:
        jobs.make(again, step)
    return compare(override(config, {"seeds": list(seeds)}), again)


def compare(released: Config, again: Config) -> bool:
    """Print how the weights and Tables 2-4 of two work folders differ; returns whether all printed digits are equal."""
    names = [(name, seed) for name in jobs.trained(again) for seed in again.seeds]
    distance, name = max((_distance(released, again, *name), "{}-{}".format(*name)) for name in names)
    print(f"weights differ by at most {distance:.1e} of their norm ({name})" if distance else "all weights are equal")
    total, differing = 0, []
    for title, make in TABLES.items():
        before, now = (tables.cells(make(config)) for config in (released, again))
        total += now.size
        for row, column in zip(*(before != now).to_numpy().nonzero(), strict=True):
            change = f"{before.iat[row, column]} -> {now.iat[row, column]}"
            differing.append(f"  {title}, {now['Method'].iat[row]}, {now.columns[column]}: {change}")
    if differing:
        more = [f"  and {len(differing) - 10} more"] if len(differing) > 10 else []
        print(f"{len(differing)} of {total} cells of Tables 2-4 differ:", *differing[:10], *more, sep="\n")
    else:
        print(f"all {total} cells of Tables 2-4 have equal digits")
    return not differing


def _distance(released: Config, again: Config, method: str, seed: int) -> float:
    """The norm of the difference of two checkpoints' weights, relative to that of the first."""
    weights = [load_file(c.paths.final(method, seed) / "model.safetensors") for c in (released, again)]
    flat = [np.concatenate([w[n].ravel() for n in sorted(w)]).astype(np.float64) for w in weights]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))
