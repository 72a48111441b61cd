"""What one view gives away: attacks and audits, which know no defence.

An attack is given what the adversary saw, never the secret; an audit is given a way to run the real thing.
"""

from secfed.attacks.audit import AuditResult, audit
from secfed.attacks.canaries import Check, SelfAudit, self_audit

__all__ = ["AuditResult", "Check", "SelfAudit", "audit", "self_audit"]
