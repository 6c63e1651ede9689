"""Metrics of tasks for Prometheus, by its own client library.

    from flask_delay.contrib import prometheus

    background = Delay(app)
    prometheus.export(background)
    app.add_url_rule("/metrics", view_func=prometheus.metrics)

The metrics are ordinary metrics of `prometheus_client`, in its registry beside those of the app. In
its multiprocess mode (`PROMETHEUS_MULTIPROC_DIR` in the environment) each process keeps its own,
and the page of any process shows all of them.
"""

from flask_delay.observe.prometheus import export, metrics

__all__ = ["export", "metrics"]
