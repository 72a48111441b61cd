"""A ledger of releases: a file that refuses to overspend a privacy budget."""

from secfed.dp.ledger.file import Ledger
from secfed.dp.ledger.records import Entry

__all__ = ["Entry", "Ledger"]
