"""The cases of docker-tests/recipes: a recipe's command, and what each process that it starts must see."""

from __future__ import annotations

from typing import NamedTuple

MARK = "recipes-case "  # before what the machine says of a case
PROBE = "python3 /machine/recipes_probe.py"
QUOTA = 1.5  # CPUs; two can be seen
CONTAINER = "/container"  # a root directory with the same Debian, blasenv in it
PORT = 8000


class Seen(NamedTuple):
    """What one process sees."""

    threads: str | None
    """OMP_NUM_THREADS, as native code reads it."""
    cpus: int
    """In its affinity mask."""
    rule: str | None
    share: int | None
    """The processes among which the limit is divided."""


class Case(NamedTuple):
    """One command."""

    name: str
    setting: str
    """What must be there for it, a function of recipes_guest.py."""
    command: str
    """For sh. With PROBE in it, or with a server that answers on PORT."""
    sees: tuple[Seen, ...] = ()
    """For each process that says what it sees, in any order."""
    release: str = "bookworm"
    says: str = ""
    """A part of what goes to stderr."""


def cases(cores: int) -> list[Case]:
    """All cases. ``cores`` is 2, or 1 where both CPUs are hardware threads of one.

    The settings file says rounding = "ceil", because between 1 and 2 CPUs only that tells one process (1.5 is 2
    threads) from two that share (0.75 is 1).
    """
    alone = Seen("2" if cores == 2 else "1", 2, "quota", 1)
    rank = Seen("1", 2, "quota", 2)
    worker = rank._replace(rule="workers")
    nothing = Seen(None, 2, "no-limit", 1)
    user = Seen("7", 2, "user-env", 1)
    told = f"export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK; srun --cpus-per-task=$SLURM_CPUS_PER_TASK {PROBE}"
    batch = "sbatch --wait --output /tmp/job"
    uwsgi = f"uwsgi --plugin python3 --http-socket :{PORT} --wsgi-file /machine/recipes_probe.py --master"
    apptainer = "setpriv --reuid able --regid able --clear-groups env"
    inside = f"{CONTAINER} {PROBE}"
    return [
        # slurmd in a cgroup with a quota, cores not confined.
        Case("one task", "slurm_limited", f"srun -n 1 {PROBE}", (alone,)),
        Case("ranks", "slurm_limited", f"srun -n 2 -c 2 {PROBE}", (rank, rank)),
        Case("ranks, SLURM_GTIDS unset", "slurm_limited", f"srun -n 2 -c 2 env -u SLURM_GTIDS {PROBE}", (rank, rank)),
        Case(
            "ranks on three nodes",
            "slurm_limited",
            f"srun -N 3 -n 5 {PROBE}",
            (rank._replace(share=3),) * 3 + (alone,) * 2,
        ),
        Case("ranks of a batch", "slurm_limited", f"{batch} -n 2 --wrap 'srun {PROBE}'; cat /tmp/job", (rank, rank)),
        Case("batch script", "slurm_limited", f"{batch} -n 2 --wrap '{PROBE}'; cat /tmp/job", (alone,)),
        # What blasenv decided for a program is not handed on to the tasks that it starts as if it were the user's.
        Case(
            "from a Python program",
            "slurm_limited",
            'env BLASENV_THREADS=5 python3 -c \'import os; del os.environ["BLASENV_THREADS"]; '
            f'os.system("echo parent=$OMP_NUM_THREADS >&2; srun -n 1 {PROBE}")\'',
            (alone,),
            says="parent=5",
        ),
        Case("the user's number", "slurm_limited", f"env OMP_NUM_THREADS=7 srun -n 1 {PROBE}", (user,)),
        # The batch script is one process, whatever its steps will be, also where sbatch hands on to the new job what
        # the step it is called in has in its environment.
        Case(
            "batch script, tasks per node",
            "slurm_limited",
            f"{batch} --ntasks-per-node=2 --wrap '{PROBE}'; cat /tmp/job",
            (alone,),
        ),
        Case(
            "batch from a step",
            "slurm_limited",
            f"srun -n 2 sh -c \"[ \\$SLURM_PROCID = 1 ] || {batch} -n 1 --wrap '{PROBE}'\"; cat /tmp/job",
            (alone,),
        ),
        # No limit: libraries see the CPUs that a task is confined to, and what nobody confines the script must say.
        Case("not confined", "slurm", f"srun -n 2 -c 1 {PROBE}", (nothing, nothing)),
        Case("told", "slurm", f"{batch} -n 2 -c 1 --wrap '{told}'; cat /tmp/job", (user._replace(threads="1"),) * 2),
        Case("confined", "slurm_cores", f"srun -n 2 -c 1 {PROBE}", (nothing._replace(cpus=1),) * 2),
        Case("confined to two", "slurm_cores", f"srun -n 1 -c 2 {PROBE}", (nothing,)),
        Case(
            "confined, below a quota",
            "slurm_cores_limited",
            f"srun -n 2 -c 1 {PROBE}",
            (Seen(None, 1, "no-gap", 1),) * 2,
        ),
        Case("quota below the cores", "slurm_cores_limited", f"srun -n 1 -c 2 {PROBE}", (alone,)),
        # Python inside a server.
        Case("one worker", "server", uwsgi, (alone,)),
        Case("two workers", "server", f"{uwsgi} -p 2", (worker,)),
        Case("in a variable", "server", f"env UWSGI_WORKERS=2 {uwsgi}", (worker,)),
        Case("in a file", "server", f"{uwsgi} --ini /tmp/workers.ini", (alone,)),
        Case("mod_wsgi, embedded", "apache", "apache2 -f /tmp/embedded.conf -D FOREGROUND", (alone,)),
        Case("mod_wsgi, daemon", "apache", "apache2 -f /tmp/daemon.conf -D FOREGROUND", (alone,)),
        # Container engines.
        *(
            Case(
                f"{form}, {release}",
                "compose",
                f"docker-compose -f /tmp/{form}.yaml up --no-log-prefix; docker-compose -f /tmp/{form}.yaml down",
                (alone._replace(threads="1"),),
                release,
            )
            for release in ("bookworm", "sid")
            for form in ("deploy", "cpus")
        ),
        Case("--cpus", "podman", f"podman run --cpus 1.5 --rootfs {inside}", (alone,)),
        Case("no limit", "podman", f"podman run --rootfs {inside}", (nothing,)),
        Case("cgroup:mixed:force", "lxc", f"lxc-execute -n seen -f /tmp/seen.conf -- {PROBE}", (alone,)),
        Case("cgroup:mixed", "lxc", f"lxc-execute -n hidden -f /tmp/hidden.conf -- {PROBE}", (nothing,)),
        Case("in a limit", "apptainer", f"{apptainer} apptainer exec {inside}", (alone,), "sid"),
        Case("contained", "apptainer", f"{apptainer} apptainer exec --containall {inside}", (alone,), "sid"),
        Case(
            "the host's number", "apptainer", f"{apptainer} OMP_NUM_THREADS=7 apptainer exec {inside}", (user,), "sid"
        ),
        Case(
            "clean environment",
            "apptainer",
            f"{apptainer} OMP_NUM_THREADS=7 apptainer exec --cleanenv {inside}",
            (alone,),
            "sid",
        ),
        Case(
            "--cpus, a user",
            "apptainer",
            f"{apptainer} apptainer exec --cpus 1.5 {inside}",
            release="sid",
            says="cannot use cgroups",
        ),
        Case(
            "--cpus, root",
            "apptainer_root",
            f"apptainer exec --no-privs --cpus 1.5 --bind /sys/fs/cgroup {inside}",
            (alone,),
            "sid",
        ),
        Case(
            "--cpus, root, not bound",
            "apptainer_root",
            f"apptainer exec --no-privs --cpus 1.5 {inside}",
            (nothing,),
            "sid",
        ),
    ]
