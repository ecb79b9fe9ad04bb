"""The launch files start the right processes, as far as one machine without GPUs can test."""

import os
import re
import subprocess
import sys

import pytest
import small_training
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from small_work import ROOT, scripts, text_of

from mc3 import cli
from mc3.config import as_dict

LAUNCH = ROOT / "profiles" / "launch"


@pytest.mark.parametrize(("name", "machines", "processes"), [("1gpu", 1, 1), ("8gpu", 1, 8), ("2nodes", 2, 16)])
def test_accelerate_reads_a_launch_files_settings_and_the_command_in_it_parses(name, machines, processes):
    found = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert (found.num_machines, found.num_processes) == (machines, processes)
    assert (found.use_cpu, found.mixed_precision) == (False, "no")
    command = re.search("accelerate launch (.*)", text_of(f"profiles/launch/{name}.yaml"))[1]
    arguments = launch_command_parser().parse_args(command.split())
    assert (arguments.module, arguments.training_script) == (True, "mc3.cli")
    assert cli.parser().parse_args(arguments.training_script_args).method == "mc3"
    assert (ROOT / arguments.config_file).exists()


@pytest.mark.slow
def test_the_slurm_script_starts_a_process_per_gpu(settings, tmp_path):
    commands = scripts(tmp_path / "bin", srun='exec "$@"', scontrol="echo localhost; echo other")
    config = small_training.configured(settings)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(as_dict(config)))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "ACCELERATE_USE_CPU": "true",
                   "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2",
                   "SLURM_JOB_ID": "7"}  # fmt: skip
    command = ["bash", str(LAUNCH / "train.sbatch"), "align", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "align-0: 28 clips, for 2 steps, 2 x cpu" in done.stderr
    assert (config.paths.checkpoint("align", 0) / "final" / "model.safetensors").exists()


def test_the_slurm_script_names_a_missing_argument():
    done = subprocess.run(["bash", str(LAUNCH / "train.sbatch"), "mc3"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "which seed" in done.stderr
