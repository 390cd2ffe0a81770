# checkov:skip=CKV_DOCKER_7: the base images' tags are those of the arguments
# Airflow for docker/compose.yaml: the image of Airflow, and beside it all that the steps need, which run as processes.
ARG PYTHON=python:3.11-slim-bookworm
ARG AIRFLOW=regraft-airflow:0.1.0

FROM ${PYTHON} AS build
COPY requirements/build.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --root-user-action=ignore --no-deps --require-hashes -r /tmp/build.txt \
 && python -m venv --without-pip /opt/regraft
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu/torch/
COPY requirements/components.txt requirements/example.txt requirements/torch-cpu.txt requirements/tritonserver.txt /tmp/
COPY docker/slim.py /tmp/slim.py
RUN --mount=type=cache,target=/root/.cache/uv \
    export UV_SYSTEM_CERTS=true UV_LINK_MODE=copy UV_FIND_LINKS="${CPU_WHEELS}" \
 && uv pip install --python /opt/regraft --compile-bytecode --no-deps --require-hashes \
      -r /tmp/components.txt -r /tmp/example.txt -r /tmp/torch-cpu.txt \
 && uv pip install --no-deps --require-hashes --target /tmp/wheel -r /tmp/tritonserver.txt \
 && python /tmp/slim.py /opt/regraft
COPY regraft /app/regraft
COPY components /app/components
WORKDIR /app
RUN /opt/regraft/bin/python -m components.deploy.tritonserver --wheel-dir /tmp/wheel --to /opt/tritonserver \
 && python -m compileall -q /app

FROM ${AIRFLOW}
COPY --from=build /opt/regraft /opt/regraft
COPY --from=build /opt/tritonserver /opt/tritonserver
COPY --from=build /app/components /app/components
# Volumes take the owner of the folder that they are mounted over.
USER 0
RUN install -d -o 50000 -g 0 -m 775 /airflow /models
ENV REGRAFT_PYTHON=/opt/regraft/bin/python REGRAFT_TRITONSERVER=/opt/tritonserver AIRFLOW_HOME=/airflow \
    GIT_PYTHON_REFRESH=quiet
USER 50000:0
HEALTHCHECK --interval=20s --timeout=15s --start-period=240s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=14)"]
CMD ["airflow", "standalone"]
