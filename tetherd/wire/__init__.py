"""Bytes to messages and back; pure, and the only place that knows an encoding."""
