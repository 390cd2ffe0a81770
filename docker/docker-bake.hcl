# All images with one tag: docker buildx bake -f docker/docker-bake.hcl
# Without CUDA: TORCH=cpu TRITON_BASE=pypi docker buildx bake -f docker/docker-bake.hcl
# `make images` builds the same where there is no buildx; tests/images compares the two.

variable "REGISTRY" { default = "" }
variable "TAG" { default = "0.1.0" }
variable "REVISION" { default = "unknown" }
variable "SOURCE" { default = "" }
variable "TORCH" { default = "cuda" }
variable "CPU_WHEELS" { default = "https://download.pytorch.org/whl/cpu/torch/" }
variable "TRITON_BASE" { default = "nvidia" }

group "default" {
  targets = ["step", "server"]
}

target "image" {
  context = "."
  args = {
    VERSION  = TAG
    REVISION = REVISION
    SOURCE   = SOURCE
  }
}

# promote and deploy compute on the CPU whatever the others do.
target "step" {
  name = step.name
  matrix = {
    step = [
      { name = "validate", torch = "none" },
      { name = "finetune", torch = TORCH },
      { name = "evaluate", torch = TORCH },
      { name = "promote", torch = "cpu" },
      { name = "deploy", torch = "cpu" },
    ]
  }
  inherits   = ["image"]
  dockerfile = "docker/component.Dockerfile"
  target     = step.name
  args = {
    STEP       = step.name
    TORCH      = step.torch
    CPU_WHEELS = CPU_WHEELS
  }
  tags = ["${REGISTRY}regraft-${step.name}:${TAG}"]
}

target "server" {
  name       = server
  matrix     = { server = ["mlflow", "triton", "openai", "airflow"] }
  inherits   = ["image"]
  dockerfile = "docker/${server}.Dockerfile"
  args = {
    BASE       = server == "triton" ? TRITON_BASE : null
    CPU_WHEELS = server == "triton" ? CPU_WHEELS : null
  }
  tags       = ["${REGISTRY}regraft-${server}:${TAG}"]
}
