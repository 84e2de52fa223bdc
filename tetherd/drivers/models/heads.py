"""What a request for a blob says: its head, parsed within bounds."""

import httptools

from tetherd.errors import InvalidInput, TetherError


class Request:
    """One request's head as it is parsed."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.method = ""
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the path."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one that comes twice makes no sense here."""
        name = name.lower()
        self.headers[name] = self.headers[name] + b", " + value if name in self.headers else value

    def on_headers_complete(self) -> None:
        """Refuse what no request of ours has: a body."""
        if b"content-length" in self.headers or b"transfer-encoding" in self.headers:
            raise InvalidInput("a request for a blob has no body", fix="send none")

    def on_message_complete(self) -> None:
        """Note that the head is here."""
        self.complete = True
        self.method = self.parser.get_method().decode("ascii")


def parse(head: bytes) -> Request:
    """Return the request with this head, all of it. Raises InvalidInput."""
    request = Request()
    try:
        request.parser.feed_data(head)
    except httptools.HttpParserCallbackError as error:
        cause = error.__context__
        raise (cause if isinstance(cause, TetherError) else InvalidInput("the request is malformed")) from None
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        raise InvalidInput("the request is not HTTP/1.1") from None
    if not request.complete:
        raise InvalidInput("the request is malformed")
    return request
