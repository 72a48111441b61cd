"""What a person sees of a run: a growing table, a progress bar, a summary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secfed import paillier
from secfed.aggregation import SecAgg
from secfed.cli.simulation.outcome import Outcome, RoundRecord
from secfed.cli.simulation.settings import Settings
from secfed.dp.rounding import exact, up, up_to_hundredths
from secfed.secagg import Stage

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.table import Table

# Column heads: the stages' names, hyphenated so that all columns fit into 80.
_HEADS = {
    Stage.ADVERTISE_KEYS: "adver-\ntise\nkeys",
    Stage.SHARE_KEYS: "share\nkeys",
    Stage.MASKED_INPUT_COLLECTION: "masked\ninput",
    Stage.CONSISTENCY_CHECK: "consis-\ntency\ncheck",
    Stage.UNMASKING: "unmask-\ning",
    paillier.Stage.ENCRYPTED_INPUT_COLLECTION: "encryp-\nted\ninput",
    paillier.Stage.DECRYPTION: "decryp-\ntion",
}
# Lines that the table's head, its foot, the notes and the progress bars take.
_OTHER_LINES = 14
# With this many clients a round takes long enough for a bar of its own.
_MANY_CLIENTS = 1_000
# How often that bar moves in a stage.
_MOVES = 200


@contextmanager
def live_table(
    settings: Settings, console: "Console"
) -> Iterator[tuple[Callable[[RoundRecord], None], Callable[[str, int, int], None]]]:
    """Show rounds as they come; yields a function to call with each round, and one to call with each step of a client.

    During the run only the last rounds are shown, as many as the terminal has room for; at the end all are. Without a
    terminal, each round gets a line as soon as it is over, and the table comes at the end. With 1,000 clients or more
    there is also a bar for the clients in the current stage or, without a terminal, a line for each stage that is over.
    """
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("rounds, left"),
        TimeRemainingColumn(),
    )
    clients = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("clients")
    )
    view = _View(settings, console, [], progress, progress.add_task("training", total=settings.rounds), clients)
    if not console.is_terminal:
        try:
            yield view.add, view.step
        finally:
            view.running = False
            console.print(view)
        return
    with Live(view, console=console) as live:
        try:
            yield view.add, view.step
        finally:
            view.running = False
            live.vertical_overflow = "visible"


@dataclass
class _View:
    """The table and the bar below it, drawn again at each refresh."""

    settings: Settings
    console: "Console"
    records: list[RoundRecord]
    progress: "Progress"
    task: "TaskID"
    clients: "Progress"
    running: bool = True

    def add(self, record: RoundRecord) -> None:
        self.records.append(record)
        self.progress.advance(self.task)
        if not self.console.is_terminal:
            line = round_line(self.settings, record)
            self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)  # flushes

    def step(self, what: str, done: int, clients: int) -> None:
        """Move the bar of the clients, or say that all of them are done."""
        if self.settings.clients < _MANY_CLIENTS or (done % max(1, clients // _MOVES) and done < clients):
            return
        text = f"round {len(self.records) + 1}, {what.lower().replace('_', ' ')}"
        if self.console.is_terminal:
            if not self.clients.tasks:
                self.clients.add_task(text)
            self.clients.update(self.clients.task_ids[0], description=text, completed=done, total=clients)
        elif done == clients:
            self.console.print(f"{text}: {done:,} clients", highlight=False)

    def __rich__(self) -> "RenderableType":
        from rich.console import Group

        bars = Group(self.clients, self.progress) if self.clients.tasks else self.progress
        if not self.records:
            return bars if self.running else ""
        shown = self.records
        if self.running:
            shown = shown[-max(1, self.console.height - _OTHER_LINES) :]
        table = round_table(self.settings, shown)
        notes = [f"[red]round {record.number} failed:[/] {record.failure}" for record in shown if record.failure]
        if self.running:
            return Group(table, *notes[-1:], bars)
        return Group(table, *notes)


def round_line(settings: Settings, record: RoundRecord) -> str:
    """Say in one line how a round went."""
    parts = [f"accuracy {100 * record.accuracy:.2f} %"]
    parts.append(f"survivors {record.survivors} of {record.cohort}" if not record.failure else "failed")
    if record.epsilon is not None:
        parts.append(f"epsilon {up(record.epsilon, 4)}")
    line = f"round {record.number} of {settings.rounds}: {', '.join(parts)}"
    return f"{line} ({record.failure})" if record.failure else line


def threshold_lines(settings: Settings) -> list[str]:
    """Say how many can unmask a sum, if that is one number for all rounds; a fraction may have been raised."""
    if settings.aggregator != "secagg" or settings.sampling_rate < 1:
        return []
    aggregator = SecAgg(threshold=settings.threshold, neighbors=settings.neighbors, adversary=settings.adversary)
    threshold, neighbors = aggregator.graph(settings.clients)
    if threshold > (settings.clients if neighbors is None else neighbors):
        return []  # an error, which the run names
    holders = f"the {settings.clients} clients" if neighbors is None else f"each client's {neighbors} neighbors"
    return [f"threshold: {threshold} of {holders} can unmask the sum"]


def round_table(settings: Settings, records: list[RoundRecord]) -> "Table":
    """Lay rounds out as a table that fits a terminal of 80 columns."""
    from rich import box
    from rich.table import Table

    # With privacy there is no room for the stages as well.
    stages = () if settings.private else settings.timed_stages
    title = f"{settings.source}, {settings.clients} clients, {settings.algorithm} under {settings.protection}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left")
    heads = ["round", "accu-\nracy\n%"]
    heads += ["cen-\ntral\n%"] if settings.privacy == "distributed" else []
    heads += ["plain\n%"] if settings.protected else []
    heads += ["epsi-\nlon"] if settings.private else []
    heads += ["time"] if settings.timed else []
    for head in [*heads, "sur-\nvivors", "up\nkB", "down\nkB"]:
        table.add_column(head, justify="right", vertical="bottom")
    for stage in stages:
        table.add_column(f"{_HEADS[stage]}\nms", justify="right", vertical="bottom", style="cyan")
    table.add_column("round\ns", justify="right", vertical="bottom", style="cyan")
    for record in records:
        survivors = "[red]failed[/]" if record.failure else f"{record.survivors}/{record.cohort}"
        cells = [str(record.number), f"[bold]{100 * record.accuracy:.2f}[/]"]
        cells += [] if record.central_accuracy is None else [f"{100 * record.central_accuracy:.2f}"]
        cells += [f"{100 * record.plain_accuracy:.2f}"] if settings.protected else []
        cells += [] if record.epsilon is None else [up_to_hundredths(record.epsilon)]
        cells += [f"{record.time:.1f}"] if settings.timed else []
        cells += [survivors, _kilobytes(record.bytes_up_per_client), _kilobytes(record.bytes_down_per_client)]
        cells += [
            f"{1000 * record.stage_seconds[stage]:.0f}" if stage in record.stage_seconds else "-" for stage in stages
        ]
        table.add_row(*cells, f"{record.seconds:.2f}")
    return table


def summary(outcome: Outcome, seconds: float, files: list[str]) -> list[str]:
    """Say in a few lines how the run went."""
    settings, records = outcome.settings, outcome.records
    rounds = f"{len(records)} rounds of {settings.algorithm}"
    data = outcome.federation
    lines = [
        f"data: {settings.source}, {data.features} features, {data.classes} classes; clients hold {data.training_rows} "
        f"rows, {len(data.test[1])} rows are held out for the test (every fifth of each class)"
    ]
    lines += [f"accuracy {100 * outcome.accuracy:.2f} % after {rounds} under {settings.protection}, in {seconds:.1f} s"]
    if outcome.central_accuracy is not None:
        lines.append(f"with the same budget, noise from the server: {_beside(outcome, outcome.central_accuracy)}")
    if settings.protected:
        plain = _beside(outcome, outcome.plain_accuracy)
        lines.append(f"plain {settings.algorithm} with the same seed: {plain}")
        cause = "rounding" if outcome.same_survivors else "rounding, and rounds with other survivors than plain's"
        cause += ", clipping" if outcome.clipped_rounds or settings.private else ""
        cause += ", noise" if settings.private else ""
        cause += ", compression" if settings.compression else ""
        lines.append(f"largest difference of the two models: {outcome.max_model_difference:.1e} (from {cause})")
    lines.append(_reached(outcome))
    if outcome.fedavg_accuracy is not None:
        lines.append(_fedavg(outcome))
    if outcome.epsilon is not None:
        lines.append(_spent(outcome))
    counts = outcome.dropouts
    silent = ", ".join(f"{count} at {stage.name}" for stage, count in counts.items())
    if settings.aggregator != "secagg":
        silent = str(sum(counts.values()))
    lines.append(f"clients that dropped out: {silent}")
    if settings.deadline is not None:
        lines.append(f"clients that were late: {sum(record.late for record in records)}")
    if settings.aggregator == "plain":
        lines.append(f"the server saw every update in the clear, in {outcome.sums} rounds")
    else:
        noisy = ", the clients' noise in every sum," if settings.privacy == "distributed" else ""
        lines.append(f"the server saw {_sums(outcome)}{noisy} and no update of any client")
    if outcome.sums < len(records):
        lines.append(f"{len(records) - outcome.sums} of {len(records)} rounds failed and left the model as it was")
    if outcome.clipped_rounds:
        rounds = f"{outcome.clipped_rounds} of {len(records)} rounds"
        lines.append(f"values beyond clip {settings.clip:g} were clipped in {rounds}: a larger --clip changes less")
    return lines + [f"picture: {file}" for file in files]


def _reached(outcome: Outcome) -> str:
    """Say when the target was reached, and at what cost."""
    settings, reached = outcome.settings, outcome.reached
    goal = f"{100 * settings.target:g} % accuracy"
    if reached is None:
        return f"{goal} was not reached"
    time = f", at time {reached.time:.1f}" if settings.timed else ""
    return f"{goal} after round {reached.number}{time}, with {outcome.bytes_until(reached) / 1e6:.1f} MB of all clients"


def _fedavg(outcome: Outcome) -> str:
    """Say what plain FedAvg reached in the same rounds."""
    settings, reached, last = outcome.settings, outcome.fedavg_reached, outcome.records[-1]
    goal = f"{100 * settings.target:g} %"
    when = f"{goal} not reached" if reached is None else f"{goal} after round {reached.number}"
    if settings.timed and reached is not None:
        when += f", at time {reached.fedavg_time or 0.0:.1f}"
    cohort = f", {int(settings.parameters['concurrency'])} clients a round" if settings.asynchronous else ""
    return f"plain fedavg with the same clients{cohort}: {100 * (last.fedavg_accuracy or 0.0):.2f} %, {when}"


def _beside(outcome: Outcome, accuracy: float) -> str:
    return f"{100 * accuracy:.2f} % ({100 * (outcome.accuracy - accuracy):+.2f} points)"


def _spent(outcome: Outcome) -> str:
    settings = outcome.settings
    assert outcome.epsilon is not None
    assert outcome.noise_multiplier is not None
    against = "anyone who sees the models"
    if settings.privacy == "distributed":
        against = "the server, and anyone who sees the models"
    return (
        f"spent epsilon {up(outcome.epsilon, 4)} of {exact(settings.epsilon)} at delta {exact(settings.delta)}, "
        f"against {against} (noise multiplier {up(outcome.noise_multiplier, 4)}, clip {settings.clip_norm:g}; "
        f"{'its data are replaced' if settings.asynchronous else 'a client is there or not'})"
    )


def _sums(outcome: Outcome) -> str:
    counts = [record.survivors for record in outcome.records if not record.failure]
    if not counts:
        return "no sum"
    spread = str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"{len(counts)} sum{'s' if len(counts) > 1 else ''} of {spread} updates each"


def _kilobytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1000:.1f}"
