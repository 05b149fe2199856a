/* Busy OpenMP threads, as many as the runtime starts, until killed. */
int main(void) {
#pragma omp parallel
    {
        volatile double x = 1;
        for (;;)
            x = x * 1.0000001;
    }
}
