# checkov:skip=CKV_DOCKER_7: the base image's tag is that of the argument
# Airflow with regraft's DAGs; the steps run in pods of their own.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
COPY requirements/build.txt requirements/airflow-image.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --root-user-action=ignore --no-deps --require-hashes -r /tmp/build.txt \
 && python -m venv --without-pip /opt/airflow-env
COPY docker/slim.py /tmp/slim.py
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_SYSTEM_CERTS=true UV_LINK_MODE=copy \
    uv pip install --python /opt/airflow-env --compile-bytecode --no-deps --require-hashes -r /tmp/airflow-image.txt \
 && python /tmp/slim.py /opt/airflow-env

FROM ${PYTHON}
COPY --from=build /opt/airflow-env /opt/airflow-env
COPY regraft /app/regraft
COPY dags /app/dags
# Airflow asks for the name of the user. Its chart puts AIRFLOW_HOME at /opt/airflow and starts its probes through /entrypoint.
RUN python -m compileall -q /app && echo "airflow:x:50000:0::/tmp:/sbin/nologin" >> /etc/passwd \
 && install -d -o 50000 -g 0 -m 775 /opt/airflow /opt/airflow/logs && ln -s /usr/bin/env /entrypoint
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="regraft-airflow" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/airflow-env/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/app PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 AIRFLOW_HOME=/tmp/airflow AIRFLOW__CORE__DAGS_FOLDER=/app/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
WORKDIR /tmp
USER 50000:0
EXPOSE 8080
HEALTHCHECK --interval=20s --timeout=15s --start-period=240s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=14)"]
# No entry point: Airflow's chart and its KubernetesExecutor give whole commands.
CMD ["airflow", "api-server"]
