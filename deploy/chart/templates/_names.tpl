{{- define "labels" -}}
app.kubernetes.io/name: meshexp-controller
app.kubernetes.io/part-of: meshexp
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "selector" -}}
app.kubernetes.io/name: meshexp-controller
{{- end }}
