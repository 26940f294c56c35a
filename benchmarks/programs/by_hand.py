"""What the floors share: a socket, and packets of whole lines."""

import socket


def wire(port: str) -> socket.socket:
    """A socket to the receiver."""
    found = socket.socket(type=socket.SOCK_DGRAM)
    found.connect(("127.0.0.1", int(port)))
    return found


def send(to: socket.socket, text: str) -> None:
    """Send lines in packets of at most 1,400 bytes."""
    data, at = text.encode(), 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + 1401) if len(data) - at > 1400 else len(data)
        to.send(data[at:end])
        at = end + 1
