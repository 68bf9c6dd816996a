"""A network between a client and a server that breaks connections."""

import contextlib
import socket
import threading


class BreakingRelay:
    """Passes bytes on to `port`; each connection breaks after as many bytes from the server as the
    next of `cuts` says, and those after them stay whole."""

    def __init__(self, port, cuts):
        self._port, self._cuts = port, list(cuts)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._server.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                cut = self._cuts.pop(0) if self._cuts else None
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                back = (server, client, cut)
                threading.Thread(target=self._pass_on, args=back, daemon=True).start()

    def _pass_on(self, source, target, cut=None):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                left = len(data) if cut is None else cut - passed
                target.sendall(data[:left])
                passed += len(data)
                if cut is not None and passed >= cut:
                    self.broken += 1
                    break
        for end in (source, target):  # whoever else waits for it wakes up
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
