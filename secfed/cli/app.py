"""The command line: its commands, each from its own module."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from secfed.cli import attack, budget, identity, json_output, network, preflight
from secfed.cli.commands import Commands
from secfed.cli.simulate import simulate

app = typer.Typer(
    cls=Commands,
    rich_markup_mode="rich",  # older versions of typer have another default
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Secure aggregation for federated learning: the server only ever sees the sum. "
    "With differential privacy, the sum spends a known budget.",
)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # a shell that completes a line runs no command
        try:
            typer.echo(f"secfed {version('secfed')}")
        except PackageNotFoundError:
            typer.echo("secfed (not installed: run from its source tree)")
        raise typer.Exit


@app.callback()
def secfed(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that come before a command.

    The text of `secfed --help` is `app`'s own help.
    """


app.command()(simulate)
app.command()(preflight.preflight)
app.command()(attack.attack)
app.command()(budget.epsilon)
app.command()(budget.noise)
app.add_typer(budget.budget, name="budget", cls=Commands)
app.command()(network.serve)
app.command()(network.join)
app.command()(identity.identity)
app.command()(json_output.schema)
