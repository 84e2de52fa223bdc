"""Plain TCP: listeners that strangers come to, mutual TLS over them, and races of addresses to dial."""
