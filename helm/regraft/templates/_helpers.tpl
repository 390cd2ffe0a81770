{{- define "regraft.name" -}}
{{- .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "regraft.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
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
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end }}regraft-{{ .image }}:{{ $tag }}
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

{{- /* The token by which Triton knows who may load models. */ -}}
{{- define "regraft.tritonToken" -}}
{{- with .Values.triton.controlSecret }}
- name: REGRAFT_TRITON_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: REGRAFT_TRITON_TOKEN
{{- end }}
{{- end }}

{{- define "regraft.storeEnvFrom" -}}
{{- with .Values.store.existingSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end }}
