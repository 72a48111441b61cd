"""The entry point of `secfed`; the commands are in `app`."""

import sys

from secfed.errors import ConfigError, MissingExtraError, SecFedError


def main() -> None:
    """Run the command line on `sys.argv` and exit: 0 done, 1 could not, 2 wrong use (as is any `ConfigError`)."""
    try:
        try:
            from secfed.cli.app import app
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            # Only these two (typer needs rich): any other missing module is our fault, and its traceback tells more.
            if package not in ("typer", "rich"):
                raise
            raise MissingExtraError("cli", package) from None
        app(prog_name="secfed")
    except SecFedError as error:
        print(f"secfed: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
