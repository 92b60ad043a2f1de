"""HTTP/2 by hand, for clients that do what no library would: frames of any kind, cut, too large or never read.

    with http2.Wire(node) as wire:
        wire.begin()
        wire.headers(1, http2.request("/streamit.v1.StreamIt/Fetch"))
        wire.data(1, http2.message(b"..."), end=True)
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
WINDOW_MOST = (1 << 31) - 1


def frame(kind, flags, stream, payload=b"", length=None):
    """One frame; `length` lies about its length."""
    size = struct.pack(">I", len(payload) if length is None else length)[1:]
    return size + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**kwargs):
    """initial_window=...: SETTINGS_INITIAL_WINDOW_SIZE."""
    rows = [(4, kwargs["initial_window"])] if "initial_window" in kwargs else []
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", k, v) for k, v in rows))


def number(value, bits, first=0):
    """An integer of HPACK behind a prefix of `bits` bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def field(name, value):
    """A header as a literal that is not indexed."""
    name, value = name.encode(), value.encode() if isinstance(value, str) else value
    return b"\0" + number(len(name), 7) + name + number(len(value), 7) + value


def request(path, more=()):
    """The headers of a gRPC call."""
    rows = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"), ("te", "trailers"),
            ("content-type", "application/grpc"), *more]
    return b"".join(field(n, v) for n, v in rows)


def message(payload, length=None):
    """A message of gRPC; `length` lies about its length."""
    return b"\0" + struct.pack(">I", len(payload) if length is None else length) + payload


class Wire:
    """One TCP connection. Sending gives up quietly when the server has gone or reads no more."""

    def __init__(self, address, timeout=5, receive_buffer=None):
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((host, int(port)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        """@return False: the server takes no more"""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def begin(self, **kwargs):
        return self.send(PREFACE + settings(**kwargs) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MOST - 65535)))

    def headers(self, stream, block, end=False):
        return self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))

    def data(self, stream, payload, end=False):
        """In frames of the size that every peer takes; the server's windows are not minded."""
        rows = [payload[i : i + 16384] for i in range(0, len(payload), 16384)] or [b""]
        return self.send(b"".join(frame(DATA, END_STREAM if end and i == len(rows) - 1 else 0, stream, row)
                                  for i, row in enumerate(rows)))

    def ended(self, timeout=30):
        """Does the server close the connection?"""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
            return True
        except TimeoutError:
            return False
        except OSError:
            return True
