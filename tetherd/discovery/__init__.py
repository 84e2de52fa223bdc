"""The distributed hash table as pure state machines: time, datagrams and randomness come in, datagrams go out."""
