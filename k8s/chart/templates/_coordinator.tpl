{{/* The pod of the coordinator: of a StatefulSet, or of the Job of a sweep, which ends. */}}
{{- define "qslm.coordinator" }}
    metadata:
      labels:
        app.kubernetes.io/part-of: qslm
        app.kubernetes.io/name: qslm-coordinator
    spec:
      {{- if eq .Values.mode "sweep" }}
      restartPolicy: Never
      {{- end }}
      serviceAccountName: qslm-coordinator
      automountServiceAccountToken: false
      # Kubernetes would add variables that begin with QSLM_COORDINATOR_, like our settings.
      enableServiceLinks: false
      # It drains in 4 s; the rest is for a slow disk.
      terminationGracePeriodSeconds: 30
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: coordinator
          image: {{ include "qslm.image" . }}
          {{- with .Values.image.pullPolicy }}
          imagePullPolicy: {{ . }}
          {{- end }}
          command: [qslm-coordinator, --config, /config/coordinator.toml{{ if eq .Values.mode "sweep" }}, --until-done{{ end }}]
          terminationMessagePolicy: FallbackToLogsOnError
          env:
            - name: QSLM_TERMINATION_MESSAGE
              value: /dev/termination-log
          ports:
            - name: grpc
              containerPort: 7477
            - name: web
              containerPort: 7478
            - name: monitor
              containerPort: 7479
          # It listens after it has opened the store, and reads the rest while it serves. None of this depends on workers.
          startupProbe:
            grpc:
              port: 7479
            periodSeconds: 2
            failureThreshold: 150
          readinessProbe:
            grpc:
              port: 7479
              service: qslm.v1.Experiments
            periodSeconds: 5
          livenessProbe:
            grpc:
              port: 7479
            periodSeconds: 10
            failureThreshold: 6
          resources:
            {{- toYaml .Values.coordinator.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: data
              mountPath: /data
            - name: config
              mountPath: /config
              readOnly: true
            - name: tokens
              mountPath: /secrets/tokens
              readOnly: true
            {{- if .Values.tls.enabled }}
            - name: tls
              mountPath: /secrets/tls
              readOnly: true
            {{- end }}
      volumes:
        {{- if eq .Values.mode "sweep" }}
        - name: data
          persistentVolumeClaim:
            claimName: data-qslm-coordinator-0
        {{- end }}
        - name: config
          configMap:
            name: qslm-config
        - name: tokens
          secret:
            secretName: {{ include "qslm.tokens" . }}
            defaultMode: 0440
            items:
              - key: tokens
                path: tokens
        {{- if .Values.tls.enabled }}
        - name: tls
          secret:
            secretName: {{ .Values.tls.coordinatorSecret }}
            defaultMode: 0440
        {{- end }}
{{- end }}
