"""The gateway role: the HTTP surface of a network, over the orchestrator and the manager it calls."""
