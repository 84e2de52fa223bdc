"""The operating system: processes, files, clock, logs, databases, memory."""
