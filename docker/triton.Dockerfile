# checkov:skip=CKV_DOCKER_7: the base image's tag is that of the argument
# Triton Inference Server with what regraft's models need: tokenizers, ONNX Runtime, numpy; torch and transformers.
# The default stands on NVIDIA's release. Where that cannot be pulled (and no GPU is needed):
#   --build-arg BASE=pypi
# puts the tritonserver that a PyPI package ships on the Python image. Both have the same entry point.
ARG BASE=nvidia
ARG NVIDIA=nvcr.io/nvidia/tritonserver:26.09-pyt-python-py3
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# The page that has the wheel of torch without CUDA.
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu/torch/
COPY requirements/build.txt requirements/serving.txt requirements/torch-cpu.txt requirements/tritonserver.txt /tmp/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --root-user-action=ignore --no-deps --require-hashes -r /tmp/build.txt \
 && python -m venv --without-pip /opt/regraft
COPY docker/slim.py /tmp/slim.py
RUN --mount=type=cache,target=/root/.cache/uv \
    export UV_SYSTEM_CERTS=true UV_LINK_MODE=copy UV_FIND_LINKS="${CPU_WHEELS}" \
 && uv pip install --python /opt/regraft --compile-bytecode --no-deps --require-hashes \
      -r /tmp/serving.txt -r /tmp/torch-cpu.txt \
 && uv pip install --no-deps --require-hashes --target /tmp/wheel -r /tmp/tritonserver.txt \
 && python /tmp/slim.py /opt/regraft
COPY regraft /app/regraft
COPY components/__init__.py /app/components/__init__.py
COPY components/deploy /app/components/deploy
WORKDIR /app
RUN /opt/regraft/bin/python -m components.deploy.tritonserver --wheel-dir /tmp/wheel --to /opt/tritonserver

FROM ${PYTHON} AS pypi
COPY --from=build /opt/regraft /opt/regraft
COPY --from=build /opt/tritonserver /opt/tritonserver
ENV PATH=/opt/regraft/bin:/usr/local/bin:/usr/bin:/bin

# NVIDIA's Python backend runs models with the Python of its image, so the packages go there, beside its torch.
FROM ${NVIDIA} AS nvidia
COPY requirements/serving.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --no-deps --require-hashes --break-system-packages -r /tmp/requirements.txt

FROM ${BASE}
USER 0
# nginx, since a client can kill tritonserver: components/deploy/front.py
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -qy --no-install-recommends nginx \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY regraft /app/regraft
COPY components/__init__.py /app/components/__init__.py
COPY components/deploy /app/components/deploy
# A volume takes the owner of the folder that it is mounted over; who deploys is of group 0.
RUN python3 -m compileall -q /app && install -d -o 10001 -g 0 -m 775 /models
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="regraft-triton" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp REGRAFT_TRITONSERVER=/opt/tritonserver
WORKDIR /app
USER 10001:10001
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["python3", "-m", "components.deploy.serve", "--front"]
CMD ["--repository=/models"]
