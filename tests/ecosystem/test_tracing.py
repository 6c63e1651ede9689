"""OpenTelemetry and Sentry: what a request has begun goes on in its tasks and callbacks."""

import threading

import pytest
from flask import Flask

from flask_delay import Delay, delay, using

DEADLINE = 20.0
MODES = pytest.mark.parametrize("mode", ["threads", "immediate"])


@pytest.fixture
def app(mode):
    app = Flask("traced", static_folder=None)
    app.config["DELAY_MODE"] = mode
    extension = Delay(app)
    yield app
    extension.shutdown()


@pytest.fixture
def exporter(app):
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("opentelemetry.instrumentation.flask")
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    exporter.tracer = provider.get_tracer("tests")
    yield exporter
    FlaskInstrumentor().uninstrument_app(app)
    provider.shutdown()


@MODES
@pytest.mark.parametrize("kind", ["plain", "async", "request"])
def test_one_trace_from_request_to_task_to_callback(app, exporter, kind):
    called = threading.Event()

    def span(name):
        with exporter.tracer.start_as_current_span(name):
            pass

    def work():
        with exporter.tracer.start_as_current_span("task"):
            span("inner")

    async def work_async():
        work()

    def report(_future):
        span("callback")
        called.set()

    @app.get("/")
    def view():
        verb = using(request=kind == "request")
        future = verb.delay(work_async if kind == "async" else work)
        future.add_done_callback(report)
        return "ok"

    client = app.test_client()
    for _ in range(2):
        called.clear()
        exporter.clear()
        assert client.get("/").text == "ok"
        assert called.wait(DEADLINE)
        assert app.extensions["delay"].executor.drain(DEADLINE)
        spans = {span.name: span for span in exporter.get_finished_spans()}
        assert spans.keys() == {"GET /", "task", "inner", "callback"}
        assert len({span.context.trace_id for span in spans.values()}) == 1
        root = spans["GET /"].context.span_id
        assert spans["GET /"].parent is None
        assert spans["task"].parent.span_id == root
        assert spans["inner"].parent.span_id == spans["task"].context.span_id
        # The context of the submit, not what the task has made of it.
        assert spans["callback"].parent.span_id == root


@pytest.fixture
def events():
    """What Sentry would have sent."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    from sentry_sdk.integrations.flask import FlaskIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.transport import Transport

    events = []

    class Memory(Transport):
        def capture_envelope(self, envelope):
            if event := envelope.get_event():
                events.append(event)

    sentry_sdk.init(
        dsn="https://key@localhost/1",
        transport=Memory,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[FlaskIntegration(), LoggingIntegration()],
    )
    yield events
    sentry_sdk.get_client().close()
    # Another init() would switch on what starts threads in later tests.
    sentry_sdk.get_global_scope().set_client(None)


def fail():
    raise LookupError("no such row")


async def fail_async():
    fail()


def work_with_a_tag():
    import sentry_sdk

    with sentry_sdk.isolation_scope() as scope:
        scope.set_tag("of", "task")
        sentry_sdk.capture_message("inside")


@MODES
@pytest.mark.parametrize("function", [fail, fail_async])
@pytest.mark.parametrize("copied", [False, True])
def test_the_event_of_a_failing_task_has_the_tags_of_its_request(app, events, function, copied):
    import sentry_sdk

    futures = []

    @app.get("/<name>")
    def view(name):
        sentry_sdk.set_tag("customer", name)
        futures.append(using(request=copied).delay(function))
        return "ok"

    client = app.test_client()
    for name in ("ann", "ben"):
        assert client.get(f"/{name}").text == "ok"
    for future in futures:
        assert isinstance(future.exception(DEADLINE), LookupError)
    assert len(events) == 2
    assert {event["tags"]["customer"] for event in events} == {"ann", "ben"}
    for event in events:
        error = event["exception"]["values"][-1]
        assert error["type"] == "LookupError"
        # The traceback leads to the line that raised.
        assert error["stacktrace"]["frames"][-1]["function"] == "fail"
        assert event["logger"] == "flask_delay"
        assert event["transaction"] == "view"


@MODES
def test_a_scope_of_the_tasks_own(app, events):
    """Context variables are carried, so a task shares its request's scope unless it forks it."""
    import sentry_sdk

    @app.get("/")
    def view():
        sentry_sdk.set_tag("of", "request")
        delay(work_with_a_tag).result(DEADLINE)
        sentry_sdk.capture_message("outside")
        return "ok"

    assert app.test_client().get("/").text == "ok"
    assert [(event["message"], event["tags"]["of"]) for event in events] == [
        ("inside", "task"),
        ("outside", "request"),
    ]
