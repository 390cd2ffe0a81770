# The images of the five steps: --target finetune --build-arg STEP=finetune, and so on; docker-bake.hcl builds all.
# One file, since they differ in little but their name and their locked requirements.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG STEP
# Set for the steps that rebuild a model. PyPI's torch is the CUDA build; PIP_FIND_LINKS may point to a folder or page of
# CPU wheels, which pip then prefers.
ARG TORCH=""
ARG PIP_FIND_LINKS=""
COPY requirements/${STEP}.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/regraft \
 && python -m pip --python /opt/regraft install --no-deps --require-hashes -r /tmp/requirements.txt \
 && { [ -z "${TORCH}" ] || python -m pip --python /opt/regraft install "${TORCH}"; } \
 && find /opt/regraft -type d -name tests -path "*/site-packages/*" -prune -exec rm -rf {} +
COPY regraft /app/regraft
COPY components/__init__.py /app/components/__init__.py
COPY components/${STEP} /app/components/${STEP}
RUN /opt/regraft/bin/python -m compileall -q /app /opt/regraft/lib

FROM ${PYTHON} AS component
ARG STEP
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="regraft-${STEP}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/regraft /opt/regraft
COPY --from=build /app /app
# Only /tmp is written to: mount a volume there when the root file system is read-only.
ENV PATH=/opt/regraft/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1
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
FROM ${PYTHON} AS wheel
COPY requirements/tritonserver.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --no-deps --require-hashes --target /tmp/wheel -r /tmp/requirements.txt

FROM build AS tritonserver
COPY --from=wheel /tmp/wheel /tmp/wheel
RUN cd /app && /opt/regraft/bin/python -m components.deploy.tritonserver --wheel-dir /tmp/wheel --to /opt/tritonserver

FROM component AS deploy
COPY --from=tritonserver /opt/tritonserver /opt/tritonserver
ENV REGRAFT_TRITONSERVER=/opt/tritonserver
ENTRYPOINT ["python", "-m", "components.deploy"]
