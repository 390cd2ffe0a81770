# checkov:skip=CKV_DOCKER_7: the base image's tag is that of the argument
# The server of OpenAI's API before Triton: docs/openai.md.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
COPY requirements/build.txt requirements/openai.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --root-user-action=ignore --no-deps --require-hashes -r /tmp/build.txt \
 && python -m venv --without-pip /opt/regraft
COPY docker/slim.py /tmp/slim.py
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_SYSTEM_CERTS=true UV_LINK_MODE=copy \
    uv pip install --python /opt/regraft --compile-bytecode --no-deps --require-hashes -r /tmp/openai.txt \
 && python /tmp/slim.py /opt/regraft

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="regraft-openai" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/regraft /opt/regraft
COPY regraft /app/regraft
COPY components/__init__.py /app/components/__init__.py
COPY components/openai /app/components/openai
ENV PATH=/opt/regraft/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
RUN python -m compileall -q /app
WORKDIR /app
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "components.openai"]
CMD ["--repository=/models"]
