"""How commands are called, where that differs from typer's defaults."""

import re
from typing import Any

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """A group of commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words after the group's name. If there are none, show the help and exit with 2 for wrong use.

        With some releases of click it would exit with 0.
        """
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            if text := ctx.get_help():  # with rich it is printed already
                typer.echo(text, color=ctx.color)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command. The lines of each paragraph of its help are joined, so that they wrap to the terminal.

        Older versions of typer show "[default: None]" for an option without a default, which is left out.
        """
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help)
        for parameter in getattr(command, "params", ()):
            if parameter.default is None:
                parameter.show_default = False
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Newer versions of typer word the error about a wrong choice differently."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise
