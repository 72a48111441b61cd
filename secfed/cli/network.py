"""The commands `serve` and `join`: one secure sum between processes or machines. `app` adds them."""

import asyncio
import logging
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli.extras import require
from secfed.cli.json_output import SchemaName
from secfed.cli.network_options import (
    ClipNorm,
    Insecure,
    NoiseMultiplier,
    Roster,
    Seconds,
    StageSeconds,
    in_options,
)
from secfed.cli.npz import arrays_of, shapes_of
from secfed.cli.options import (
    DATA,
    NETWORK,
    OUTPUT,
    PRIVACY,
    PROTOCOL,
    AsJson,
    Compression,
    PrivacyChoice,
    PrivacyOption,
    ScaleWeights,
    Threshold,
    fraction,
    given_options,
    positive,
    refuse_without_effect,
    tell,
    with_default,
)
from secfed.errors import ConfigError, SecFedError

if TYPE_CHECKING:
    from secfed.aggregation import Privacy
    from secfed.secagg import Stage

_WITHOUT_EFFECT = (
    ("privacy", "none", ("clip_norm", "noise_multiplier", "delta", "ledger")),
    *(
        ("privacy", choice, ("clip", "bits", "scale_weights", "max_weight", "weight"))
        for choice in ("central", "distributed")
    ),
)


def serve(
    context: typer.Context,
    like: Annotated[
        Path,
        typer.Option(
            dir_okay=False,
            help="An .npz file with the names, shapes and float dtypes of an update, such as the model; its values "
            "are not used.",
            rich_help_panel=DATA,
        ),
    ],
    clients: Annotated[
        int | None, typer.Option(help="Without a roster: how many clients, with ids from 1.", rich_help_panel=DATA)
    ] = None,
    roster: Roster = None,
    threshold: Threshold = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            help=with_default("How many neighbors each client shares masks with (even).", "all"),
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    colluders: Annotated[
        int, typer.Option(help="How many holders of one client may collude.", rich_help_panel=PROTOCOL)
    ] = 0,
    session_colluders: Annotated[
        int | None,
        typer.Option(
            help="With a roster and --neighbors: how many clients of the session may collude. Without this option, "
            "clients refuse the session unless they have --allow-divisible.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    clip: Annotated[
        float, typer.Option(callback=positive, help="Values are clipped to [-clip, clip].", rich_help_panel=PROTOCOL)
    ] = 4.0,
    bits: Annotated[
        int | None, typer.Option(help=with_default("Bits of a rounded value.", "16"), rich_help_panel=PROTOCOL)
    ] = None,
    max_weight: Annotated[
        int, typer.Option(min=1, help="The largest weight of a client.", rich_help_panel=PROTOCOL)
    ] = 1,
    compression: Compression = "",
    scale_weights: ScaleWeights = False,
    privacy: PrivacyOption = PrivacyChoice.NONE,
    clip_norm: ClipNorm = None,
    noise_multiplier: NoiseMultiplier = None,
    minimum_cohort: Annotated[
        int | None,
        typer.Option(
            min=2,
            help=with_default(
                "With --privacy distributed: fewest clients in the sum; their noise alone must be enough.",
                "that of --threshold",
            ),
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    delta: Annotated[
        float,
        typer.Option(
            callback=fraction,
            help="With --privacy and no --ledger: the delta at which epsilon is printed.",
            rich_help_panel=PRIVACY,
        ),
    ] = 1e-5,
    ledger: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="With --privacy: a ledger, made by `secfed budget limit`. The sum is reserved in it before the "
            "session and committed after it.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    round_: Annotated[
        int, typer.Option("--round", min=0, help="The number of the training round.", rich_help_panel=PROTOCOL)
    ] = 0,
    host: Annotated[str, typer.Option(help="The address to listen on.", rich_help_panel=NETWORK)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.", rich_help_panel=NETWORK)
    ] = 8765,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The server's certificate, a PEM file.", rich_help_panel=NETWORK)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, a PEM file.", rich_help_panel=NETWORK)] = None,
    insecure: Insecure = False,
    timeout: Seconds = 60.0,
    stage_timeout: StageSeconds = None,
    state: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="A file that stores the session. After a crash, run the same command with it to continue.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(dir_okay=False, help="Where the mean is written.", rich_help_panel=OUTPUT)
    ] = Path("mean.npz"),
    as_json: AsJson = False,
) -> None:
    """Serve one session of secure aggregation: the weighted mean of the updates of the clients that join.

    The server sees the mean and the sum of the weights, but no client's update. It ends when the session is over: with
    exit code 0 and the mean in --output, or with 1 if too few clients were left. With --privacy it prints the epsilon.
    An option that has no effect in the chosen mode is an error.

    Examples:

    secfed serve --like model.npz --clients 3

    secfed serve --like model.npz --roster roster.json --host 0.0.0.0 --tls-cert server.pem --tls-key server.key
    --state session.db
    """
    require("aiohttp", extra="transport")
    from secfed.aggregation import SecAgg
    from secfed.cli.release import Release, lines_of, open_ledger, resumed
    from secfed.secagg import Stage
    from secfed.secagg.identities import read_roster
    from secfed.transport import Driver, HttpServer, SessionParameters, Store
    from secfed.transport.http_server import server_context

    refuse_without_effect(context, _WITHOUT_EFFECT, {"privacy": privacy.value})
    if minimum_cohort is not None and privacy is not PrivacyChoice.DISTRIBUTED:
        raise ConfigError("--minimum-cohort has an effect only with --privacy distributed")
    if ledger is not None and "delta" in given_options(context):
        raise ConfigError("--delta has no effect with --ledger, which has its own")
    if (clients is None) == (roster is None):
        raise ConfigError("needed either --roster, or --clients for a session without identity keys")
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key must be given together: found one of them")
    timeouts = _timeouts(timeout, stage_timeout or [])
    directory = None if roster is None else read_roster(roster)
    ids = range(1, (clients or 0) + 1) if directory is None else sorted(directory)
    aggregator = SecAgg(
        threshold=2 / 3 if threshold is None else threshold,
        clip=clip,
        bits=bits,
        max_weight=max_weight,
        neighbors=neighbors,
        adversary="semi_honest" if directory is None else "malicious_server",
        colluders=colluders,
        session_colluders=session_colluders,
        compression=_maps(compression),
        scale_weights=scale_weights,
    )
    noise = _privacy(privacy, clip_norm, noise_multiplier, minimum_cohort)
    budget = None if ledger is None else open_ledger(ledger)
    transform = aggregator.transform(shapes_of(like), len(ids), None, noise)
    tls = None if tls_cert is None else server_context(str(tls_cert), str(tls_key))
    _log_to_stderr()
    _allow_open_files()
    with closing(Store(state)) as store:
        transform = resumed(store, aggregator, transform, noise)
        config = aggregator.config(ids, transform, round=round_)
        parameters = SessionParameters.of(bytes(32), config, transform)
        driver = Driver(parameters, store, directory=directory, timeouts=timeouts)
        with in_options():
            server = HttpServer(driver, host=host, port=port, tls=tls, insecure=insecure)
        was_over = driver.stage is Stage.DONE
        release = Release(output, driver, transform, delta=delta, ledger=budget)
        asyncio.run(server.run(finished=release.finish))
        if driver.failure:
            raise SecFedError(f"the session ended without a mean: {driver.failure}")
    lines = lines_of(release.found, len(ids))
    if was_over:
        lines.append(
            "this session was over before the command started, and no client was asked: "
            f"for new updates delete {state}, or name another file with --state"
        )
    tell(SchemaName.SERVE, lines, release.found if as_json else None)


def join(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where the server listens, such as https://host:8765.")],
    update: Annotated[Path, typer.Argument(dir_okay=False, help="An .npz file with this client's update.")],
    client_id: Annotated[
        int, typer.Option("--id", help="This client's id in the session, or in the roster.", rich_help_panel=DATA)
    ],
    weight: Annotated[
        int, typer.Option(min=1, help="The weight of the update, up to the session's largest.", rich_help_panel=DATA)
    ] = 1,
    identity_file: Annotated[
        Path | None,
        typer.Option(
            "--identity",
            dir_okay=False,
            help="With --roster: the file that `secfed identity` made.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    roster: Roster = None,
    threshold: Annotated[
        int, typer.Option(help="Refuse a session with a smaller threshold.", rich_help_panel=PROTOCOL)
    ] = 2,
    minimum_cohort: Annotated[
        int, typer.Option(help="Refuse a session, or a sum, of fewer clients.", rich_help_panel=PROTOCOL)
    ] = 2,
    allow_divisible: Annotated[
        bool,
        typer.Option(
            "--allow-divisible",
            help="With --roster: accept a graph on which a malicious server could open sums of few clients.",
            rich_help_panel=PROTOCOL,
        ),
    ] = False,
    clip: Annotated[
        float | None,
        typer.Option(callback=positive, help="Refuse a session with another clip.", rich_help_panel=PROTOCOL),
    ] = None,
    max_weight: Annotated[
        int | None, typer.Option(min=1, help="Refuse a session with another largest weight.", rich_help_panel=PROTOCOL)
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Refuse a session with other bits of a rounded value.", rich_help_panel=PROTOCOL)
    ] = None,
    compression: Compression = "",
    scale_weights: ScaleWeights = False,
    privacy: PrivacyOption = PrivacyChoice.NONE,
    clip_norm: ClipNorm = None,
    noise_multiplier: NoiseMultiplier = None,
    round_: Annotated[
        int | None,
        typer.Option("--round", min=0, help="Refuse a session of another training round.", rich_help_panel=PROTOCOL),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help=with_default(
                "A PEM file with the authority to trust, or with the server's own certificate.",
                "the authorities of the system",
            ),
            rich_help_panel=NETWORK,
        ),
    ] = None,
    insecure: Insecure = False,
    timeout: Seconds = 600.0,
    state: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="A secret file that stores this client's part of the session. After a crash, run the same command "
            "with it to continue. Use a new file for each session.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="A file that records which session each update went to; use one file for all sessions of this client. "
            "An update that went to another session is refused.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take part in one session with one update; the exit code is 0 if the session is done.

    Nothing that the server announces is believed: the update, the roster and the options here decide. The options of
    compression and privacy must be those of the server. Give an update to one session only; --record sees to it.

    Examples:

    secfed join http://127.0.0.1:8765 update-1.npz --id 1

    secfed join https://host:8765 update.npz --id 1 --identity client-1.key --roster roster.json --ca server.pem
    """
    require("aiohttp", extra="transport")
    from secfed.secagg import Policy
    from secfed.secagg.identities import read_identity, read_roster
    from secfed.transport import ClientState, Record, Terms
    from secfed.transport import join as take_part
    from secfed.transport.client import client_context

    refuse_without_effect(context, _WITHOUT_EFFECT, {"privacy": privacy.value})
    if (identity_file is None) != (roster is None):
        raise ConfigError("--identity and --roster must be given together: found one of them")
    if allow_divisible and roster is None:
        raise ConfigError("--allow-divisible has an effect only with --roster")
    policy = Policy(
        minimum_cohort=minimum_cohort,
        minimum_threshold=threshold,
        adversary="semi_honest" if roster is None else "malicious_server",
    )
    terms = Terms(
        policy,
        None if roster is None else read_roster(roster),
        clip,
        max_weight,
        round_,
        allow_divisible,
        bits=bits,
        compression=_maps(compression),
        scale_weights=scale_weights,
        privacy=_privacy(privacy, clip_norm, noise_multiplier, minimum_cohort),
    )
    _log_to_stderr()
    with in_options(), ExitStack() as files:
        kept = None if state is None else files.enter_context(closing(ClientState(state)))
        given = None if record is None else files.enter_context(closing(Record(record)))
        joined = asyncio.run(
            take_part(
                url,
                client_id,
                arrays_of(update),
                weight=weight,
                terms=terms,
                signing_key=None if identity_file is None else read_identity(identity_file),
                tls=None if ca is None else client_context(str(ca)),
                insecure=insecure,
                timeout=timeout,
                state=kept,
                record=given,
            )
        )
    found = {
        "survivors": list(joined.survivors),
        "bytes_sent": joined.bytes_up,
        "bytes_received": joined.bytes_down,
    }
    tell(
        SchemaName.JOIN,
        [f"done: the update of client {client_id} is in the mean of {len(joined.survivors)} clients"],
        found if as_json else None,
    )


def _maps(text: str) -> Any:
    """Return the compression that an option names, or None."""
    from secfed.cli.simulation.settings import maps_of

    return maps_of(text) if text else None


def _privacy(
    choice: PrivacyChoice, clip_norm: float | None, noise_multiplier: float | None, minimum_cohort: int | None
) -> "Privacy | None":
    """Return the noise that the options ask for, or None."""
    from secfed.aggregation import CentralGaussian, DistributedGaussian

    if choice is PrivacyChoice.NONE:
        return None
    if clip_norm is None or noise_multiplier is None:
        raise ConfigError(f"--privacy {choice.value} needs --clip-norm and --noise-multiplier")
    if choice is PrivacyChoice.CENTRAL:
        return CentralGaussian(clip_norm, noise_multiplier)
    return DistributedGaussian(clip_norm, noise_multiplier, minimum_survivors=minimum_cohort)


def _timeouts(seconds: float, by_stage: list[str]) -> "dict[Stage, float]":
    """Return the seconds of each stage in which clients answer."""
    from secfed.secagg import Stage

    found = {stage: seconds for stage in Stage if stage < Stage.DONE}
    for text in by_stage:
        name, _, number = text.partition("=")
        try:
            stage, found_seconds = Stage[name], float(number)
            found[stage]  # not every stage has answers
        except (KeyError, ValueError):
            names = ", ".join(stage.name for stage in found)
            raise ConfigError(f"--stage-timeout {text}: needed STAGE=SECONDS with one of {names}") from None
        found[stage] = found_seconds
    return found


def _allow_open_files() -> None:
    """Raise this process's limit of open files as far as the system lets it: each connection is one."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("secfed.transport").setLevel(logging.INFO)
