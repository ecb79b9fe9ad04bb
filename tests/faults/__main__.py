"""Break every stage of a tiny pipeline in every way, and write what was lost to build/faults.csv: `make faults`."""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from faults import inject, long_run, stages

STAGES = [name for name, *_ in (*stages.PLAN, *stages.DRAWN)]
MOUNTED = {"full": inject.full_disk, "brief": inject.briefly_full, "readonly": inject.read_only}
FAULTS: dict[str, Callable] = {
    **MOUNTED, "limit": inject.file_limit, "input": inject.lost_input, "twice": inject.twice,
    "clock": inject.jumping_clock, "hang": inject.hanging,
}  # fmt: skip
HANG = ("shards",)  # stages with processes that read files of others


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many kills, in turn over stages and kinds")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, metavar="STAGE")
    parser.add_argument("--faults", nargs="*", default=[*FAULTS], choices=[*FAULTS], metavar="FAULT")
    parser.add_argument("--steps", type=int, default=10_000, help="of the long training; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/faults.csv"))
    args = parser.parse_args()
    if (own := os.environ.get("MC3_FAULTS_NAMESPACE")) is None:
        command = inject.in_own_namespace([sys.executable, "-m", "faults", *sys.argv[1:]])
        allowed = "yes" if command[0] == "unshare" else "no"
        os.execvpe(command[0], command, {**os.environ, "MC3_FAULTS_NAMESPACE": allowed})
    rng, outcomes = random.Random(args.seed), list[inject.Outcome]()
    with tempfile.TemporaryDirectory(prefix="mc3-faults-") as folder:
        made = stages.build(Path(folder), args.stages)

        def note(outcome: inject.Outcome) -> None:
            outcomes.append(outcome)
            print(f"{outcome.fault}, {outcome.stage}: {outcome.wrong or 'nothing lost'}", flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            table(outcomes).to_csv(args.out, index=False)

        kinds = ("process", "group", "parent")
        turns = [(stage, how) for how in kinds for stage in made.values()]
        while sum(outcome.number for outcome in outcomes) < args.kills:
            stage, how = turns[len(outcomes) % len(turns)]
            note(inject.kill(stage, Path(folder), how, rng))
        for name in args.faults:
            if name in MOUNTED and own == "no":
                print(f"{name}: skipped, since this system does not let a process mount a disk of its own")
                continue
            for stage in made.values():
                if (name != "hang" or stage.name in HANG) and (name != "input" or stage.inputs):
                    note(FAULTS[name](stage, Path(folder), rng))
        if args.steps:
            note(long_run.run(Path(folder) / "long", args.steps))
    print(table(outcomes).to_string(index=False))
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


def table(outcomes: list[inject.Outcome]) -> pd.DataFrame:
    """By fault and stage: how many struck, after how many something was lost or unsaid, and how many ended equal."""
    rows = pd.DataFrame([vars(outcome) for outcome in outcomes])
    rows["lost"] = rows["wrong"].ne("").astype(int)
    rows["equal"] = rows["number"] * rows["wrong"].eq("")
    return rows.groupby(["fault", "stage"], sort=False)[["number", "lost", "equal"]].sum().reset_index()


if __name__ == "__main__":
    sys.exit(main())
