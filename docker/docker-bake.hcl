# All images with one tag: docker buildx bake -f docker/docker-bake.hcl
# CPU torch instead of CUDA: PIP_FIND_LINKS=URL-OF-CPU-WHEELS docker buildx bake -f docker/docker-bake.hcl

variable "REGISTRY" { default = "" }
variable "TAG" { default = "0.1.0" }
variable "REVISION" { default = "unknown" }
variable "SOURCE" { default = "" }
variable "TORCH" { default = "torch==2.13.0" }
variable "PIP_FIND_LINKS" { default = "" }
variable "TRITON_BASE" { default = "nvidia" }

group "default" {
  targets = ["validate", "finetune", "evaluate", "promote", "deploy", "mlflow", "triton", "airflow"]
}

target "image" {
  context = "."
  args = {
    VERSION  = TAG
    REVISION = REVISION
    SOURCE   = SOURCE
  }
}

target "validate" {
  inherits   = ["image"]
  dockerfile = "docker/component.Dockerfile"
  target     = "validate"
  args       = { STEP = "validate" }
  tags       = ["${REGISTRY}regraft-validate:${TAG}"]
}

target "model" {
  inherits   = ["image"]
  dockerfile = "docker/component.Dockerfile"
  args = {
    TORCH          = TORCH
    PIP_FIND_LINKS = PIP_FIND_LINKS
  }
}

target "finetune" {
  inherits = ["model"]
  target   = "finetune"
  args     = { STEP = "finetune" }
  tags     = ["${REGISTRY}regraft-finetune:${TAG}"]
}

target "evaluate" {
  inherits = ["model"]
  target   = "evaluate"
  args     = { STEP = "evaluate" }
  tags     = ["${REGISTRY}regraft-evaluate:${TAG}"]
}

target "promote" {
  inherits = ["model"]
  target   = "promote"
  args     = { STEP = "promote" }
  tags     = ["${REGISTRY}regraft-promote:${TAG}"]
}

target "deploy" {
  inherits = ["model"]
  target   = "deploy"
  args     = { STEP = "deploy" }
  tags     = ["${REGISTRY}regraft-deploy:${TAG}"]
}

target "mlflow" {
  inherits   = ["image"]
  dockerfile = "docker/mlflow.Dockerfile"
  tags       = ["${REGISTRY}regraft-mlflow:${TAG}"]
}

target "triton" {
  inherits   = ["image"]
  dockerfile = "docker/triton.Dockerfile"
  args       = { BASE = TRITON_BASE }
  tags       = ["${REGISTRY}regraft-triton:${TAG}"]
}

target "airflow" {
  inherits   = ["image"]
  dockerfile = "docker/airflow.Dockerfile"
  tags       = ["${REGISTRY}regraft-airflow:${TAG}"]
}
