"""Vectors of Project Wycheproof through our wrappers, class by class (`wycheproof/SOURCE.md`)."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from secfed.crypto import aead, agreement, signing

FOLDER = Path(__file__).parent / "wycheproof"
P = 2**255 - 19


def vectors_of(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def test_x25519_is_right_and_low_order_or_non_canonical_keys_are_not_sound() -> None:
    counts: Counter[str] = Counter()
    for test in vectors_of("x25519"):
        public, flags = bytes.fromhex(test["public"]), test["flags"]
        pair = agreement.KeyPair(bytes.fromhex(test["private"]))
        canonical, low = int.from_bytes(public, "little") < P, "ZeroSharedSecret" in flags
        assert agreement.is_sound(public) is (canonical and not low), test["tcId"]
        if low:
            with pytest.raises(ValueError, match="shared key"):
                pair.agree(public, salt=b"salt", info=b"info")
        else:
            expected = agreement.derive(bytes.fromhex(test["shared"]), b"salt", b"info", 32)
            assert pair.agree(public, salt=b"salt", info=b"info") == expected, test["tcId"]
        counts[f"{'' if canonical else 'not '}canonical, {'low order' if low else test['result']}"] += 1
    assert counts == {
        "canonical, valid": 264,
        "canonical, acceptable": 210,  # on the twist
        "canonical, low order": 15,
        "not canonical, low order": 16,
        "not canonical, acceptable": 13,
    }


def test_ed25519_signatures_verify_exactly_where_they_are_valid() -> None:
    counts: Counter[str] = Counter()
    for test in vectors_of("ed25519"):
        public, signature, message = (bytes.fromhex(test[name]) for name in ("pk", "sig", "msg"))
        assert signing.is_sound(public), test["tcId"]
        assert signing.verify(public, signature, message) is (test["result"] == "valid"), test["tcId"]
        counts[test["result"]] += 1
    assert counts == {"valid": 88, "invalid": 63}


def test_aes_gcm_opens_exactly_what_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    for test in vectors_of("aes_gcm"):
        key, nonce, data, text = (bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg"))
        sealed = bytes.fromhex(test["ct"] + test["tag"])
        monkeypatch.setattr(aead, "_NONCE", nonce)  # ours is always zero
        counts[test["flags"][0] if test["result"] == "invalid" else "valid"] += 1
        if test["result"] == "valid":
            assert aead.open(key, sealed, data) == text, test["tcId"]
            assert aead.seal(key, text, data) == sealed, test["tcId"]
        else:
            # An empty nonce is refused by `cryptography`.
            with pytest.raises(aead.OpenError if nonce else ValueError):
                aead.open(key, sealed, data)
    assert counts == {"valid": 40, "ModifiedTag": 27, "ZeroLengthIv": 2}


def test_hkdf_sha256_is_right_up_to_8160_bytes() -> None:
    counts: Counter[str] = Counter()
    for test in vectors_of("hkdf_sha256"):
        given = (*(bytes.fromhex(test[name]) for name in ("ikm", "salt", "info")), test["size"])
        if test["result"] == "valid":
            assert agreement.derive(*given).hex() == test["okm"], test["tcId"]
        else:
            with pytest.raises(ValueError, match="8160"):
                agreement.derive(*given)
        counts[test["result"]] += 1
    assert counts == {"valid": 83, "invalid": 3}
