{{- /*
All faults of the values that values.schema.json cannot find, one on each line. Without this the controller would refuse its
configuration, or the API server one of the objects, when others are already there.
*/ -}}
{{- define "meshexp-controller.faults" -}}
{{- if not .Values.image.repository }}
image.repository is not set, and no public registry has the controller's image: build it by `docker/build meshexp-controller`, push it to a registry that your nodes pull from, and set image.repository=REGISTRY/meshexp-controller. Where the nodes have the image already (k3d, kind): image.repository=meshexp-controller. The chart's README.md has the commands.
{{- end }}
{{ include "meshexp-controller.timeFaults" . }}
{{ include "meshexp-controller.factFaults" . }}
{{ include "meshexp-controller.serviceFaults" . }}
{{ include "meshexp-controller.labelFaults" . }}
{{- if and .Values.fleetPage.enabled (has (int .Values.fleetPage.port) (list 8081 9995)) }}
fleetPage.port: {{ .Values.fleetPage.port }} is a port that the controller listens at already
{{- end }}
{{- range $i, $ports := .Values.networkPolicy.machinePorts }}
{{- $ends := splitList "-" (toString $ports) }}
{{- if or (gt (int (last $ends)) 65535) (gt (int (first $ends)) (int (last $ends))) }}
networkPolicy.machinePorts[{{ $i }}]: {{ $ports }} is not a range of ports such as 4143-4150
{{- end }}
{{- end }}
{{- range $i, $cidr := .Values.networkPolicy.machineCIDRs }}
{{ include "meshexp-controller.networkFault" (dict "path" (printf "networkPolicy.machineCIDRs[%d]" $i) "text" $cidr) }}
{{- end }}
{{- end }}
{{- define "meshexp-controller.timeFaults" -}}
{{- $seconds := dict }}
{{- $given := dict }}
{{- range $name, $value := .Values.times }}
{{- $_ := set $given $name (ternary $value (toJson $value) (kindIs "string" $value)) }}
{{- $_ := set $seconds $name (include "meshexp-controller.seconds" $value | float64) }}
{{- if ge (get $seconds $name) 315360000.0 }}
times.{{ $name }}: {{ get $given $name }} is not between 0 and 10 years
{{- end }}
{{- end }}
{{- if lt $seconds.lease 1.0 }}
times.lease: {{ $given.lease }} is less than 1s
{{- end }}
{{- if gt $seconds.lease $seconds.expiry }}
times.expiry: {{ $given.expiry }} is less than times.lease, which is {{ $given.lease }}
{{- end }}
{{- end }}
{{- define "meshexp-controller.factFaults" -}}
{{- range $key := list "serviceCIDRs" "meshCIDRs" }}
{{- range $i, $cidr := get $.Values.facts $key }}
{{ include "meshexp-controller.networkFault" (dict "path" (printf "facts.%s[%d]" $key $i) "text" $cidr "strict" true) }}
{{- end }}
{{- end }}
{{- range $i, $address := .Values.facts.dnsAddresses }}
{{- if not (include "meshexp-controller.isEndpoint" $address) }}
{{ printf "facts.dnsAddresses[%d]: %q is not host:port or [v6-address]:port" $i $address }}
{{- end }}
{{- end }}
{{- range $i, $route := .Values.facts.podRoutes }}
{{ include "meshexp-controller.networkFault" (dict "path" (printf "facts.podRoutes[%d].podCIDR" $i) "text" $route.podCIDR "strict" true) }}
{{- if not (include "meshexp-controller.groups" $route.via) }}
{{ printf "facts.podRoutes[%d].via: %q is not an IP address" $i $route.via }}
{{- end }}
{{- end }}
{{- end }}
{{- define "meshexp-controller.serviceFaults" -}}
{{- $service := .Values.service }}
{{- if eq $service.type "ClusterIP" }}
{{- range $key := list "nodePort" "externalTrafficPolicy" }}
{{- if get $service $key }}
service.{{ $key }}: a Service of type ClusterIP has none; service.type must be NodePort or LoadBalancer
{{- end }}
{{- end }}
{{- end }}
{{- if and $service.loadBalancerSourceRanges (ne $service.type "LoadBalancer") }}
service.loadBalancerSourceRanges: service.type must be LoadBalancer
{{- end }}
{{- range $i, $cidr := $service.loadBalancerSourceRanges }}
{{ include "meshexp-controller.networkFault" (dict "path" (printf "service.loadBalancerSourceRanges[%d]" $i) "text" $cidr) }}
{{- end }}
{{- end }}
{{- /* A label of the chart's own may not be given: the key would be there twice, which is no YAML, or the chart would break. */ -}}
{{- define "meshexp-controller.labelFaults" -}}
{{- $ours := include "meshexp-controller.labels" . | fromYaml }}
{{- range $path, $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "serviceMonitor.labels" .Values.serviceMonitor.labels }}
{{- range $key, $_ := $labels }}
{{- if hasKey $ours $key }}
{{ $path }}: {{ $key }} is a label that the chart sets itself
{{- end }}
{{- end }}
{{- end }}
{{- range $key := list "linkerd.io/inject" "checksum/configuration" }}
{{- if hasKey $.Values.podAnnotations $key }}
podAnnotations: {{ $key }} is an annotation that the chart sets itself
{{- end }}
{{- end }}
{{- end }}
