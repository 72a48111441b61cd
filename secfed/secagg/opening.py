"""From the holders' shares back to secrets, many owners at once. Wrong shares are found and their senders named."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secfed.crypto import shamir
from secfed.crypto.agreement import KeyPair, parse
from secfed.crypto.field import Elements
from secfed.errors import FaultyClientError, TooFewSurvivorsError
from secfed.secagg import binding
from secfed.secagg.config import Config
from secfed.secagg.stages import Stage
from secfed.secagg.states import Collecting, Opening
from secfed.wire import Set, set_from_bytes

# Field elements in a batch of owners, with their coordinates' differences, to bound memory.
_BATCH_ELEMENTS = 1 << 22


def unopened_sets(state: Collecting) -> dict[int, Set]:
    """Return, for holders that could not open some owners' shares, those owners."""
    return {i: set_from_bytes(data, len(state.shared)) for i, data in state.unopened.items()}


def owners_held(state: Collecting, holder: int, unopened: Set | None) -> npt.NDArray[np.intp]:
    """Return the clients whose shares a holder has, ascending."""
    held = state.graph.holders(holder)  # the same relation both ways
    held = held[state.shared[held]]
    return held if unopened is None else held[~unopened[held]]


def check_enough(config: Config, stage: Stage, found: int, advertised: int) -> None:
    """Check that enough clients are left when a stage closes.

    Args:
        config: The session's parameters.
        stage: The stage.
        found: How many are left.
        advertised: How many advertised keys.

    Raises:
        TooFewSurvivorsError: Fewer are left than the threshold, or too few to sign the survivors.
    """
    threshold = config.threshold
    # Unmasking needs fewer clients: they have all signed before.
    if config.session_colluders is not None and stage is not Stage.UNMASKING:
        threshold = max(threshold, config.signers_needed(advertised))
    if found < threshold:
        raise TooFewSurvivorsError(
            f"{found} clients are left after {stage.name}, {threshold} are needed", found, threshold
        )


def check_openable(config: Config, stage: Stage, state: Collecting, remaining: Set) -> None:
    """Check that enough clients are left, and that each client that shared has as many holders as the threshold.

    Otherwise that client's masks would stay in the sum.

    Args:
        config: The session's parameters.
        stage: The stage that closes.
        state: Which clients shared, and which hold their shares.
        remaining: The holders that are left.

    Raises:
        FaultyClientError: S16, more holders could not open a client's shares than may collude, and more than one.
        TooFewSurvivorsError: Too few clients are left, or a client has too few holders left for another reason.
    """
    check_enough(config, stage, int(remaining.sum()), int(state.advertised.sum()))
    graph, unopened = state.graph, unopened_sets(state)
    suspects = {owner for owners in unopened.values() for owner in np.flatnonzero(owners).tolist()}
    for owner in sorted({*graph.short(state.shared, remaining, config.threshold), *suspects}):
        holders = graph.holders(owner)
        holders = holders[remaining[holders]]
        accusers = [holder for holder in holders.tolist() if holder in unopened and unopened[holder][owner]]
        left, client_id = len(holders) - len(accusers), config.client_ids[owner]
        if left >= config.threshold:
            continue
        text = f"client {client_id} has {left} holders left, the threshold is {config.threshold}"
        if accusers:
            ids = ", ".join(str(config.client_ids[holder]) for holder in accusers[:5])
            text += f"; {len(accusers)} could not open its shares: {ids}"
        if len(accusers) >= max(2, config.colluders + 1):  # S16
            raise FaultyClientError(text, client_id, "S16")
        raise TooFewSurvivorsError(text, left, config.threshold)


class _Accepts(Protocol):
    def __call__(self, owner: int, secret: bytes) -> bool: ...


class Opener:
    """Combines the shares of one session.

    Args:
        config: The session's parameters.
        state: Who shared, who is in the sum, and the holders' answers.
        unmaskers: The holders that answered.
        faults: Where holders whose shares are found wrong are listed.
    """

    def __init__(self, config: Config, state: Opening, unmaskers: Set, faults: list[FaultyClientError]) -> None:
        self._config, self._collected, self._survivors = config, state.collected, state.survivors
        # One share for each owner whose shares a holder has, ascending.
        self._shares = {i: np.frombuffer(data, "<u4").reshape(-1, shamir.LIMBS) for i, data in state.shares.items()}
        self._unmaskers = np.flatnonzero(unmaskers).tolist()
        self._unopened = unopened_sets(state.collected)
        self._liars: set[int] = set()
        self._faults = faults

    def masks(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yield the seeds of the masks left in the sum, as the survivors added and subtracted them.

        Raises:
            FaultyClientError: S12 or S13, before anything is yielded.
        """
        survivors, keys, session_id = self._survivors, self._collected.mask_keys, self._collected.session_id
        ids = self._config.client_ids
        dropouts = np.flatnonzero(self._collected.shared & ~survivors).tolist()
        members = np.flatnonzero(survivors).tolist()
        pairs = self.mask_keys({position: keys[position] for position in dropouts})
        seeds = self.self_seeds(members)
        yield [binding.self_mask_seed(session_id, ids[position], seeds[position]) for position in members], []
        parsed = {position: parse(keys[position]) for position in members} if dropouts else {}
        for position in dropouts:
            added: list[bytes] = []
            subtracted: list[bytes] = []
            neighbors = self._collected.graph.neighbors(position)
            for survivor in neighbors[survivors[neighbors]].tolist():
                seed = binding.pair_seed(pairs[position], parsed[survivor], session_id, ids[position], ids[survivor])
                # The lower id added it.
                (added if survivor < position else subtracted).append(seed)
            yield added, subtracted

    def mask_keys(self, public_keys: Mapping[int, bytes]) -> dict[int, KeyPair]:
        """Combine the mask keys of dropouts, by position.

        Raises:
            FaultyClientError: S12, an owner's shares give no key that matches its public key.
        """
        pairs: dict[int, KeyPair] = {}

        def accepts(owner: int, secret: bytes) -> bool:
            pairs[owner] = KeyPair(secret)
            return pairs[owner].public_bytes == public_keys[owner]

        self._open(list(public_keys), accepts, "S12")
        return pairs

    def self_seeds(self, owners: Sequence[int]) -> dict[int, bytes]:
        """Combine the self seeds of survivors, by position.

        Raises:
            FaultyClientError: S13, an owner's shares give no seed that opens its commitment.
        """

        def accepts(owner: int, secret: bytes) -> bool:
            found = binding.commitment(self._collected.session_id, self._config.client_ids[owner], secret)
            return found == self._collected.commitments[owner]

        return self._open(owners, accepts, "S13")

    def _open(self, owners: Sequence[int], accepts: _Accepts, check: str) -> dict[int, bytes]:
        opened: dict[int, bytes] = {}
        size = max(1, _BATCH_ELEMENTS // (self._config.threshold * max(shamir.LIMBS, self._config.threshold)))
        if self._config.complete:  # all owners have the same coordinates: one set of weights for all
            size = max(1, _BATCH_ELEMENTS // (self._config.threshold * shamir.LIMBS))
        pending = list(owners)
        while pending:
            batch = np.array(pending[:size], np.intp)
            points, shares = self._first_shares(batch)
            same = bool((points == points[0]).all())
            weights = shamir.lagrange_weights(points[0] if same else points)
            done = 0
            for owner, limbs in zip(batch.tolist(), shamir.combine(weights, shares), strict=True):
                done += 1
                secret = shamir.from_limbs(limbs)
                if secret is None or not accepts(owner, secret):
                    opened[owner] = self._repair(owner, accepts, check)
                    break  # the rest of the batch is combined again, without the liars
                opened[owner] = secret
            pending = pending[done:]
        return opened

    def _first_shares(self, owners: npt.NDArray[np.intp]) -> tuple[Elements, Elements]:
        """Return, for each owner, coordinates and shares of the first holders that answered, up to the threshold."""
        threshold = self._config.threshold
        points = np.zeros((len(owners), threshold), np.uint64)
        shares = np.zeros((len(owners), threshold, shamir.LIMBS), np.uint64)
        counts = np.zeros(len(owners), np.intp)
        row = np.full(len(self._collected.shared), -1, np.intp)
        row[owners] = np.arange(len(owners))
        for holder, held in self._held():
            rows = row[held]
            slots = np.flatnonzero(rows >= 0)
            slots = slots[counts[rows[slots]] < threshold]
            rows = rows[slots]
            points[rows, counts[rows]] = self._config.client_ids[holder]
            shares[rows, counts[rows]] = self._shares[holder][slots]
            counts[rows] += 1
        return points, shares

    def _held(self) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        """Yield each holder that answered with the owners whose shares it holds, in the order of its answer; liars
        last.
        """
        for holder in sorted(self._unmaskers, key=lambda holder: holder in self._liars):
            yield holder, owners_held(self._collected, holder, self._unopened.get(holder))

    def _repair(self, owner: int, accepts: _Accepts, check: str) -> bytes:
        """Combine one secret although some shares are wrong, and name the clients that sent those."""
        holders, rows = [], []
        for holder, held in self._held():
            slot = int(np.searchsorted(held, owner))
            if slot < len(held) and held[slot] == owner:
                holders.append(holder)
                rows.append(self._shares[holder][slot])
        points = self._config.ids[holders].astype(np.uint64)
        shares = np.array(rows, np.uint64)
        threshold, client_id = self._config.threshold, self._config.client_ids[owner]
        wrong = shamir.find_wrong(points, shares, threshold)
        if wrong is not None:
            right = np.flatnonzero(~wrong)[:threshold]
            secret = shamir.from_limbs(shamir.combine(shamir.lagrange_weights(points[right]), shares[right]))
            if secret is not None and accepts(owner, secret):
                self._blame([holders[i] for i in np.flatnonzero(wrong).tolist()], client_id, check)
                return secret
        found = f"the shares of client {client_id} do not combine to the secret that it committed to"
        raise FaultyClientError(
            f"{found}: it dealt wrong ones, or too many of its {len(holders)} holders lie", client_id, check
        )

    def _blame(self, holders: list[int], owner_id: int, check: str) -> None:
        """Name holders of wrong shares. From now on their shares are used only if the others' are too few."""
        for holder in holders:
            if holder not in self._liars:
                client_id = self._config.client_ids[holder]
                text = f"client {client_id} sent a wrong share of client {owner_id}'s secret, or was dealt one"
                self._faults.append(FaultyClientError(text, client_id, check))
                self._liars.add(holder)
