"""The orchestrator: one queue per model version, handed out in batches to the runners that wait for work."""

from tetherd.roles.orchestrator.desk import Limits
from tetherd.roles.orchestrator.role import Orchestrator

__all__ = ["Limits", "Orchestrator"]
