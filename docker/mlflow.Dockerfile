# checkov:skip=CKV_DOCKER_7: the base image's tag is that of the argument
# The MLflow server: tracking, registry and artifacts through the server, on PostgreSQL and an object store.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
COPY requirements/build.txt requirements/mlflow.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --root-user-action=ignore --no-deps --require-hashes -r /tmp/build.txt \
 && python -m venv --without-pip /opt/mlflow
COPY docker/slim.py /tmp/slim.py
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_SYSTEM_CERTS=true UV_LINK_MODE=copy \
    uv pip install --python /opt/mlflow --compile-bytecode --no-deps --require-hashes -r /tmp/mlflow.txt \
 && python /tmp/slim.py /opt/mlflow

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="regraft-mlflow" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/mlflow /opt/mlflow
# Without job execution the server takes half the memory; a model with a pickle in it is not loaded. A worker that imports
# for longer than 5 s, as on a busy node, would be killed and started again, for ever.
ENV PATH=/opt/mlflow/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    UVICORN_TIMEOUT_WORKER_HEALTHCHECK=60
WORKDIR /tmp
USER 10001:10001
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["mlflow", "server"]
CMD ["--host=127.0.0.1", "--port=5000"]
