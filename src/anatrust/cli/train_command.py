"""``anatrust train``: RAU's training stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

import typer

from anatrust.cli.console import progress_bar
from anatrust.cli.options import Quiet, Verbose

__all__ = ["train_command"]


def train_command(
    stage: Annotated[str, typer.Argument(metavar="sft|grpo|seg", help="Answers, rewards, or masks.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What is trained on what, and how.")],
    estimate: Annotated[
        str | None,
        typer.Option(metavar="MACHINE", help="Print what it needs on 8xA100-80GB, for example; train nothing."),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,  # noqa: ARG001 - read before parsing, see main
) -> int:
    """Train a vision-language model to find anatomy relative to a reference (extra 'train').

    Run sft, grpo and seg in this order, each with a YAML file of its own. A run that was stopped
    goes on when the same command is given again.
    """
    from anatrust.pipeline.train import Stage, TrainingPlan, train
    from anatrust.pipeline.train import estimate as stage_cost

    def warn(line: str) -> None:
        if not quiet:
            typer.echo(f"anatrust: {line}", err=True)

    plan = TrainingPlan.read(config)
    if estimate is not None:
        typer.echo(f"{config.stem}: {stage_cost(cast(Stage, stage), plan, estimate)}")
        return 0
    with progress_bar(quiet) as bar:

        def tell(step: int, steps: int, figures: Mapping[str, float]) -> None:
            shown = figures.get("loss", figures.get("reward"))
            if bar and shown is not None:
                bar(f"{stage} {shown:.3f}", step, steps)

        figures = train(cast(Stage, stage), plan, progress=tell, warn=warn)
    if not quiet:
        what = "mean reward" if stage == "grpo" else "loss"
        typer.echo(f"{len(figures)} steps, {what} {figures[0]:.3f} -> {figures[-1]:.3f}; written to {plan.output}")
    return 0
