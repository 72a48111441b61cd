"""The command `simulate`; `app` adds it. Functions import heavy packages, so that `secfed --help` is fast."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.algorithm_parameters import ASYNCHRONOUS, DEFAULTS, OF_ALGORITHMS
from secfed.cli.extras import require
from secfed.cli.json_output import SchemaName
from secfed.cli.options import (
    ALGORITHM,
    DATA,
    OUTPUT,
    PRIVACY,
    PROTOCOL,
    AdversaryChoice,
    AsJson,
    Compression,
    KeyBits,
    PrivacyChoice,
    PrivacyOption,
    Protection,
    ScaleWeights,
    Threshold,
    fraction,
    given_options,
    not_negative,
    positive,
    probability,
    refuse_without_effect,
    tell,
    with_default,
)
from secfed.errors import SecFedError


class Dataset(StrEnum):
    """Data sets; the names in `datasets.LOADERS`."""

    DIGITS = "digits"
    MNIST = "mnist"
    FACES = "faces"
    SYNTHETIC = "synthetic"


class Model(StrEnum):
    """Models."""

    MLP = "mlp"
    LOGISTIC = "logistic"


class Algorithm(StrEnum):
    """Federated algorithms; the names in `algorithm_parameters.DEFAULTS`."""

    FEDAVG = "fedavg"
    FEDAVGM = "fedavgm"
    FEDPROX = "fedprox"
    FEDADAGRAD = "fedadagrad"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"
    FEDBUFF = "fedbuff"
    FEDASYNC = "fedasync"


# Choices, and the options that have no effect with them.
_WITHOUT_EFFECT = (
    ("model", "logistic", ("hidden",)),
    ("privacy", "none", ("epsilon", "delta", "clip_norm")),
    ("privacy", "central", ("clip", "bits", "scale_weights")),
    ("privacy", "distributed", ("clip", "bits", "scale_weights")),
    (
        "aggregator",
        "plain",
        ("threshold", "neighbors", "adversary", "clip", "key_bits", "bits", "scale_weights", "compression"),
    ),
    ("aggregator", "secagg", ("key_bits",)),
    ("aggregator", "paillier", ("threshold", "neighbors", "adversary")),
    *(("algorithm", algorithm.value, tuple(OF_ALGORITHMS - set(DEFAULTS[algorithm.value]))) for algorithm in Algorithm),
    *(("algorithm", name, ("sampling_rate", "deadline")) for name in ASYNCHRONOUS),
)


def simulate(
    context: typer.Context,
    dataset: Annotated[
        Dataset,
        typer.Option(
            help="Data to train on; mnist and faces need the extra `data`, synthetic is generated.",
            rich_help_panel=DATA,
        ),
    ] = Dataset.DIGITS,
    data: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Your own data instead of --dataset: a .csv file with one row for each example, or an .npz file with "
            "the arrays features (a row for each example) and labels.",
            rich_help_panel=DATA,
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help=with_default("With --data and a .csv file: the column that holds the class.", "the last one"),
            rich_help_panel=DATA,
        ),
    ] = None,
    model: Annotated[
        Model,
        typer.Option(
            help="A perceptron with one hidden layer (mlp), or logistic regression.", rich_help_panel=ALGORITHM
        ),
    ] = Model.MLP,
    hidden: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="With --model mlp: units of the hidden layer.", rich_help_panel=ALGORITHM
        ),
    ] = 32,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=with_default(
                "Number of clients. Up to 13, clients of digits hold whole writers; more share each class unevenly.",
                "50, or 10 with --data, or 300 with --privacy",
            ),
            rich_help_panel=DATA,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of training rounds.", rich_help_panel=ALGORITHM)] = 30,
    aggregator: Annotated[
        Protection, typer.Option(help="How the server gets the mean.", rich_help_panel=PROTOCOL)
    ] = Protection.SECAGG,
    algorithm: Annotated[
        Algorithm,
        typer.Option(
            help="How the server steps: by the mean (fedavg), with momentum (fedavgm), with a step size for each "
            "parameter (fedadagrad, fedadam, fedyogi). fedprox is fedavg with clients pulled back toward the model. "
            "fedbuff steps when some clients are ready, fedasync with each one (--aggregator plain only).",
            rich_help_panel=ALGORITHM,
        ),
    ] = Algorithm.FEDAVG,
    server_learning_rate: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            help=with_default(
                "Factor on the server's step; not allowed with fedasync.",
                "1, or 0.1 with fedadagrad, fedadam and fedyogi",
            ),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    server_momentum: Annotated[
        float | None,
        typer.Option(
            callback=fraction,
            help=with_default("With --algorithm fedavgm: how much of the last step is kept.", "0.5"),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    mu: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            help=with_default(
                "With --algorithm fedprox: how strongly clients are pulled back toward the round's model.", "0.01"
            ),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    buffer_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=with_default("With --algorithm fedbuff: the server steps when this many clients are ready.", "10"),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=with_default(
                "With --algorithm fedbuff or fedasync: how many clients train at the same time.",
                "20, or 10 with fedasync",
            ),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    staleness_exponent: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            help=with_default(
                "With --algorithm fedbuff or fedasync: an update is weighted by (1 + steps missed) ** -exponent.", "0.5"
            ),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    mixing: Annotated[
        float | None,
        typer.Option(
            max=1,
            callback=positive,
            help=with_default("With --algorithm fedasync: how far the model moves toward a client's model.", "0.3"),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    speed_spread: Annotated[
        float,
        typer.Option(
            callback=not_negative,
            help="How much clients differ in speed: standard deviation of the logarithm of their training times.",
            rich_help_panel=ALGORITHM,
        ),
    ] = 0.0,
    deadline: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            help=with_default(
                "How long a round waits for slow clients, in training times of the median client.", "none"
            ),
            rich_help_panel=ALGORITHM,
        ),
    ] = None,
    target: Annotated[
        float,
        typer.Option(
            callback=fraction, help="The run reports when it reached this accuracy.", rich_help_panel=ALGORITHM
        ),
    ] = 0.9,
    dropout: Annotated[
        float,
        typer.Option(
            callback=probability,
            help="Probability that a client drops out of a round, at a random stage.",
            rich_help_panel=PROTOCOL,
        ),
    ] = 0.1,
    threshold: Threshold = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=with_default(
                "How many neighbors each client shares masks with (even).",
                "all, or 28 with --privacy and more than 100 clients",
            ),
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    adversary: Annotated[
        AdversaryChoice, typer.Option(help="The server that secagg protects against.", rich_help_panel=PROTOCOL)
    ] = AdversaryChoice.SEMI_HONEST,
    key_bits: KeyBits = 3072,
    sampling_rate: Annotated[
        float,
        typer.Option(
            max=1, callback=positive, help="Probability that a client joins a round's cohort.", rich_help_panel=DATA
        ),
    ] = 1.0,
    alpha: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Smaller values give each client fewer classes (Dirichlet); digits needs more than 13 clients.",
            rich_help_panel=DATA,
        ),
    ] = 0.5,
    clip: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="Without --privacy, values of updates are clipped to [-clip, clip].",
            rich_help_panel=PROTOCOL,
        ),
    ] = 4.0,
    bits: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=32,
            help=with_default(
                "Bits of a rounded value. With few bits, also set --clip.",
                "16, or as few as 12 to keep the sum within 32 bits",
            ),
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    scale_weights: ScaleWeights = False,
    compression: Compression = "",
    privacy: PrivacyOption = PrivacyChoice.NONE,
    epsilon: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="With --privacy: budget of all rounds together; it sets the noise.",
            rich_help_panel=PRIVACY,
        ),
    ] = 3.0,
    delta: Annotated[
        float, typer.Option(callback=fraction, help="With --privacy: delta of the budget.", rich_help_panel=PRIVACY)
    ] = 1e-5,
    clip_norm: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="With --privacy: updates are scaled down to this Euclidean norm.",
            rich_help_panel=PRIVACY,
        ),
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Makes the run repeatable. It never determines secrets or noise.", rich_help_panel=OUTPUT
        ),
    ] = 0,
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the picture.", rich_help_panel=OUTPUT)
    ] = Path("secfed-run"),
    as_json: AsJson = False,
) -> None:
    """Train on a real data set under secure aggregation or Paillier encryption, and again in the clear to compare.

    With --privacy central or distributed, all rounds together spend at most --epsilon at --delta. With --privacy
    distributed there is a third run, in which the server adds the noise. With an algorithm other than fedavg there is
    also a run of plain fedavg. The default parameters of the algorithms were chosen for digits. An option that has no
    effect in the chosen mode is an error.

    --data takes own data. Every fifth row of each class is held out for the test. Columns are scaled to mean 0 and
    standard deviation 1.

    Examples:

    secfed simulate --clients 50 --rounds 30

    secfed simulate --data patients.csv --label-column diagnosis --model logistic

    secfed simulate --privacy distributed --epsilon 3

    secfed simulate --algorithm fedadam --adversary malicious_server --threshold 0.7
    """
    require("rich", "scikit-learn", "matplotlib")  # before the training
    from rich.console import Console

    from secfed.cli.simulation import display
    from secfed.cli.simulation.datasets import DIGIT_WRITERS
    from secfed.cli.simulation.picture import picture
    from secfed.cli.simulation.run import federation_of
    from secfed.cli.simulation.run import simulate as run
    from secfed.cli.simulation.settings import Settings

    settings = Settings.of(
        dataset=dataset.value,
        data=data,
        label_column=label_column,
        model=model.value,
        hidden=hidden,
        clients=clients,
        rounds=rounds,
        aggregator=aggregator.value,
        algorithm=algorithm.value,
        server_learning_rate=server_learning_rate,
        server_momentum=server_momentum,
        mu=mu,
        buffer_size=buffer_size,
        concurrency=concurrency,
        staleness_exponent=staleness_exponent,
        mixing=mixing,
        speed_spread=speed_spread,
        deadline=deadline,
        target=target,
        dropout=dropout,
        threshold=threshold,
        neighbors=neighbors,
        adversary=adversary.value,
        sampling_rate=sampling_rate,
        alpha=alpha,
        clip=clip,
        bits=bits,
        scale_weights=scale_weights,
        compression=compression,
        key_bits=key_bits,
        privacy=privacy.value,
        epsilon=epsilon,
        delta=delta,
        clip_norm=clip_norm,
        seed=seed,
    )
    chosen = {"privacy": privacy, "aggregator": aggregator, "algorithm": algorithm, "model": model}
    refuse_without_effect(context, _WITHOUT_EFFECT, {option: choice.value for option, choice in chosen.items()})
    given = given_options(context)
    if data is not None and "dataset" in given:
        raise typer.BadParameter("--dataset has no effect with --data")
    if label_column is not None and (data is None or data.suffix.lower() != ".csv"):
        raise typer.BadParameter("--label-column has an effect only with --data and a .csv file")
    if settings.source == "digits" and settings.clients <= DIGIT_WRITERS and "alpha" in given:
        raise typer.BadParameter(f"--alpha has no effect with --clients {settings.clients}")
    federation = federation_of(settings) if data else None  # before anything else: a user's data may be invalid
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SecFedError(f"cannot make the folder {output}: {error.strerror}") from None
    started = time.perf_counter()
    console = Console(stderr=True)
    for line in display.threshold_lines(settings):
        console.print(line, highlight=False)
    with display.live_table(settings, console) as (watch, step):
        outcome = run(settings, watch, step, federation)
    seconds = time.perf_counter() - started
    file = output / "accuracy.png"
    try:
        picture(outcome, file)
    except OSError as error:
        raise SecFedError(f"cannot write {file}: {error.strerror}") from None
    lines, found = display.summary(outcome, seconds, [str(file)]), outcome.to_json([str(file)])
    tell(SchemaName.SIMULATE, lines, found if as_json else None)
    if not outcome.sums:
        raise SecFedError(f"no round gave a mean; reason of the first: {outcome.records[0].failure}")
