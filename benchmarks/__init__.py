"""Measures Tether beside its strongest peers and the limit, in one run on one machine."""
