"""The HTTP/1.1 server that faces applications and operators."""
