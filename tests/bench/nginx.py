"""nginx as the source of a benchmark."""
from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from tests.cluster import Cluster

PORT = 8000
START_S = 10.0


def start(cluster: Cluster, folder: Path, root: Path, host: int) -> None:
    """nginx serving `root` on a host of the star, or on loopback; ended with the cluster."""
    conf = folder / "nginx.conf"
    temp = "".join(f"{kind}_temp_path {folder}/nginx-{kind};" for kind in
                   ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf.write_text(
        f"user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; "
        f"error_log {folder}/nginx.err; events {{ worker_connections 4096; }} "
        f"http {{ access_log off; sendfile on; {temp} server {{ "
        f"listen {cluster.address(host)}:{PORT}; root {root}; }} }}")
    argv = ["nginx", "-c", str(conf)]
    if cluster.star is not None:
        cluster.others.append(cluster.star.popen(host, argv, stderr=subprocess.DEVNULL))
        cluster.star.listening(host, PORT)
        return
    cluster.others.append(subprocess.Popen(argv, stderr=subprocess.DEVNULL))
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((cluster.address(host), PORT), 1.0).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nginx does not listen on port {PORT}: is it taken?") from None
            time.sleep(0.02)
