"""blasenv, for every interpreter and every venv that has this file's directory on sys.path.

Python imports the first ``sitecustomize`` on sys.path when it starts (docs.python.org, site).
In the directory of the standard library that is this one, for the interpreter and for all
venvs made from it. It runs the start-up code that lies beside it in ``_blasenv_startup``, a
copy of blasenv's, and then the ``sitecustomize`` that Python would have found without it.

BLASENV_DISABLE=1 switches off blasenv, not the other ``sitecustomize``.
"""

import os
import sys

# A hook in a venv's site-packages runs before this file. The nearer installation has decided.
if os.getenv("BLASENV_DISABLE", "0") in "0 no No NO false False FALSE off Off OFF" and not hasattr(sys, "_blasenv"):
    try:
        try:
            from _blasenv_startup import run
        except ImportError:  # pip install --target puts the whole package here
            from blasenv import run
        run()
    except Exception:  # noqa: BLE001, S110  half copied or broken, it must not stop a start
        pass


def _find_hidden():
    """The import spec of the sitecustomize that this one hides, None if there is none."""
    here = os.path.dirname(os.path.abspath(__file__))
    # What was in this file's place before, where "blasenv install" has put it.
    aside = os.path.join(here, "sitecustomize.distrib.py")
    if os.path.isfile(aside):
        from _frozen_importlib_external import spec_from_file_location

        return spec_from_file_location("sitecustomize", aside)
    places = [os.path.abspath(place) for place in sys.path]
    behind = sys.path[places.index(here) + 1 :] if here in places else []
    for finder in sys.meta_path:
        spec = finder.find_spec("sitecustomize", behind)
        if spec is not None:
            return spec
    return None


_spec = _find_hidden()
if _spec is not None:
    # importlib.util has these two, and imports ten modules more.
    from _frozen_importlib import module_from_spec

    # The import statement returns what is in sys.modules in the end, and reports what goes wrong.
    sys.modules["sitecustomize"] = _module = module_from_spec(_spec)
    if _spec.loader is not None:
        _spec.loader.exec_module(_module)
