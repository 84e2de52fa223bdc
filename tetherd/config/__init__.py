"""Typed settings: one schema, parsed strictly."""
