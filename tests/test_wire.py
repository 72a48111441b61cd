"""Messages and bytes: there and back, one encoding for each message, and MalformedMessageError for all else."""

import inspect
import random
import tracemalloc
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import wire
from secfed.errors import MalformedMessageError
from secfed.secagg import messages, snapshot
from secfed.wire import Message, Pieces, layout
from tests.examples import examples

CLASSES = [
    value
    for module in (messages, snapshot)
    for value in vars(module).values()
    if inspect.isclass(value) and issubclass(value, Message) and value is not Message
]
ANY_CLASS = pytest.mark.parametrize("message_type", CLASSES, ids=lambda message_type: message_type.__name__)


def any_message(message_type: type[Message], most: int = 40) -> st.SearchStrategy[Message]:
    def value(size: int | None) -> st.SearchStrategy[bytes]:
        return st.binary(max_size=most) if size is None else st.binary(min_size=size, max_size=size)

    return st.builds(message_type, **{name: value(size) for name, size in layout(message_type)})


def sample(message_type: type[Message]) -> Message:
    chance = random.Random(message_type.kind)
    return message_type(**{name: chance.randbytes(5 if size is None else size) for name, size in layout(message_type)})


def test_all_messages_are_here_and_no_two_have_one_kind() -> None:
    names = {message_type.__name__ for message_type in CLASSES}
    assert {"AdvertiseKeysRequest", "UnmaskingResponse", "Abort", "SavedServer", "SavedClient"} <= names
    assert len({message_type.kind for message_type in CLASSES}) == len(CLASSES)
    assert all(0 < message_type.kind < 256 for message_type in CLASSES)


@ANY_CLASS
def test_message_cannot_be_changed(message_type: type[Message]) -> None:
    message = sample(message_type)
    with pytest.raises(FrozenInstanceError):
        setattr(message, fields(message)[0].name, b"")  # type: ignore[arg-type]
    assert not hasattr(message, "__dict__")


@pytest.mark.sampled(3)
@examples(10, 30)
@given(st.data())
@ANY_CLASS
def test_message_comes_back_from_its_bytes(message_type: type[Message], data: st.DataObject) -> None:
    message = data.draw(any_message(message_type))
    encoded = message.to_bytes()
    decoded = message_type.from_bytes(encoded)
    assert decoded == message
    assert decoded.to_bytes() == encoded
    assert wire.kind_of(encoded) == message_type.kind
    variable = [len(getattr(message, name)) for name, size in layout(message_type) if size is None]
    assert message_type.size(*variable) == len(encoded)


def test_bytes_are_those_of_the_specification() -> None:
    @dataclass(frozen=True, slots=True)
    class Example(Message):
        kind: ClassVar[int] = 77
        head: Annotated[bytes, 3]
        text: bytes
        tail: Annotated[bytes, 1]
        rest: bytes

    message = Example(b"abc", b"hello", b"!", b"")
    assert message.to_bytes() == b"\x01\x4dabc" + b"\x05\0\0\0hello" + b"!" + b"\0\0\0\0"
    assert Example.from_bytes(message.to_bytes()) == message
    assert layout(Example) == (("head", 3), ("text", None), ("tail", 1), ("rest", None))
    assert Example.size(5, 0) == 2 + 3 + 4 + 5 + 1 + 4


@ANY_CLASS
def test_field_of_fixed_length_takes_no_other(message_type: type[Message]) -> None:
    for name, size in layout(message_type):
        if size is not None:
            values = {other: getattr(sample(message_type), other) for other, _ in layout(message_type)}
            for wrong in (b"", bytes(size - 1), bytes(size + 1)):
                with pytest.raises(ValueError, match=f"{name} has {len(wrong)} bytes, needs {size}"):
                    message_type(**{**values, name: wrong}).to_bytes()


@ANY_CLASS
def test_message_cut_at_any_byte_is_refused(message_type: type[Message]) -> None:
    encoded = sample(message_type).to_bytes()
    for size in range(len(encoded)):
        with pytest.raises(MalformedMessageError) as caught:
            message_type.from_bytes(encoded[:size])
        assert 0 <= caught.value.offset <= size
        assert caught.value.check == "C1"


@ANY_CLASS
@pytest.mark.parametrize("extra", [b"\0", b"\1\1", bytes(100)], ids=["one", "two", "many"])
def test_bytes_after_the_end_are_refused(message_type: type[Message], extra: bytes) -> None:
    encoded = sample(message_type).to_bytes()
    with pytest.raises(MalformedMessageError, match=f"{len(extra)} bytes after the end") as caught:
        message_type.from_bytes(encoded + extra)
    assert caught.value.offset == len(encoded)


@ANY_CLASS
def test_other_versions_are_refused(message_type: type[Message]) -> None:
    encoded = sample(message_type).to_bytes()
    for version in set(range(256)) - {wire.VERSION}:
        with pytest.raises(MalformedMessageError, match=f"protocol version {version}") as caught:
            message_type.from_bytes(bytes([version]) + encoded[1:])
        assert caught.value.offset == 0


@pytest.mark.sampled(3)
@ANY_CLASS
def test_other_kinds_are_refused(message_type: type[Message]) -> None:
    encoded = sample(message_type).to_bytes()
    for kind in set(range(256)) - {message_type.kind}:
        with pytest.raises(MalformedMessageError, match=f"kind {kind}, needed {message_type.__name__}") as caught:
            message_type.from_bytes(encoded[:1] + bytes([kind]) + encoded[2:])
        assert caught.value.offset == 1


@ANY_CLASS
def test_length_that_claims_four_gigabytes_allocates_nothing(message_type: type[Message]) -> None:
    variable = [name for name, size in layout(message_type) if size is None]
    for name in variable:
        encoded = b"\x01" + bytes([message_type.kind])
        for other, size in layout(message_type):
            if other == name:
                encoded += b"\xff\xff\xff\xff" + bytes(10)
                break
            encoded += bytes(4) if size is None else bytes(size)
        tracemalloc.start()
        with pytest.raises(MalformedMessageError, match="needs 4294967295 bytes, 10 are left"):
            message_type.from_bytes(encoded)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000


@pytest.mark.sampled(3)
@examples(10, 100)
@given(st.binary(max_size=200), st.booleans())
@ANY_CLASS
def test_random_bytes_are_a_message_with_this_one_encoding_or_malformed(
    message_type: type[Message], data: bytes, with_header: bool
) -> None:
    if with_header:
        data = bytes((wire.VERSION, message_type.kind)) + data
    try:
        message = message_type.from_bytes(data)
    except MalformedMessageError:
        return
    assert message.to_bytes() == data


@pytest.mark.sampled(3)
@examples(8, 60)
@given(st.data())
@ANY_CLASS
def test_altered_message_is_a_message_with_this_one_encoding_or_malformed(
    message_type: type[Message], data: st.DataObject
) -> None:
    encoded = bytearray(data.draw(any_message(message_type, 10)).to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    try:
        message = message_type.from_bytes(bytes(encoded))
    except MalformedMessageError:
        return
    assert message.to_bytes() == encoded


@given(st.binary(max_size=1) | st.binary(max_size=10))
def test_kind_of_any_bytes_is_a_byte_or_malformed(data: bytes) -> None:
    try:
        kind = wire.kind_of(data)
    except MalformedMessageError:
        assert len(data) < 2 or data[0] != wire.VERSION
    else:
        assert kind == data[1]


def test_text_of_the_error_says_what_is_missing_and_where() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        messages.AdvertiseKeysRequest.from_bytes(b"\x01\x01" + bytes(33))
    assert str(caught.value) == "C1: AdvertiseKeysRequest ends too early: config_hash needs 32 bytes, 1 are left"
    assert caught.value.offset == 34


@given(st.lists(st.binary(max_size=5)), st.binary(max_size=9))
def test_message_with_a_field_in_pieces_has_the_same_bytes(parts: list[bytes], other: bytes) -> None:
    whole = messages.MaskedInputCollectionResponse(bytes(32), other, b"".join(parts))
    pieces: Any = Pieces(len(whole.masked), parts)
    message = messages.MaskedInputCollectionResponse(bytes(32), other, pieces)
    assert message.encoded_bytes == len(whole.to_bytes())
    assert message.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("size", [4, 6])
def test_pieces_of_another_size_than_announced_are_refused(size: int) -> None:
    message = messages.Abort(Pieces(size, [b"ab", b"cde"]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"5 bytes, {size} were announced"):
        message.to_bytes()


def test_only_a_field_too_long_to_copy_stays_in_the_callers_buffer() -> None:
    data = bytearray(messages.MaskedInputCollectionResponse(b"s" * 32, b"u", b"masked").to_bytes())
    message = messages.MaskedInputCollectionResponse.from_bytes(memoryview(data))
    data[:] = bytes(len(data))
    assert (message.session_id, message.unopened) == (b"s" * 32, b"u")
    assert bytes(message.masked) == bytes(6)
