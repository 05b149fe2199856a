"""An rq worker that says that it is there."""

from typing import Any

from rq import Worker
from seen import leave


class Seen(Worker):
    def work(self, *words: Any, **options: Any) -> bool:
        leave()
        return bool(super().work(*words, **options))
