"""Commands that use a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from mc3 import methods
from mc3.cli.parser import Group, check_exists, load_config, option

GROUP = Group("use a model")


@GROUP.command(
    "mc3 discover my_video.mp4",
    option("video", type=Path, help="a video file with sound"),
    option("--checkpoint", type=Path, help="a checkpoint's folder (default: MC3 of the first seed)"),
    option("--every", type=float, default=0.5, metavar="SEC", help="step between windows (default: 0.5)"),
    option("--text", action="append", default=[], help="compare the sound with this too; may be repeated"),
    option("--top", type=int, default=10, help="how many moments to print (default: 10)"),
    option("--out", type=Path, metavar="CSV", help="write all windows there"),
)
def discover(args: argparse.Namespace) -> None:
    """Find the moments of a video whose sound comes from the action in the picture."""
    check_exists(args.video)
    folder = args.checkpoint
    if folder is None:
        config = load_config(args)
        folder = config.paths.final(methods.with_role("reference"), config.seeds[0])
    from mc3 import discover
    from mc3.model import MC3

    table = discover.moments(MC3.load(folder), args.video, args.every, texts=args.text)
    print(table.sort_values("similarity", ascending=False).head(args.top).round(3).to_string(index=False))
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.6f")
        print(f"{len(table)} windows in {args.out}")


@GROUP.command(
    "mc3 weights convert --kind egovlp egovlp.pth --out weights/egovlp",
    option("action", choices=["convert"], help="what to do with the file"),
    option("file", type=Path, help="the checkpoint as published"),
    option("--kind", required=True, help="egovlp, lavila, soundingactions, deit, ast or ssast"),
    option("--out", required=True, type=Path, metavar="FOLDER", help="for MODALITY.safetensors, card.json"),
)
def weights(args: argparse.Namespace) -> None:
    """Convert a published checkpoint into weights that a profile's `init` can name."""
    check_exists(args.file)
    config = load_config(args)
    from mc3.encoders import weights

    print(*weights.write(args.file, args.kind, config.model, args.out), sep="\n")
