{{- define "qslm.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "qslm.tokens" -}}
{{ .Values.tokens.secret | default "qslm-tokens" }}
{{- end }}

{{- define "qslm.address" -}}
{{ if .Values.tls.enabled }}https{{ else }}http{{ end }}://qslm-coordinator:7477
{{- end }}
