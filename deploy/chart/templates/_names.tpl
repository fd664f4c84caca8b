{{- /*
A chart, its parent and their subcharts share all names of templates. So each name here begins with the name of the chart.
*/ -}}
{{- define "meshexp-controller.name" -}}
{{- .Values.nameOverride | default "meshexp-controller" }}
{{- end }}
{{- define "meshexp-controller.fullname" -}}
{{- .Values.fullnameOverride | default (include "meshexp-controller.name" .) }}
{{- end }}
{{- define "meshexp-controller.serviceAccountName" -}}
{{- $unnamed := ternary (include "meshexp-controller.fullname" .) "default" .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default $unnamed }}
{{- end }}
{{- /* By this the Deployment and the Service find the pods. The selector of a Deployment can never change: no label may be added. */ -}}
{{- define "meshexp-controller.selector" -}}
app.kubernetes.io/name: {{ include "meshexp-controller.name" . | quote }}
{{- end }}
{{- define "meshexp-controller.podLabels" -}}
{{ include "meshexp-controller.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: controller
app.kubernetes.io/part-of: meshexp
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "meshexp-controller.releaseLabels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- define "meshexp-controller.labels" -}}
{{ include "meshexp-controller.podLabels" . }}
{{ include "meshexp-controller.releaseLabels" . }}
{{- end }}
{{- /*
The metadata of an object. `root`: the chart's context. `namespace`: not given where the object has none. `suffix`: follows the
name. `name`: in place of the chart's. `labels`, `annotations`: further ones, which override those of all objects.
*/ -}}
{{- define "meshexp-controller.metadata" -}}
name: {{ printf "%s%s" (.name | default (include "meshexp-controller.fullname" .root)) (.suffix | default "") | quote }}
{{- with .namespace }}
namespace: {{ . | quote }}
{{- end }}
labels:
  {{- include "meshexp-controller.labels" .root | nindent 2 }}
  {{- with merge (dict) (.labels | default dict) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "meshexp-controller.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}
{{- /*
The name in the mesh that Linkerd certifies for the ServiceAccount. Its domain is in Linkerd's configuration, which helm can read
only where it is connected to a cluster.
*/ -}}
{{- define "meshexp-controller.identity" -}}
{{- $linkerd := .Values.linkerdNamespace }}
{{- $config := lookup "v1" "ConfigMap" $linkerd "linkerd-config" | default dict }}
{{- $theirs := dig "data" "values" "" $config | fromYaml }}
{{- $domain := $theirs.identityTrustDomain | default $theirs.clusterDomain | default .Values.facts.clusterDomain | default "cluster.local" }}
{{- $account := include "meshexp-controller.serviceAccountName" . }}
{{- printf "%s.%s.serviceaccount.identity.%s.%s" $account .Release.Namespace $linkerd $domain }}
{{- end }}
