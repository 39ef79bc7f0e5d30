{{- /* A file of ours with the label of the job in it. */ -}}
{{- define "balsa-monitoring.file" -}}
{{ (index . 0).Files.Get (index . 1) | replace "JOB" (index . 0).Values.job }}
{{- end }}

{{- /* The alert rules with the labels that the user adds. */ -}}
{{- define "balsa-monitoring.rules" -}}
{{- $rules := include "balsa-monitoring.file" (list . "files/alerts.yaml") | fromYaml -}}
{{- $groups := list -}}
{{- range $group := $rules.groups -}}
{{- $alerts := list -}}
{{- range $alert := $group.rules -}}
{{- $alerts = append $alerts (set $alert "labels" (merge $alert.labels $.Values.rules.labels)) -}}
{{- end -}}
{{- $groups = append $groups (set $group "rules" $alerts) -}}
{{- end -}}
{{ dict "groups" $groups | toYaml }}
{{- end }}
