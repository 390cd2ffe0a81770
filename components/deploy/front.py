"""The HTTP server before Triton in its image: python -m components.deploy.front ADDRESS PORT TRITON_PORT

A large body that calls itself a form, whatever the path and the method, takes much of tritonserver 2.51's stack and
memory, and `curl --data` calls all that it sends a form. So what the client says about its content does not get through
to Triton, which never needs it: it tells JSON from tensors by Inference-Header-Content-Length. Packed bodies are
refused, since Triton unpacks them to any size: a limit on what is sent would be none. Of JSON little is taken, as the
server reads it by recursion; tensors may be large, where their header says how much of the body is JSON.
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
LARGEST_JSON_MIB = 1
"""Likewise of JSON. The server reads it by recursion, and components/deploy/nesting.py says how much of it ends one.
The thread that read it keeps the memory that the deepest took: 134 bytes a byte, in each of eight."""

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
  default_type application/json;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  underscores_in_headers on;
  keepalive_requests 100000;
  upstream triton {{
    server 127.0.0.1:{triton} max_fails=0;
    keepalive 64;
    keepalive_timeout 2s;  # a server that is told to stop waits for its clients to hang up
  }}
  # What Triton will read: the path as it was sent, and a header of digits, which says less than 1 MB of JSON.
  map "$request_uri $http_inference_header_content_length" $kind {{
    default json;
    "~^/v2/models/[^?]*/infer [0-9]{{1,6}}$" tensors;
  }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_set_header Content-Type application/octet-stream;
  proxy_set_header Content-Encoding "";
  proxy_set_header Inference-Header-Content-Length $http_inference_header_content_length;  # once
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  proxy_read_timeout 600s;  # a model may take that long to load
  proxy_send_timeout 600s;
  server {{
    listen {address}:{port};
    client_max_body_size {mib}m;
    if ($http_content_encoding !~* "^(identity)?$") {{
      return 415 '{{"error":"no Content-Encoding is taken here: send the body as it is"}}';
    }}
    error_page 413 @large;
    error_page 502 504 = @gone;
    location / {{ rewrite ^ /$kind last; }}
    location = /json {{
      internal;
      client_max_body_size {json_mib}m;
      proxy_buffering off;  # an answer that comes piece by piece is passed on so
      proxy_pass http://triton$request_uri;
    }}
    location = /tensors {{
      internal;
      proxy_pass http://triton$request_uri;
    }}
    location @large {{
      return 413 '{{"error":"a body has at most {mib} MiB, and JSON {json_mib}: send more as binary tensors"}}';
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
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not path:
        raise BadInput("--front needs nginx, which is not installed", next="leave --front out, or install nginx")
    return path


def main() -> None:
    address, port, triton = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"front-{port}"  # noqa: S108  the image's only writable folder
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    host = f"[{address}]" if ":" in address else address
    sizes = {"mib": LARGEST_MIB, "json_mib": LARGEST_JSON_MIB}
    config.write_text(CONFIG.format(folder=folder, **sizes, address=host, port=port, triton=triton))
    while not _listens(triton):  # so that nobody listens before the models are loaded, as without a front
        time.sleep(0.1)
    program = nginx()
    os.execv(program, [program, "-e", "stderr", "-p", str(folder), "-c", str(config)])  # noqa: S606


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
