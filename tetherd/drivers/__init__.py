"""Everything that touches the outside world; each driver implements a port or runs a loop."""
