{{- /* The labels by which the NetworkPolicy finds the pod of `helm test`. */ -}}
{{- define "meshexp-controller.testSelector" -}}
app.kubernetes.io/name: {{ include "meshexp-controller.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
{{- /* What the controller's pods and that of `helm test` have in common. */ -}}
{{- define "meshexp-controller.pod" -}}
serviceAccountName: {{ include "meshexp-controller.serviceAccountName" . | quote }}
# An account that is not the chart's may say false.
automountServiceAccountToken: true
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: configuration
    configMap: {name: {{ include "meshexp-controller.fullname" . | quote }}}
  - name: identity-token
    projected:
      sources:
        - serviceAccountToken: {path: linkerd-identity-token, audience: identity.l5d.io, expirationSeconds: 86400}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "meshexp-controller.container" -}}
image: {{ include "meshexp-controller.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
resources: {{- toYaml .Values.resources | nindent 2 }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: configuration, mountPath: /etc/meshexp-controller, readOnly: true}
  - {name: identity-token, mountPath: /var/run/secrets/tokens, readOnly: true}
{{- end }}
