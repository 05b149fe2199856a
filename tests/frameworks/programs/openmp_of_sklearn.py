"""The OpenMP threads of scikit-learn's own loops, after HistGradientBoosting has used them, in this process."""

import numpy
from seen import seen, show
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

if __name__ == "__main__":
    x = numpy.linspace(0, 1, 400).reshape(-1, 1)
    HistGradientBoostingRegressor(max_iter=3).fit(x, x[:, 0])
    show([{**seen(), "threads": _openmp_effective_n_threads()}])
