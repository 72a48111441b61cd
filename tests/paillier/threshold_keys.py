"""Threshold keys for tests, made once for each process: they are too small to protect anything."""

from functools import cache

from secfed.paillier import KeyShare, ThresholdKey, deal_insecure


@cache
def dealt(threshold: int, holders: int, degree: int = 1) -> tuple[ThresholdKey, tuple[KeyShare, ...]]:
    return deal_insecure(512, holders=holders, threshold=threshold, degree=degree)
