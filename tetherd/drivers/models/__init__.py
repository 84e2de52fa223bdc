"""Model files and what is known of them: stored, looked into, fetched from other hosts, laid out for an engine."""
