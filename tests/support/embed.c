/* An interpreter inside another program: embed PYTHON SCRIPT runs SCRIPT as PYTHON would. */
#include <Python.h>

int main(int argc, char **argv)
{
    PyConfig config;
    if (argc != 3)
        return 2;
    PyConfig_InitPythonConfig(&config);
    PyConfig_SetBytesString(&config, &config.program_name, argv[1]);
    PyStatus status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    FILE *script = fopen(argv[2], "r");
    int failed = script == NULL || PyRun_SimpleFileEx(script, argv[2], 1);
    return Py_FinalizeEx() < 0 || failed;
}
