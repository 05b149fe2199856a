# mypy: ignore-errors
"""PySpark, local: spark_workers.py MASTER (such as "local[2]")."""

import sys

from pyspark import SparkContext
from seen import seen, show

if __name__ == "__main__":
    context = SparkContext(sys.argv[1], "seen")
    context.setLogLevel("OFF")
    show(context.parallelize(range(4), 4).map(seen).collect())
    context.stop()
