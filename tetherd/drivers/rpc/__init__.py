"""Requests between processes and hosts: sockets, frames on them, who asks and who answers, the door for other hosts."""
