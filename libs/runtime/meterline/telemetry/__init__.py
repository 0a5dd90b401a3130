"""OpenTelemetry traces, Prometheus metrics, JSON logs."""
