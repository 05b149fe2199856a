"""scikit-learn's GridSearchCV with two workers: each fit leaves what its worker sees in SEEN_IN."""

from __future__ import annotations

import os
from typing import Any

import numpy
from seen import meet
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV


class Seeing(BaseEstimator):
    def __init__(self, c: int = 0) -> None:
        self.c = c

    def fit(self, x: Any, y: Any) -> Seeing:
        meet(os.environ["SEEN_IN"], 2)
        return self

    def score(self, x: Any, y: Any) -> float:
        return 0


if __name__ == "__main__":
    search = GridSearchCV(Seeing(), {"c": [1, 2]}, cv=2, n_jobs=2, refit=False)
    search.fit(numpy.zeros((8, 1)), numpy.zeros(8))
