"""PySpark, local: spark_workers.py COUNT."""

import os
import sys
import tempfile

from pyspark import SparkContext
from seen import meet, show

if __name__ == "__main__":
    count = int(sys.argv[1])
    os.environ["PYSPARK_PYTHON"] = sys.executable  # else python3 from PATH
    context = SparkContext(f"local[{count}]", "seen")
    context.setLogLevel("OFF")
    with tempfile.TemporaryDirectory() as directory:
        show(context.parallelize(range(count), count).map(lambda _: meet(directory, count)).collect())
    context.stop()
