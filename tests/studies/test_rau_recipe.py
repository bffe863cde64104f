"""RAU's recipes: the plans hold the paper's values and fit the stages; the small one runs from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from anatrust.cli.main import run
from anatrust.errors import InputError
from anatrust.pipeline.train import TrainingPlan, _settings, estimate
from anatrust.reference.training_cost import MACHINES
from anatrust.studies.recipes.rau_small import write_small_recipe

RECIPE = Path(__file__).parents[2] / "studies" / "recipes" / "rau"
STAGES = {"sft": "sft", "grpo": "grpo", "seg": "seg", "grpo-masks": "grpo"}


def test_every_plan_fits_its_stage_and_holds_the_papers_values() -> None:
    assert {p.stem for p in RECIPE.glob("*.yaml")} == set(STAGES)
    settings = {}
    for name, stage in STAGES.items():
        plan = TrainingPlan.read(RECIPE / f"{name}.yaml")
        settings[name] = asdict(_settings(stage, plan.settings))
        assert settings[name]["lora"] == {"rank": 8, "alpha": 16, "dropout": 0.01}
        assert plan.device == "cuda"
    assert settings["sft"]["epochs"] == 5
    assert settings["sft"]["samples"] == 650_000
    assert settings["grpo"]["steps"] == settings["grpo-masks"]["steps"] == 2400
    assert settings["grpo-masks"]["tasks"] == ("segment",)
    folders = [TrainingPlan.read(RECIPE / f"{name}.yaml") for name in STAGES]
    for k, plan in enumerate(folders):
        assert plan.adapters == tuple(f"runs/{p.output.name}" for p in folders[:k])


def test_scripts_name_plans_that_exist() -> None:
    for script in RECIPE.glob("*.sh"):
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = (RECIPE / "eight-gpus.sh").read_text()
    assert all(f"{name}.yaml" in text or "$stage.yaml" in text for name in STAGES)
    assert any(f"--estimate {name}" in text for name in MACHINES)


def test_estimates_are_printed_from_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_small_recipe(tmp_path)
    for name, stage in STAGES.items():
        assert run(["train", stage, str(tmp_path / f"{name}.yaml"), "--estimate", "8xA100-80GB"]) == 0
    told = capsys.readouterr().out
    assert told.count("GB a device") == 4
    assert run(["train", "sft", str(tmp_path / "sft.yaml"), "--estimate", "abacus"]) == 2
    plan = TrainingPlan.read(tmp_path / "sft.yaml")
    assert estimate("sft", plan, "1xA100-80GB").hours > estimate("sft", plan, "8xA100-80GB").hours
    with pytest.raises(InputError, match="holds a recipe already"):
        write_small_recipe(tmp_path)


@pytest.mark.slow
def test_the_small_recipe_runs_from_an_empty_folder(tmp_path: Path) -> None:
    place = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run(
        [str(RECIPE / "small-machine.sh"), str(tmp_path / "new")],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for folder in ("sft", "grpo", "seg", "grpo-masks"):
        assert json.loads((tmp_path / "new" / "runs" / folder / "run.json").read_text())["figures"]
    told = json.loads((tmp_path / "new" / "out" / "annotation.json").read_text())
    assert told["reasoner"].startswith("vlm/1 qwen2_5_vl")
    assert {s["name"] for s in told["structures"]} == {"liver", "spleen", "aorta"}
