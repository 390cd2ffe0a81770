# checkov:skip=CKV_DOCKER_2: a step ends by itself and serves nothing
# checkov:skip=CKV_DOCKER_7: the base image's tag is that of the argument PYTHON
# The images of the five steps. `make images` and docker-bake.hcl build all; one of them:
#   docker build -f docker/component.Dockerfile --target finetune --build-arg STEP=finetune --build-arg TORCH=cuda .
# One file, since they differ in little but their name and their locked requirements.
ARG PYTHON=python:3.11-slim-bookworm
# For the steps that rebuild a model: cuda, whose wheel is on PyPI, or cpu. validate does without.
ARG TORCH=none

FROM ${PYTHON} AS tools
COPY requirements/build.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --root-user-action=ignore --no-deps --require-hashes -r /tmp/requirements.txt \
 && install -D /usr/local/bin/uv /tools/uv && python -m venv --without-pip /opt/regraft
COPY docker/slim.py /tools/slim.py

FROM ${PYTHON} AS none
COPY --from=tools /opt/regraft /opt/regraft

# What rebuilds a model: one layer that the images of those steps share.
FROM tools AS model
ARG TORCH
# The page that has the wheel without CUDA; only cpu looks at it.
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu/torch/
COPY requirements/model.txt requirements/torch-${TORCH}.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/uv \
    if [ "${TORCH}" = cpu ]; then export UV_FIND_LINKS="${CPU_WHEELS}"; fi \
 && UV_SYSTEM_CERTS=true UV_LINK_MODE=copy \
    uv pip install --python /opt/regraft --compile-bytecode --no-deps --require-hashes \
      -r /tmp/model.txt -r /tmp/torch-${TORCH}.txt \
 && python /tools/slim.py /opt/regraft

FROM ${PYTHON} AS cuda
COPY --from=model /opt/regraft /opt/regraft

FROM cuda AS cpu

# What the step needs beside.
FROM ${TORCH} AS step
ARG STEP
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt \
    --mount=type=bind,source=requirements,target=/srv \
    --mount=type=cache,target=/root/.cache/uv \
    UV_SYSTEM_CERTS=true UV_LINK_MODE=copy \
    /mnt/uv pip install --python /opt/regraft --compile-bytecode --no-deps --require-hashes -r /srv/${STEP}.txt \
 && python -B /mnt/slim.py /opt/regraft
COPY regraft /app/regraft
COPY components/__init__.py /app/components/__init__.py
COPY components/${STEP} /app/components/${STEP}
# Airflow, torch and others ask for the name of the user.
RUN python -m compileall -q /app && echo "regraft:x:10001:10001::/tmp:/sbin/nologin" >> /etc/passwd

FROM step AS component
ARG STEP
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="regraft-${STEP}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Only /tmp is written to: mount a volume there when the root file system is read-only.
# There is no git, and MLflow need not say so.
ENV PATH=/opt/regraft/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 GIT_PYTHON_REFRESH=quiet
WORKDIR /app
USER 10001:10001

FROM component AS validate
ENTRYPOINT ["python", "-m", "components.validate"]

FROM component AS finetune
ENTRYPOINT ["python", "-m", "components.finetune"]

FROM component AS evaluate
ENTRYPOINT ["python", "-m", "components.evaluate"]

FROM component AS promote
ENTRYPOINT ["python", "-m", "components.promote"]

# deploy has a tritonserver of its own, for trials.
FROM tools AS wheel
COPY requirements/tritonserver.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_SYSTEM_CERTS=true uv pip install --no-deps --require-hashes --target /tmp/wheel -r /tmp/requirements.txt

FROM step AS tritonserver
WORKDIR /app
RUN --mount=type=bind,from=wheel,source=/tmp/wheel,target=/mnt \
    /opt/regraft/bin/python -m components.deploy.tritonserver --wheel-dir /mnt --to /opt/tritonserver

FROM component AS deploy
COPY --from=tritonserver /opt/tritonserver /opt/tritonserver
ENV REGRAFT_TRITONSERVER=/opt/tritonserver
ENTRYPOINT ["python", "-m", "components.deploy"]
