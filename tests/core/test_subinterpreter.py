"""An import in a subinterpreter, as mod_wsgi makes one for each application."""

import pytest

SCRIPT = """
import sys

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    made = interpreters.create("legacy")
else:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=False)
{before}
interpreters.run_string(made, '''
try:
    import flask_delay
except ImportError as error:
    print(error, flush=True)
''')
interpreters.destroy(made)
print("left", flush=True)
"""


@pytest.mark.parametrize("before", ["", "import flask_delay"])
def test_is_refused_with_the_remedy(run_script, before):
    done = run_script(SCRIPT.format(before=before), timeout=20, flags=())
    assert done.rc == 0, done.err
    refused, left = done.out.splitlines()
    # What has been loaded by the main interpreter is refused by PyO3, which knows no remedy.
    assert ("subinterpreter" if before else "WSGIApplicationGroup %{GLOBAL}") in refused
    assert left == "left"
