{{- define "regraft.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* A name of at most .most characters. A longer one is cut and ends in its digest: two names stay two. */ -}}
{{- define "regraft.cut" -}}
{{- if gt (len .name) (int .most) }}
{{- printf "%s-%s" (.name | trunc (int (sub .most 9)) | trimSuffix "-") (.name | sha256sum | trunc 8) }}
{{- else }}{{ .name }}
{{- end }}
{{- end }}

{{- /* At most 46: the longest of what is put behind it, -triton-replicas, makes 62 of the 63 that Kubernetes takes. */ -}}
{{- define "regraft.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ include "regraft.cut" (dict "name" .Release.Name "most" 46) }}
{{- else }}{{ include "regraft.cut" (dict "name" (printf "%s-%s" .Release.Name .Chart.Name) "most" 46) }}
{{- end }}
{{- end }}

{{- /* What the doctor's CronJobs begin with. They have 52 characters at most, so that 18 are left for the recipe. */ -}}
{{- define "regraft.doctor" -}}
{{ include "regraft.cut" (dict "name" (include "regraft.fullname" .) "most" 26) }}-doctor-
{{- end }}

{{- define "regraft.selector" -}}
app.kubernetes.io/name: {{ include "regraft.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "regraft.labels" -}}
{{ include "regraft.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: regraft
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "regraft.image" -}}
{{- $registry := .root.Values.images.registry -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.images.tag -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end }}regraft-{{ .image }}:{{ $tag }}{{ with index .root.Values.images.digests .image }}@{{ . }}{{ end }}
{{- end }}

{{- /* What every pod has: pull secrets, no mounted token unless asked for, the restricted security context. */ -}}
{{- define "regraft.pod" -}}
automountServiceAccountToken: {{ default false .token }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .placement }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "regraft.container" -}}
image: {{ include "regraft.image" . }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- end }}

{{- define "regraft.mlflowUrl" -}}
{{- if .Values.mlflow.enabled }}http://{{ include "regraft.fullname" . }}-mlflow:5000
{{- else }}{{ required "mlflow.externalUrl is needed when mlflow.enabled is false" .Values.mlflow.externalUrl }}
{{- end }}
{{- end }}

{{- /* The Secret with what MLflow knows its administrator by; empty where it asks nobody, or is not the chart's. */ -}}
{{- define "regraft.mlflowSecret" -}}
{{- if .Values.mlflow.auth.enabled }}
{{- $made := .Values.mlflow.enabled | ternary (printf "%s-mlflow" (include "regraft.fullname" .)) "" }}
{{- default $made .Values.mlflow.auth.existingSecret }}
{{- end }}
{{- end }}

{{- /* What a client of MLflow sends. */ -}}
{{- define "regraft.mlflowLogin" -}}
{{- $secret := include "regraft.mlflowSecret" . }}
{{- if $secret }}
{{- range list "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "regraft.claim" -}}
{{- default (printf "%s-models" (include "regraft.fullname" .)) .Values.triton.repository.existingClaim }}
{{- end }}

{{- /* Environment of everything that opens the store. */ -}}
{{- define "regraft.storeEnv" -}}
{{- range $name, $value := .Values.store.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- /* Annotations of a service account that opens the store. */ -}}
{{- define "regraft.identity" -}}
{{- with .Values.serviceAccountAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "regraft.controlSecret" -}}
{{- default (printf "%s-triton" (include "regraft.fullname" .)) .Values.triton.controlSecret }}
{{- end }}

{{- /* The token by which Triton knows who may load models. */ -}}
{{- define "regraft.tritonToken" -}}
- name: REGRAFT_TRITON_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "regraft.controlSecret" . }}
      key: REGRAFT_TRITON_TOKEN
{{- end }}

{{- define "regraft.storeEnvFrom" -}}
{{- with .Values.store.existingSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end }}
