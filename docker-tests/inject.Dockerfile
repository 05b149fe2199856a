# Images that nobody prepared for blasenv, each with something that could get in the way.
ARG BASE

FROM ${BASE} AS plain

# PYTHONPATH and a sitecustomize of its own.
FROM ${BASE} AS own
RUN mkdir /app && echo 'import os; os.environ["OWN_SITECUSTOMIZE"] = "ran"' > /app/sitecustomize.py
ENV PYTHONPATH=/app

FROM ${BASE} AS hook
ARG PYTHON
COPY blasenv /usr/local/lib/python${PYTHON}/dist-packages/blasenv
COPY blasenv/a0_blasenv.pth /usr/local/lib/python${PYTHON}/dist-packages/

FROM ${BASE} AS no-python
RUN rm -rf /usr/bin/python3* /usr/lib/python3*

FROM ${BASE} AS entrypoint
RUN printf '#!/bin/sh\npython3 "$@"\nexit $?\n' > /entrypoint.sh && chmod 755 /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]

# The place is taken.
FROM ${BASE} AS taken
RUN echo > /.blasenv
