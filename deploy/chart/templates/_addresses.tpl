{{- /* The seconds of a duration such as 500ms, 1m30s or 30, as the controller reads it. */ -}}
{{- define "meshexp-controller.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 }}
{{- $seconds := 0.0 }}
{{- if not (kindIs "string" .) }}
{{- $seconds = . }}
{{- else }}
{{- range regexFindAll "[0-9.]+[a-z]*" . -1 }}
{{- $unit := regexFind "[a-z]+$" . | default "s" }}
{{- $seconds = addf $seconds (mulf (regexFind "^[0-9.]+" . | float64) (get $units $unit)) }}
{{- end }}
{{- end }}
{{- toJson $seconds }}
{{- end }}
{{- /* The groups of an IP address as a list of numbers, 4 or 8 of them; empty when it is no address. */ -}}
{{- define "meshexp-controller.groups" -}}
{{- $byte := "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])" }}
{{- $ipv4 := printf "%s\\.%s\\.%s\\.%s" $byte $byte $byte $byte }}
{{- $text := . }}
{{- $groups := list }}
{{- if regexMatch (printf "^%s$" $ipv4) $text }}
{{- range splitList "." $text }}
{{- $groups = append $groups (int64 .) }}
{{- end }}
{{- else if regexMatch "^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$" $text }}
{{- with regexFind (printf ":%s$" $ipv4) $text }}
{{- $four := trimPrefix ":" . | splitList "." }}
{{- $pairs := printf ":%02x%02x:%02x%02x" (index $four 0 | int64) (index $four 1 | int64) (index $four 2 | int64) (index $four 3 | int64) }}
{{- $text = printf "%s%s" (trimSuffix . $text) $pairs }}
{{- end }}
{{- $halves := splitList "::" $text }}
{{- $left := list }}
{{- $right := list }}
{{- with index $halves 0 }}{{ $left = splitList ":" . }}{{ end }}
{{- with rest $halves | first }}{{ $right = splitList ":" . }}{{ end }}
{{- $missing := sub (sub 8 (len $left)) (len $right) | int }}
{{- $right_length := ternary (eq $missing 0) (ge $missing 1) (eq (len $halves) 1) }}
{{- if and (le (len $halves) 2) $right_length }}
{{- $zeros := list }}
{{- range until $missing }}{{ $zeros = append $zeros "0" }}{{ end }}
{{- range concat $left $zeros $right }}
{{- if regexMatch "^[0-9a-fA-F]{1,4}$" . }}
{{- $groups = append $groups (printf "0x%s" . | int64) }}
{{- end }}
{{- end }}
{{- if ne (len $groups) 8 }}{{ $groups = list }}{{ end }}
{{- end }}
{{- end }}
{{- with $groups }}{{ toJson . }}{{ end }}
{{- end }}
{{- /*
What is wrong with a network such as 10.42.0.0/16; nothing when it is right. `path`, `text`: of the value. `strict`: as the
controller reads it: an address without a prefix is a network too, and no bit after the prefix may be set.
*/ -}}
{{- define "meshexp-controller.networkFault" -}}
{{- $parts := splitList "/" .text }}
{{- $groups := include "meshexp-controller.groups" (first $parts) | default "[]" | fromJsonArray }}
{{- $size := ternary 8 16 (eq (len $groups) 4) }}
{{- $most := mul $size (len $groups) }}
{{- $unsaid := ternary (toString $most) "none" (and (eq (len $parts) 1) (default false .strict)) }}
{{- $length := ternary $unsaid (rest $parts | first) (eq (len $parts) 1) }}
{{- $number := regexReplaceAll "^0+([0-9])" (toString $length) "${1}" }}
{{- if or (not $groups) (gt (len $parts) 2) (not (regexMatch "^[0-9]{1,3}$" $number)) (gt (int64 $number) (int64 $most)) }}
{{- printf "%s: %q is not a CIDR such as 10.42.0.0/16\n" .path .text }}
{{- else if .strict }}
{{- $set := false }}
{{- range $place, $group := $groups }}
{{- $host := min $size (max 0 (sub (mul $size (add1 $place)) (int64 $number))) | int }}
{{- $power := 1 }}
{{- range until $host }}{{ $power = mul $power 2 }}{{ end }}
{{- if mod (int64 $group) $power }}{{ $set = true }}{{ end }}
{{- end }}
{{- if $set }}
{{- printf "%s: %q has bits set behind its prefix\n" .path .text }}
{{- end }}
{{- end }}
{{- end }}
{{- /* Something when it is host:port or [v6-address]:port, as the controller reads it. */ -}}
{{- define "meshexp-controller.isEndpoint" -}}
{{- $port := "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])" }}
{{- $label := "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?" }}
{{- $host := regexFind (printf "^.+:%s$" $port) . | splitList ":" | initial | join ":" }}
{{- if hasPrefix "[" $host }}
{{- $address := trimPrefix "[" $host | trimSuffix "]" }}
{{- if and (hasSuffix "]" $host) (contains ":" $address) }}{{ include "meshexp-controller.groups" $address }}{{ end }}
{{- else if and (le (len $host) 254) (regexMatch (printf "^%s(\\.%s)*\\.?$" $label $label) $host) }}yes{{ end }}
{{- end }}
