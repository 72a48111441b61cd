"""Options that `serve` and `join` share; and library errors reworded to name options."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.options import NETWORK, PRIVACY, PROTOCOL, positive, with_default
from secfed.errors import ConfigError

# What the library's errors ask for, and the options to use instead.
_NEEDED = (
    (
        "a certificate and its key, a loopback address, or insecure",
        "--tls-cert and --tls-key, --host 127.0.0.1, or --insecure",
    ),
    ("a roster, a loopback address, or insecure", "--roster, --host 127.0.0.1, or --insecure"),
    (
        "https, a loopback address, or insecure",
        "a URL with https, one of this machine such as http://127.0.0.1:8765, or --insecure",
    ),
    ("this client needs its identity key and a roster", "this client needs --identity and --roster"),
)


@contextmanager
def in_options() -> Iterator[None]:
    """Reword an error so that it names options in place of the library's arguments.

    Raises:
        ConfigError: The same error in other words.
    """
    try:
        yield
    except ConfigError as error:
        text = str(error)
        for argument, option in _NEEDED:
            text = text.replace(argument, option)
        if text == str(error):
            raise
        raise ConfigError(text) from None


Roster = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        help="A JSON file with the public identity key of each client by id. The session is then safe against a "
        "malicious server, and every client proves its identity.",
        rich_help_panel=PROTOCOL,
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        "--timeout", callback=positive, help="Seconds to wait in each stage of the session.", rich_help_panel=NETWORK
    ),
]
StageSeconds = Annotated[
    list[str] | None,
    typer.Option(
        "--stage-timeout",
        metavar="STAGE=SECONDS",
        help=with_default("Seconds to wait in one stage, such as SHARE_KEYS=30; may be repeated.", "that of --timeout"),
        rich_help_panel=NETWORK,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Allow plain HTTP, and sessions without a roster, between machines: for closed networks only.",
        rich_help_panel=NETWORK,
    ),
]
ClipNorm = Annotated[
    float | None,
    typer.Option(
        callback=positive,
        help="With --privacy: updates are scaled down to this Euclidean norm.",
        rich_help_panel=PRIVACY,
    ),
]
NoiseMultiplier = Annotated[
    float | None,
    typer.Option(
        callback=positive,
        help="With --privacy: standard deviation of the noise, divided by --clip-norm; `secfed noise` finds it.",
        rich_help_panel=PRIVACY,
    ),
]
