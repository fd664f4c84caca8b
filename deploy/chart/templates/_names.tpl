{{- define "labels" -}}
app.kubernetes.io/name: meshexp-controller
app.kubernetes.io/part-of: meshexp
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "selector" -}}
app.kubernetes.io/name: meshexp-controller
{{- end }}
{{- /* No default could be pulled. Refused here, it is told before anything is installed, and not by pods that wait for an image. */ -}}
{{- define "meshexp-controller.image" -}}
{{- $missing := "image.repository is not set, and no public registry has the controller's image: build it by `docker/build meshexp-controller`, push it to a registry that your nodes pull from, and set image.repository=REGISTRY/meshexp-controller. Where the nodes have the image already (k3d, kind): image.repository=meshexp-controller. The chart's README.md has the commands." }}
{{- required $missing .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
