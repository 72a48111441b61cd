"""Attacks and audits: what an adversary can learn from what it saw.

An attack gets what the adversary saw, never the secret. An audit gets a way to run the real pipeline. Neither knows
which defense is in place.
"""

from secfed.attacks.audit import AuditResult, audit
from secfed.attacks.canaries import SelfAudit, self_audit
from secfed.attacks.checks import Check
from secfed.attacks.differencing import difference
from secfed.attacks.exact import ExactInputs, exact_inputs
from secfed.attacks.inversion import CrossEntropy, Inversion, inversion
from secfed.attacks.labels import label, label_counts
from secfed.attacks.linear import linear_candidates, linear_inputs
from secfed.attacks.masks import Like, SeedSearch, Unmasked, reused_mask, weak_seed, without_self_mask
from secfed.attacks.membership import MembershipResult, confidences, lira, loss_attack, roc, update_alignment
from secfed.attacks.metrics import Interval, mse, psnr, ssim
from secfed.attacks.networks import Network
from secfed.attacks.shadow_models import draw_membership, train_shadows
from secfed.attacks.uniformity import Uniformity, uniformity
from secfed.attacks.views import View

__all__ = [
    "AuditResult",
    "Check",
    "CrossEntropy",
    "ExactInputs",
    "Interval",
    "Inversion",
    "Like",
    "MembershipResult",
    "Network",
    "SeedSearch",
    "SelfAudit",
    "Uniformity",
    "Unmasked",
    "View",
    "audit",
    "confidences",
    "difference",
    "draw_membership",
    "exact_inputs",
    "inversion",
    "label",
    "label_counts",
    "linear_candidates",
    "linear_inputs",
    "lira",
    "loss_attack",
    "mse",
    "psnr",
    "reused_mask",
    "roc",
    "self_audit",
    "ssim",
    "train_shadows",
    "uniformity",
    "update_alignment",
    "weak_seed",
    "without_self_mask",
]
