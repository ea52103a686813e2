"""Runs one program, which a model wrote, under limits, and tells how it ended. Sandbox.fs starts it and reads what it tells.

Standard input brings a request in JSON. The program runs in a child of this process: as nobody where root starts it, in namespaces
of its own (processes, network, IPC, mounts with a small tmpfs as its folder) and under Landlock as far as the kernel has them.
Each verdict is a line that begins with the request's nonce; the first one counts."""
import ctypes, json, os, resource, signal, struct, sys

NOBODY = 65534
request = json.loads(sys.stdin.buffer.read())
libc = ctypes.CDLL(None, use_errno=True)
verdicts = os.dup(1)
has = {"namespaces": False, "tmpfs": False, "landlock": False, "nobody": os.geteuid() == 0}


def tell(verdict, why=""):
    line = json.dumps({"verdict": verdict, "why": why, **has})
    os.write(verdicts, f"{request['nonce']}{line}\n".encode())


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


def part():
    """Namespaces of its own; the next child is the first of its processes, with which all others end."""
    mounts, ipc, user, processes, network = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
    uid, gid, root = os.getuid(), os.getgid(), has["nobody"]

    if libc.unshare(mounts | ipc | processes | network | (0 if root else user)) != 0:
        return

    if not root:
        put("/proc/self/setgroups", "deny")
        put("/proc/self/uid_map", f"{uid} {uid} 1")
        put("/proc/self/gid_map", f"{gid} {gid} 1")

    has["namespaces"] = True
    recursive_private, no_set_id_no_devices = ctypes.c_ulong(0x44000), ctypes.c_ulong(0x6)
    libc.mount(None, b"/", None, recursive_private, None)
    size = f"size={request['folder_mib']}m,mode=777".encode()
    here = os.getcwd().encode()
    has["tmpfs"] = libc.mount(b"none", here, b"tmpfs", no_set_id_no_devices, size) == 0
    os.chdir(here)


def lock():
    """Landlock: nothing is written but the folder and /dev/null, no TCP, no signals to others, nothing read of their memory."""
    create, add, restrict, write_file, truncate = 444, 445, 446, 1 << 1, 1 << 14
    version = libc.syscall(create, None, 0, 1)

    if version < 1:
        return

    # Removing and making entries is 4 to 12, moving them 13, truncating 14.
    writes = write_file | sum(1 << bit for bit in range(4, 15 if version >= 3 else 14 if version == 2 else 13))
    rules = struct.pack("QQQ", writes, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(create, rules[:size], size, 0)

    for path, allowed in (".", writes), ("/dev/null", writes & (write_file | truncate)):
        beneath = struct.pack("=Qi", allowed, os.open(path, os.O_PATH))
        libc.syscall(add, ruleset, 1, beneath, 0)

    has["landlock"] = libc.syscall(restrict, ruleset, 0) == 0


def confine():
    die_with_parent, no_new_privileges = 1, 38

    if has["nobody"]:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    libc.prctl(die_with_parent, signal.SIGKILL, 0, 0, 0)
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    lock()
    mib = 1 << 20

    for limit, most in (
        (resource.RLIMIT_CPU, request["cpu_s"]),
        (resource.RLIMIT_AS, request["memory_mib"] * mib),
        (resource.RLIMIT_FSIZE, request["file_mib"] * mib),
        (resource.RLIMIT_NPROC, request["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def run():
    confine()

    try:
        exec(compile(request["program"], "<generated>", "exec"), {"__name__": "generated"})
    except BaseException as error:
        try:
            why = f"{type(error).__name__}: {error}"[:200]
        except BaseException:
            why = "an exception that cannot be told"

        tell("failed", why)
    else:
        tell("passed")


def end(*_):
    tell("timed out")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.killpg(0, signal.SIGKILL)


try:
    os.setsid()
    part()

    if has["nobody"]:
        os.chown(".", NOBODY, NOBODY)

    child = os.fork()
except OSError as error:
    tell("broken", str(error))
    os._exit(1)

if child == 0:
    try:
        null = os.open("/dev/null", os.O_RDWR)

        for descriptor in range(3):
            os.dup2(null, descriptor)

        run()
    except BaseException as error:
        tell("broken", str(error))
    finally:
        os._exit(0)

signal.signal(signal.SIGALRM, end)
signal.setitimer(signal.ITIMER_REAL, request["wall_s"])
_, status = os.waitpid(child, 0)
ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
tell("killed" if ended_by else "ended early", signal.Signals(ended_by).name if ended_by else "")
os.killpg(0, signal.SIGKILL)
