"""The commands and their order in the help; nothing heavy is imported here."""

from __future__ import annotations

from typing import Annotated

import typer

from anatrust._version import __version__
from anatrust.cli.annotate_command import annotate_command
from anatrust.cli.assess_command import assess_command
from anatrust.cli.bank_command import bank_command
from anatrust.cli.demo_command import demo_command
from anatrust.cli.evaluate_command import evaluate_command
from anatrust.cli.fit_command import fit_command
from anatrust.cli.info_command import info_command
from anatrust.cli.manifest_command import manifest_command
from anatrust.cli.plan_command import plan_command
from anatrust.cli.screen_command import screen_command
from anatrust.cli.segment_command import segment_command
from anatrust.cli.study_command import study_command
from anatrust.cli.teach_command import teach_command
from anatrust.cli.train_command import train_command
from anatrust.cli.verify_command import verify_command

__all__ = ["app"]

app = typer.Typer(
    name="anatrust",
    help="Which parts of a medical image segmentation may be trusted, and why.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong arguments or unreadable input, 3 verdict at or above --fail-on.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anatrust {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("assess")(assess_command)
app.command("segment")(segment_command)
app.command("teach")(teach_command)
app.command("annotate")(annotate_command)
app.command("train")(train_command)
app.command("bank")(bank_command)
app.command("fit")(fit_command)
app.command("screen")(screen_command)
app.command("manifest")(manifest_command)
app.command("evaluate")(evaluate_command)
app.command("plan")(plan_command)
app.command("verify")(verify_command)
app.command("study")(study_command)
app.command("demo")(demo_command)
app.command("info")(info_command)
