"""Pairwise-masked secure aggregation: Bonawitz et al. 2017, and Bell et al. 2020 where a client has fewer neighbors
than there are others.

These are the parts, for those who own transport, identity keys and timeouts; `secfed.SecAgg` is the ready-made
aggregator.
"""

from secfed.crypto.signing import SigningKey
from secfed.secagg.client import Client
from secfed.secagg.config import Config, Policy
from secfed.secagg.messages import Abort
from secfed.secagg.parameters import Parameters, parameters
from secfed.secagg.server import Server
from secfed.secagg.session import Result, run_session
from secfed.secagg.stages import Stage

__all__ = [
    "Abort",
    "Client",
    "Config",
    "Parameters",
    "Policy",
    "Result",
    "Server",
    "SigningKey",
    "Stage",
    "parameters",
    "run_session",
]
