"""Primitives that know nothing of learning; ciphers, curves and key derivation are those of `cryptography`."""
