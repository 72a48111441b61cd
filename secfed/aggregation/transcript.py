"""Everything the server saw in a session, byte for byte: the only input of attacks and audits."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secfed.aggregation.compressed import Compressed
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transform import Decoded, Transform
from secfed.aggregation.weighted_mean import WeightedMean
from secfed.crypto.packing import unpack
from secfed.crypto.ring import signed
from secfed.encoding.flatten import Update, flatten, unflatten
from secfed.errors import EncodingError
from secfed.paillier import Config as PaillierConfig
from secfed.paillier import Stage as PaillierStage
from secfed.paillier.messages import EncryptedInputResponse
from secfed.secagg.config import Config
from secfed.secagg.messages import MaskedInputCollectionResponse
from secfed.secagg.stages import Stage

# Chance of calling a hidden update visible: one in a billion.
_SIGNIFICANCE = 1e-9
_FEWEST_VALUES = 64
# The server can read no entries in ciphertexts, so they are cut into words.
_WORD_BITS = 16
# In which stage a client's input comes.
_INPUT_STAGES = (Stage.MASKED_INPUT_COLLECTION, PaillierStage.ENCRYPTED_INPUT_COLLECTION)


AnyStage = Stage | PaillierStage | Literal["SURPLUS_NOISE"]
Direction = Literal["to_client", "to_server", "to_key_holder"]


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """One message between the server and a client, or a key holder (then `client_id` is its number).

    Args:
        stage: The stage in which it was sent.
        direction: Which way it went.
        client_id: The client, or the number of the key holder.
        data: Its bytes.
    """

    stage: AnyStage
    direction: Direction
    client_id: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resemblance:
    """How much one client's contribution, as the server saw it, looks like an update.

    Attributes:
        correlation: Pearson correlation with the update's values: 1 where the server saw it, about 0 where it did not.
        correlation_p_value: Chance of at least this correlation if the contribution is uniform noise.
        uniformity_p_value: Chi-square test that the contribution is uniform over the ring (of floats: 0, they are not).
    """

    correlation: float
    correlation_p_value: float
    uniformity_p_value: float

    @property
    def hidden(self) -> bool:
        """Whether the contribution cannot be told from uniform noise (wrong once in a billion times)."""
        return min(self.correlation_p_value, self.uniformity_p_value) > _SIGNIFICANCE


@dataclass
class Transcript:
    """What the server saw.

    Attributes:
        protection: `"plain"`, `"secagg"` or `"paillier"`.
        transform: The public encoding.
        config: The session's public parameters; None without a protocol. With secure aggregation, it and the
            messages' bytes number clients by their positions from 1, by ascending id.
        entries: Every message in order.
        total: What the server ends with, flat: the sum modulo `2**modulus_bits` (plain without privacy: the weighted
            sum in float64, then the sum of the weights). The clients' surplus noise is already subtracted; the server's
            own noise is not yet added.
        survivors: Ids of the clients in the sum.
    """

    protection: Literal["plain", "secagg", "paillier"]
    transform: Transform
    config: Config | PaillierConfig | None = None
    entries: list[RecordedMessage] = field(default_factory=list, repr=False)
    total: npt.NDArray[Any] | None = field(default=None, repr=False)
    survivors: tuple[int, ...] = ()

    def record(self, stage: AnyStage, direction: Direction, client_id: int, data: bytes) -> None:
        """Append one message.

        Args:
            stage: The stage in which it was sent.
            direction: Which way it went.
            client_id: The client, or the number of the key holder.
            data: Its bytes.
        """
        self.entries.append(RecordedMessage(stage, direction, client_id, data))

    def contribution(self, client_id: int) -> npt.NDArray[Any]:
        """Return the vector that a client sent, as the server can read it, without the entry of the weight.

        Args:
            client_id: The client.

        Returns:
            Plain: the update's values (with privacy: clipped, in units of the clip). SecAgg: the masked vector. Shape
            `(size,)`; with privacy `(length,)`, of a vector that may be rotated. Paillier: as many 16-bit words of the
            ciphertexts, which have no entries that the server could read.

        Raises:
            EncodingError: The client sent none.
        """
        for entry in self.entries:
            asked = any(entry.stage is stage for stage in _INPUT_STAGES) and entry.direction == "to_server"
            if asked and entry.client_id == client_id:
                private = self.transform.inner if isinstance(self.transform.inner, PrivateSum) else None
                if self.config is None and private:
                    steps = np.frombuffer(entry.data, private.dtype.newbyteorder("<"))
                    return private.lattice.decode(private.centre(steps))
                if self.config is None:
                    dtype = np.result_type(*self.transform.structure.dtypes)
                    if isinstance(self.transform, Compressed) and dtype != np.float32:
                        dtype = np.dtype(np.float64)
                    return np.frombuffer(entry.data, dtype.newbyteorder("<"), offset=8)
                if isinstance(self.config, PaillierConfig):
                    return self._words(self.config, entry.data)
                payload = MaskedInputCollectionResponse.from_bytes(entry.data).masked
                vector = unpack(payload, self.config.length, self.config.modulus_bits, self.config.dtype)
                return vector if private else vector[: self.transform.inner.structure.size]
        raise EncodingError(f"client {client_id} sent no input in this session")

    @property
    def _seen_bits(self) -> int | None:
        """Bits of an entry of a contribution; None if these are floats, or not hidden."""
        if isinstance(self.config, PaillierConfig):
            return _WORD_BITS
        return None if self.config is None else self.config.modulus_bits

    def readable(self, client_id: int) -> Update:
        """Return a client's contribution with the structure of an update, as an adversary would read it.

        Under a protection the message's bits are read as if they were an update's: the values are noise.

        Args:
            client_id: The client.

        Raises:
            EncodingError: The client sent none.
        """
        seen, inner = self.contribution(client_id), self.transform.inner
        if isinstance(inner, PrivateSum):
            steps = seen / inner.lattice.step if self.config is None else inner.centre(seen)
            seen = inner.values(np.rint(steps).astype(np.int64))
        if isinstance(inner, WeightedMean | ScaledMean):
            seen = _centred(seen, self._seen_bits) * (inner.fixed_point.clip / inner.fixed_point.levels)
        return self.transform.expanded(Decoded(unflatten(seen, inner.structure), 1.0)).mean

    def readable_mean(self) -> Update:
        """Return the mean that the server gets, before it adds its own noise.

        Raises:
            EncodingError: There is no sum.
        """
        return self._decoded().mean

    @property
    def weight(self) -> float:
        """What the sum is divided by to give the mean: the sum of the weights; with privacy, a number of clients.

        Raises:
            EncodingError: There is no sum.
        """
        return self._decoded().weight

    def _decoded(self) -> Decoded:
        if self.total is None:
            raise EncodingError("the session ended without a sum")
        transform, inner = self.transform, self.transform.inner
        if isinstance(inner, PrivateSum):
            return transform.expanded(inner.read(inner.centre(self.total)))
        return transform.decode(self.total, self.survivors)

    @property
    def key_holders(self) -> int:
        """How many parties, other than clients and server, took part in decrypting the sum."""
        return len({entry.client_id for entry in self.entries if entry.direction == "to_key_holder"})

    def _words(self, config: PaillierConfig, data: bytes) -> npt.NDArray[np.uint16]:
        """Cut ciphertexts into words; the top one of each is left out, because it is not uniform."""
        size = config.public_key.ciphertext_bytes(config.degree)
        column = np.frombuffer(EncryptedInputResponse.from_bytes(data).ciphertexts, np.uint8).reshape(-1, size)
        words = np.ascontiguousarray(column[:, : (size - 2) // 2 * 2]).view("<u2").reshape(-1)
        inner = self.transform.inner
        length = config.length if isinstance(inner, PrivateSum) else inner.structure.size
        return np.resize(words, length).astype(np.uint16)

    def resemblance(self, client_id: int, update: Update) -> Resemblance:
        """Compare a client's contribution, as the server saw it, with an update.

        Args:
            client_id: The client.
            update: The update that it may have sent.

        Raises:
            EncodingError: The client sent none, or the update has another structure or fewer than 64 values.
        """
        from scipy import stats  # slow to import, and needed only here

        update = self.transform.inside(update)
        if isinstance(self.transform.inner, PrivateSum):
            values = self.transform.inner.coordinates(update)
        else:
            values = flatten(update).astype(np.float64)
        seen = self.contribution(client_id)
        if len(values) < _FEWEST_VALUES:
            raise EncodingError(f"{len(values)} values are too few for this test, needed at least {_FEWEST_VALUES}")
        if len(values) != len(seen):
            raise EncodingError(
                f"the update has {len(values)} values, the contribution {len(seen)}: needed the same number"
            )
        bits = self._seen_bits
        # The values enter as ranks or as they are; against uniform noise the correlation is 0 either way.
        correlation, correlation_p = 0.0, 1.0
        if np.ptp(values) > 0:  # a constant update correlates with nothing
            correlation, correlation_p = stats.pearsonr(_centred(seen, bits), values)
        if bits is None:
            return Resemblance(float(correlation), float(correlation_p), 0.0)
        cells = min(8, bits)
        counts = np.bincount((seen >> np.array(bits - cells, seen.dtype)).astype(np.int64), minlength=1 << cells)
        if len(values) < 5 << cells:  # too few values for that many cells
            counts = counts.reshape(4, -1).sum(axis=1)
        return Resemblance(float(correlation), float(correlation_p), float(stats.chisquare(counts).pvalue))


def _centred(seen: npt.NDArray[Any], bits: int | None) -> npt.NDArray[np.float64]:
    """Read ring elements as signed numbers, floats as they are."""
    return np.asarray(seen if bits is None else signed(seen, bits), np.float64)
