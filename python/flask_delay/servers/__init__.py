"""The parts that depend on the app's server, and on the end of its process.

Almost all private parts of these that the package needs are used in this folder and listed here:
the name, the module, the feature that needs it, and the tested versions. For each of them
`tests/servers/test_private.py` has a test that fails when it is gone.
`src/bindings/ffi/cpython.rs` lists the private parts that the Rust half needs.

| private part | module | what it is for | tried on |
| --- | --- | --- | --- |
| `threading._register_atexit` | cpython | jobs, processes, SIGTERM at exit | 3.11-3.13 |
| `threading._shutdown` on the stack | cpython | SIGTERM at exit | 3.11-3.13 |
| `sys._current_frames` | cpython | jobs and durable tasks run in servers; stacks | 3.11-3.13 |
| `subprocess._args_from_interpreter_flags` | cpython | options of worker processes | 3.11-3.13 |
| `sys._xoptions` | cpython | options of worker processes | 3.11-3.13 |
| `flask.cli` on the stack | role | jobs and durable tasks do not run for a command | 3.0, 3.1 |
| `werkzeug._reloader` on the stack | role | jobs run where the app is served | 3.0, 3.1 |
| `werkzeug._reloader.subprocess` | werkzeug | SIGTERM and tasks reach the child | 3.0, 3.1 |
| `gunicorn.arbiter` on the stack | role | jobs and tasks run where the app is served | 23.0, 27.0 |
| `gunicorn.workers.gthread`, `Worker.cfg` | capacity | streams leave threads free | 23.0, 27.0 |
| `granian.server.mp` on the stack | capacity | streams leave threads free | 2.8 |
| gunicorn's `Worker.tmp` | gunicorn | tasks outlive `timeout` at the end | 23.0, 27.0 |
| uvicorn's `Server._captured_signals` | uvicorn | tasks end first at SIGTERM | 0.34, 0.54 |
| `gevent._hub_local` | gevent | waiting in a greenlet; threads leave no hub | 24.11, 26.9 |
| uWSGI's `opt`, `atexit`, `post_fork_hook` | uwsgi | jobs after a fork, tasks at exit | 2.0.31 |

Two are used elsewhere:

| private part | module | what it is for | tried on |
| --- | --- | --- | --- |
| `flask.ctx`: `_session` | context.sessions | a session is not marked as read | 3.0, 3.1 |
| prometheus_client's `Histogram` | observe.prometheus | many times at once | 0.21, 0.26 |
"""
