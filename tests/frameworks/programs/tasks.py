"""A Celery application whose broker lives in the worker's own memory."""

from celery import Celery
from celery.signals import worker_process_init
from seen import leave

app = Celery("tasks", broker="memory://")
worker_process_init.connect(lambda **_: leave(), weak=False)
