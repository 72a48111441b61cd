"""The command `identity`, which makes the key with which a client of `join` proves its identity; `app` adds it."""

from pathlib import Path
from typing import Annotated

import typer

from secfed.errors import SecFedError


def identity(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.", dir_okay=False)],
) -> None:
    """Make a client's identity key, and print its public half for the roster.

    The file is the private key: only its owner may read it, and it never leaves the client's machine.

    Example:

    secfed identity client-1.key
    """
    from secfed.secagg.identities import create_identity

    try:
        typer.echo(create_identity(file))
    except OSError as error:
        raise SecFedError(f"cannot make {file}: {error.strerror}") from None
