"""One bounded HTTP exchange with an OpenAI-compatible server: total time, bytes, no redirects, no proxies."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from anatrust.errors import InputError

__all__ = ["Endpoint", "ExchangeError", "is_here"]


class ExchangeError(Exception):
    """The server gave no usable answer; ``again`` says whether asking once more may help."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class Endpoint:
    """Where the chat-completions API is and how to be let in.

    Parameters
    ----------
    url
        Base URL as for other clients, such as ``http://127.0.0.1:8080/v1``.
    key_file
        File whose first line is the key. A key is never an argument, so that it cannot end up in
        a shell's history, a process list or ``run.json``.
    keyring
        Service and user under which the system's keyring holds the key; needs the package ``keyring``.

    Raises
    ------
    InputError
        If the URL is none, holds a user, a password or a query, or would send a key unencrypted
        to another machine.
    """

    url: str
    key_file: Path | None = None
    keyring: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port_fits = parts.port is None or parts.port > 0
        except ValueError:
            raise InputError("the server's URL cannot be read: give one like http://127.0.0.1:8080/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
            raise InputError("the server's URL cannot be used: give one like http://127.0.0.1:8080/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError("the server's URL holds more than an address: give keys by file or keyring")
        if self.key_file is not None and self.keyring is not None:
            raise InputError("the server's key comes from a file or from the keyring: give one of them")
        if (self.key_file or self.keyring) and parts.scheme == "http" and not is_here(parts.hostname):
            raise InputError("the server's key would travel unencrypted: use https, or a server on this machine")

    def key(self) -> str | None:
        """The key, read when it is needed; None where none is configured.

        Raises
        ------
        InputError
            If the file or the keyring has none.
        """
        if self.key_file is not None:
            try:
                found = self.key_file.read_text(encoding="utf-8").partition("\n")[0].strip()
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise InputError(f"the key file {self.key_file.name} cannot be read: {why}") from None
        elif self.keyring is not None:
            try:
                found = import_module("keyring").get_password(*self.keyring) or ""
            except ModuleNotFoundError:
                raise InputError(
                    "the keyring needs the package 'keyring': pip install keyring, or use a file"
                ) from None
            except import_module("keyring.errors").KeyringError as error:
                # A server without a desktop has none; a locked one says so.
                raise InputError(f"the keyring cannot be read ({type(error).__name__}): use a file") from None
        else:
            return None
        if not found or not found.isascii() or not found.isprintable():
            raise InputError("the server's key is empty or holds odd characters: write it into the first line alone")
        return str(found)

    def post(self, body: bytes, *, deadline: float, max_bytes: int) -> bytes:
        """Send a chat-completions request and return the body of a 200 answer.

        Parameters
        ----------
        body
            JSON.
        deadline
            Value of ``time.monotonic()`` after which everything stops, a dripping answer too.
        max_bytes
            Longest answer read.

        Raises
        ------
        ExchangeError
            If there is no complete answer of status 200 in time and size. Its text never holds
            the key or anything the server said.
        """
        parts = urlsplit(self.url)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "anatrust"}
        key = self.key()
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        left = deadline - time.monotonic()
        if left <= 0:
            raise ExchangeError("the time allowed was over", again=False)
        connection: http.client.HTTPConnection
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=left, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=left)
        expired = threading.Event()
        held: list[socket.socket] = []

        def stop() -> None:
            expired.set()
            for open_socket in held:
                with contextlib.suppress(OSError):  # closed in the meantime
                    open_socket.shutdown(socket.SHUT_RDWR)

        # A socket's timeout starts anew with every byte; this one does not.
        watch = threading.Timer(left, stop)
        watch.daemon = True
        watch.start()
        try:
            connection.connect()
            held.append(connection.sock)
            connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, headers)
            with connection.getresponse() as answer:
                if answer.status != 200:
                    again = answer.status in (408, 429) or answer.status >= 500
                    raise ExchangeError(f"the server answered with HTTP status {answer.status}", again=again)
                read = answer.read(max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            if expired.is_set() or isinstance(error, TimeoutError):
                raise ExchangeError("the server did not answer in the time allowed", again=False) from None
            if isinstance(error, ConnectionRefusedError):
                raise ExchangeError(f"no server listens at {parts.netloc}", again=True) from None
            raise ExchangeError(f"the exchange failed ({type(error).__name__})", again=True) from None
        finally:
            watch.cancel()
            connection.close()
        if expired.is_set():
            raise ExchangeError("the server did not answer in the time allowed", again=False)
        if len(read) > max_bytes:
            raise ExchangeError(f"the answer is longer than {max_bytes} bytes", again=False)
        return read


def is_here(host: str) -> bool:
    """Whether a host's name or address means this machine.

    Examples
    --------
    >>> is_here("127.0.0.1"), is_here("::1"), is_here("10.0.0.7"), is_here("localhost.example.org")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
