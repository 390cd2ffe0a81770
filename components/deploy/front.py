"""The HTTP server before Triton in its image: python -m components.deploy.front ADDRESS PORT TRITON_PORT

A body of 4 MiB or more that calls itself a form, whatever the path and the method, kills tritonserver 2.51 by signal
11, and `curl --data` calls all that it sends a form. So what the client says about its content does not get through to
Triton, which never needs it: it tells JSON from tensors by Inference-Header-Content-Length. Packed bodies are refused,
since Triton unpacks them to any size: a limit on what is sent would be none.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from pathlib import Path

from regraft.errors import BadInput

LARGEST_MIB = 64
"""Larger bodies are answered 413. The server holds a body in memory, several times over."""

# Nothing but /tmp can be written to. Neither bodies nor answers are put down there: they pass as they come.
CONFIG = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  server_tokens off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size {mib}m;
  underscores_in_headers on;
  keepalive_requests 100000;
  upstream triton {{
    server 127.0.0.1:{triton} max_fails=0;
    keepalive 64;
    keepalive_timeout 2s;  # a server that is told to stop waits for its clients to hang up
  }}
  server {{
    listen {address}:{port};
    location / {{
      default_type application/json;
      if ($http_content_encoding !~* "^(identity)?$") {{
        return 415 '{{"error":"no Content-Encoding is taken here: send the body as it is"}}';
      }}
      proxy_pass http://triton;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header Content-Type application/octet-stream;
      proxy_set_header Content-Encoding "";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_read_timeout 600s;  # a model may take that long to load
      proxy_send_timeout 600s;
      error_page 502 504 = @gone;
    }}
    location @gone {{ return 444; }}  # hangs up, as a dead server does: deploy takes an answer for Triton's
  }}
}}
"""


def nginx() -> str:
    """Path of nginx.

    Raises:
        BadInput: it is not installed.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        raise BadInput("--front needs nginx, which is not installed", next="leave --front out, or install nginx")
    return found


def main() -> None:
    address, port, triton = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"front-{port}"  # noqa: S108  the image's only writable folder
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    host = f"[{address}]" if ":" in address else address
    config.write_text(CONFIG.format(folder=folder, mib=LARGEST_MIB, address=host, port=port, triton=triton))
    while not _listens(triton):  # so that nobody listens before the models are loaded, as without a front
        time.sleep(0.1)
    program = nginx()
    os.execv(program, [program, "-e", "stderr", "-p", str(folder), "-c", str(config)])  # noqa: S606


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
