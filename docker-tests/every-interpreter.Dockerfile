# The image of every-interpreter: many Pythons, covered by one line.

ARG BASE
FROM ${BASE}
COPY every_interpreter.py snapshot.py killed.py /check/
RUN ["python3", "-ISB", "/check/every_interpreter.py", "make"]

# blasenv in an environment of its own, which it leaves out of nothing.
COPY blasenv /blasenv
RUN python3 -m venv --without-pip /opt/blasenv && \
    python3 -m zipfile -e /blasenv/*.whl "$(/opt/blasenv/bin/python -Ic 'import site; print(site.getsitepackages()[0])')" && \
    printf '#!/bin/sh\nexec /opt/blasenv/bin/python -B -m blasenv "$@"\n' > /usr/local/bin/blasenv && \
    chmod 755 /usr/local/bin/blasenv
RUN ["python3", "-ISB", "/check/every_interpreter.py", "snapshot"]

RUN blasenv install --all && blasenv scan --strict
