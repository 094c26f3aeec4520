{{/* The pod of a worker: of a Job that ends with its experiments, or of a Deployment that stands. */}}
{{- define "qslm.worker" }}
    metadata:
      labels:
        app.kubernetes.io/part-of: qslm
        app.kubernetes.io/name: qslm-worker
    spec:
      {{- if ne .Values.mode "pool" }}
      restartPolicy: Never
      {{- end }}
      serviceAccountName: qslm-worker
      automountServiceAccountToken: false
      enableServiceLinks: false
      # Work is on its way again 15 s after a node is lost. A Deployment starts a pod in its place after a minute, not after five;
      # a Job once the Node is deleted, or tainted node.kubernetes.io/out-of-service.
      tolerations:
        - key: node.kubernetes.io/not-ready
          operator: Exists
          effect: NoExecute
          tolerationSeconds: 60
        - key: node.kubernetes.io/unreachable
          operator: Exists
          effect: NoExecute
          tolerationSeconds: 60
      # Handing leases back takes 2 s, an evaluation that does not look up 3 s more.
      terminationGracePeriodSeconds: 20
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      # Over nodes if there are several, but never waiting for one.
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              app.kubernetes.io/name: qslm-worker
      containers:
        - name: worker
          image: {{ include "qslm.image" . }}
          {{- with .Values.image.pullPolicy }}
          imagePullPolicy: {{ . }}
          {{- end }}
          command: [qslm-worker, --config, /config/worker.toml{{ if ne .Values.mode "pool" }}, --until-done{{ end }}]
          terminationMessagePolicy: FallbackToLogsOnError
          env:
            - name: QSLM_WORKER_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            {{- if ne .Values.mode "pool" }}
            # Name of the experiment that they wait for, work for and end with: `kubectl create configmap qslm-sweep
            # --from-literal experiment=NAME`. Without it, all that there are.
            - name: QSLM_WORKER_EXPERIMENT
              valueFrom:
                configMapKeyRef:
                  name: qslm-sweep
                  key: experiment
                  optional: true
            {{- end }}
            - name: QSLM_TERMINATION_MESSAGE
              value: /dev/termination-log
          ports:
            - name: monitor
              containerPort: 7479
          # A worker without a coordinator waits for it: that is no reason to restart it.
          livenessProbe:
            grpc:
              port: 7479
            periodSeconds: 10
            failureThreshold: 6
          # One evaluation per core of the limit. This fits kind and minikube with two cores; for more, overlays/large.
          resources:
            {{- toYaml (.Values.workers.resources) | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: cache
              mountPath: /cache
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
        - name: cache
          emptyDir:
            sizeLimit: 5Gi
        - name: config
          configMap:
            name: qslm-config
        - name: tokens
          secret:
            secretName: {{ include "qslm.tokens" . }}
            defaultMode: 0440
            items:
              - key: worker
                path: worker
        {{- if .Values.tls.enabled }}
        - name: tls
          secret:
            secretName: {{ .Values.tls.workerSecret }}
            defaultMode: 0440
        {{- end }}
{{- end }}
