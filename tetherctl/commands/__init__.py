"""One module a noun: each parses its arguments, calls the daemon and renders the answer."""
