"""An S3 server on loopback: moto, one request at a time; the bucket `careless` ignores conditions.

`python -m mlcicd_assets_tests.s3 PORT` serves until its standard input ends.
"""

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKETS = ("good", "careless")
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTESTKEYID", "AWS_SECRET_ACCESS_KEY": "verysecretkey0123456789"}


@contextmanager
def running_s3(port: int) -> Iterator[dict[str, str]]:
    """Start it with its buckets; gives the environment that leads there."""
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlcicd_assets_tests.s3", str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            for bucket in BUCKETS:
                request = urllib.request.Request(f"{url}/{bucket}", method="PUT", data=b"")  # noqa: S310 - loopback
                urllib.request.urlopen(request).close()  # noqa: S310
            yield {**KEYS, "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true"} | {
                "AWS_REGION": "us-east-1"
            }
        finally:
            server.kill()


def _serve(port: int) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/careless"):
            environ = {k: v for k, v in environ.items() if not k.startswith("HTTP_IF_")}
        with one_at_a_time:  # moto looks at the condition, then writes
            return list(moto(environ, start))

    server = make_server("127.0.0.1", port, app, threaded=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
