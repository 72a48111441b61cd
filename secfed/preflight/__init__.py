"""Check a plan before anyone enrolls: would it work, what would work instead, and what does a round cost?

`plan.py` defines a plan. `feasibility.py` finds every reason to refuse it, with `ranges.py`, `budget.py` and
`dropout_risk.py`; `suggestions.py` looks for changes that make it acceptable; `costs.py` computes bytes and seconds;
`outcome.py` combines the results.
"""

from secfed.preflight.costs import Costs, StageCost
from secfed.preflight.feasibility import Found, Problem
from secfed.preflight.outcome import Preflight, preflight
from secfed.preflight.plan import Plan
from secfed.preflight.suggestions import Suggestion

__all__ = ["Costs", "Found", "Plan", "Preflight", "Problem", "StageCost", "Suggestion", "preflight"]
