"""Identity keys and rosters as files."""

from pathlib import Path

import pytest

from secfed.errors import ConfigError
from secfed.secagg.identities import create_identity, read_identity, read_roster


def test_identity_file_is_private_is_read_again_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    public = create_identity(path)
    assert path.stat().st_mode & 0o077 == 0
    assert read_identity(path).public_bytes.hex() == public
    content = path.read_bytes()
    with pytest.raises(FileExistsError):
        create_identity(path)
    assert path.read_bytes() == content


def test_roster_is_public_keys_by_client_id(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    path.write_text(f'{{"3": "{"ab" * 32}", "20": "{"cd" * 32}"}}')
    assert read_roster(path) == {3: b"\xab" * 32, 20: b"\xcd" * 32}


@pytest.mark.parametrize("text", ["", "[]", '{"1": "zz"}', '{"one": "00"}', '{"1": 5}', "null"])
def test_file_that_is_no_roster_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "roster.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"roster\.json is not a roster of identity keys"):
        read_roster(path)


@pytest.mark.parametrize("text", ["", "00", "secret words", "ab" * 33])
def test_file_that_is_no_identity_is_named_without_its_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "identity"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is not an identity key: ValueError$"):
        read_identity(path)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    for read in (read_identity, read_roster):
        with pytest.raises(ConfigError, match="absent cannot be read: FileNotFoundError; a relative path starts from"):
            read(tmp_path / "absent")
