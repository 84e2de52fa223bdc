"""Connections that are made of two: at the relay, and at who asks for one."""
