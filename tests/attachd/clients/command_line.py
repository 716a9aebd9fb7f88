"""Run by the Python of the field's clients: their command lines, many in one process.

Each line on stdin is the program and its arguments, as JSON; the answer is its exit status and
what it printed. To start one of these programs takes seconds.
"""

import contextlib
import io
import json
import sys
import warnings
from importlib import import_module

MODULES = {"cinder": "cinderclient.shell", "openstack": "openstackclient.shell"}
warnings.simplefilter("ignore")


def run(program: str, arguments: list[str]) -> int:
    sys.argv = [program, *arguments]
    try:
        return import_module(MODULES[program]).main() or 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


for line in sys.stdin:
    program, *arguments = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(program, arguments)
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
