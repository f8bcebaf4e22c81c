"""tools/launch.py with commands that only play scheduler, server and worker."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import launch
import pytest
from conftest import ROOT, expect_error

from distributed import launcher

LAUNCH = [sys.executable, str(ROOT / "tools" / "launch.py")]
SECONDS = 60


class Launched:
    """A launch.py in the background, whose processes a variable of its own marks."""

    def __init__(self, *arguments, inside=(), output=subprocess.PIPE, **options):
        self.mark = "LAUNCH_TEST=" + uuid.uuid4().hex
        self.process = subprocess.Popen(
            [*inside, *LAUNCH, "--env", self.mark, *map(str, arguments)], text=True,
            stdout=output, stderr=subprocess.STDOUT, **options)
        self.text = ""

    def wait_for(self, text):
        while text not in self.text:
            line = self.process.stdout.readline()
            assert line, f"{text} did not come: {self.text}"
            self.text += line

    def end(self, seconds=SECONDS):
        """The exit status; nothing may be left."""
        self.text += self.process.communicate(timeout=seconds)[0]
        assert not self.left()
        return self.process.returncode

    def left(self):
        """Processes that carry the mark."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    marked = self.mark.encode() in file.read()
                with open(f"/proc/{pid}/stat") as file:
                    marked = marked and file.read().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                continue
            if marked:
                found.append(int(pid))
        return found


def shell(workers, others="exit 0"):
    """A command that does one thing as a worker and another as scheduler or server."""
    return "sh", "-c", f'if [ "$DMLC_ROLE" = worker ]; then {workers}; else {others}; fi'


def test_every_process_gets_its_role_and_every_line_its_name():
    job = Launched("-n", 2, "-s", 1, "sh", "-c",
                   "echo $DMLC_ROLE $DMLC_RANK $DMLC_NUM_WORKER $DMLC_NUM_SERVER "
                   "$DMLC_PS_ROOT_URI; echo $DMLC_PS_ROOT_PORT")
    assert job.end() == 0
    ports = set(re.findall(r"\] (\d+)$", job.text, re.MULTILINE))
    assert len(ports) == 1
    lines = [line for line in job.text.splitlines() if not re.search(r"\] \d+$", line)]
    assert sorted(lines) == [
        "[scheduler] scheduler 0 2 1 127.0.0.1", "[server 0] server 0 2 1 127.0.0.1",
        "[worker 0] worker 0 2 1 127.0.0.1", "[worker 1] worker 1 2 1 127.0.0.1"]


def test_lines_stay_whole_and_of_a_progress_bar_the_last_state():
    job = Launched("-n", 2, "-s", 1, *shell(
        r"printf 'a'; sleep 0.3; printf 'b\n 10%%\r 99%%\r\nno end'"))
    assert job.end() == 0
    for rank in (0, 1):
        lines = [x for x in job.text.splitlines() if x.startswith(f"[worker {rank}]")]
        assert lines == [f"[worker {rank}] {text}" for text in ("ab", " 99%", "no end")]


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_when_one_fails_all_end_with_its_status(stubborn):
    job = Launched("-n", 3, "-s", 1, *shell(
        f"{stubborn} if [ $DMLC_RANK = 1 ]; then exit 7; fi; sleep 1000 & sleep 1000",
        f"{stubborn} sleep 1000"))
    assert job.end() == 7  # long before the others' 1000 seconds
    assert "worker 1 ended with exit status 7" in job.text


@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_a_killed_server_or_scheduler_ends_all(role):
    job = Launched("-n", 1, "-s", 1, "sh", "-c",
                   f"[ $DMLC_ROLE = {role} ] && kill -9 $$; sleep 1000")
    assert job.end() == 137
    assert f"launch.py: {role}" in job.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_worker_who_may_save_in_peace(number):
    name = number.name[3:]
    job = Launched("-n", 2, "-s", 1, sys.executable, "-c", f"""
import os, signal, sys, time
def save(*_):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(128 + {int(number)})
if os.environ["DMLC_ROLE"] == "worker":
    signal.signal(signal.SIG{name}, save)
    print("ready", os.environ["DMLC_RANK"], flush=True)
time.sleep(1000)
""")
    job.wait_for("ready 0")
    job.wait_for("ready 1")
    job.process.send_signal(number)
    assert job.end() == 128 + number
    assert job.text.count("saved") == 2


def test_a_second_signal_kills():
    job = Launched("-n", 1, "-s", 1, *shell("trap '' TERM; echo ready; sleep 1000", "sleep 1000"))
    job.wait_for("ready")
    job.process.terminate()
    time.sleep(0.5)
    assert job.process.poll() is None
    job.process.terminate()
    assert job.end() == 137


def test_kill_9_of_launch_leaves_nothing_behind():
    job = Launched("-n", 2, "-s", 1, *shell("echo ready; sleep 1000 & sleep 1000", "sleep 1000"))
    job.wait_for("ready")
    assert len(job.left()) > 4
    job.process.kill()
    while job.left():
        time.sleep(0.1)


def test_max_restarts_starts_anew_with_resume(tmp_path):
    script = shell(f'echo "[$*]"; echo >> {tmp_path}/starts; '
                   f"[ $(wc -l < {tmp_path}/starts) = 3 ] || exit 5")
    job = Launched("-n", 1, "-s", 1, "--max-restarts", 2, "--network-timeout", 5, *script, "train",
                   "--lr", "1")
    assert job.end() == 0
    words = re.findall(r"\[worker 0\] \[(.*)\]", job.text)
    assert words == ["--lr 1", "--lr 1 --resume", "--lr 1 --resume"]
    job = Launched("-n", 1, "-s", 1, "--max-restarts", 1, *shell("exit 5"))
    assert job.end() == 5


def test_a_signal_ends_the_wait_between_two_restarts():
    job = Launched("-n", 1, "-s", 1, "--max-restarts", 2, "--network-timeout", 1000,
                   *shell("exit 5"))
    job.wait_for("waiting until")
    job.process.terminate()
    assert job.end() == 143


def test_a_mistake_is_not_started_anew():
    job = Launched("-n", 1, "-s", 1, "--max-restarts", 3, *shell("echo started; exit 2"))
    assert job.end() == 2
    assert job.text.count("started") == 1


@pytest.mark.parametrize("words,same", [([], True), (["--resume"], False)])
def test_a_restart_knows_its_run_unless_it_was_to_resume_an_earlier_one(words, same):
    job = Launched("-n", 1, "-s", 1, "--max-restarts", 1,
                   *shell("echo id=$MULTILABEL_RUN_ID; exit 5"), "train", *words)
    assert job.end() == 5
    ids = re.findall(r"\[worker 0\] id=(.*)", job.text)
    assert len(ids) == 2 and ids[0] == ids[1] and bool(ids[0]) == same


@pytest.mark.parametrize("role", ["scheduler", "server", "worker"])
def test_a_killed_supervisor_takes_its_process_along(role):
    job = Launched("-n", 1, "-s", 1, "sh", "-c", "echo $DMLC_ROLE $$; exec sleep 1000")
    job.wait_for(f"{role} ")
    pid = int(re.search(rf"{role} (\d+)$", job.text, re.MULTILINE).group(1))
    with open(f"/proc/{pid}/stat") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    assert job.end() == 137


@pytest.mark.slow
def test_a_failure_after_a_signal_ends_all_with_its_status():
    job = Launched("-n", 2, "-s", 1, *shell(
        "trap 'sleep 1; [ $DMLC_RANK = 1 ] && exit 9' TERM; echo ready; "
        "while true; do sleep 0.2; done", "sleep 1000"))
    job.wait_for("[worker 0] ready")
    if "[worker 1] ready" not in job.text:
        job.wait_for("[worker 1] ready")
    job.process.terminate()
    assert job.end() == 9


def test_the_first_host_that_is_another_machine_says_which_address_is_ours(monkeypatch):
    class Probe:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def connect(self, address):
            self.name = address[0]

        def getsockname(self):
            return {"localhost": "127.0.0.1", "near": "192.0.2.7"}[self.name], 1

    monkeypatch.setattr(launcher.socket, "socket", lambda *_: Probe())
    assert launcher.own_address(["localhost", "me@near:22"]) == "192.0.2.7"
    assert launcher.own_address(["localhost"]) == "127.0.0.1"


@pytest.mark.parametrize("variables,expected", [
    (["DMLC_NODE_HOST="], "127.0.0.1"), (["DMLC_NODE_HOST=10.1.2.3"], "10.1.2.3"),
    (["DMLC_NODE_HOST=", "DMLC_INTERFACE=eth9"], "")])
def test_servers_and_workers_listen_at_the_address_that_faces_the_scheduler(variables, expected):
    job = Launched("-n", 1, "-s", 1, *(word for v in variables for word in ("--env", v)),
                   "sh", "-c", "echo address=$DMLC_NODE_HOST")
    assert job.end() == 0
    assert re.findall("address=(.*)", job.text) == [expected] * 3


def test_a_scheduler_without_a_route_is_told_in_one_line():
    job = Launched("-n", 1, "-s", 1, "--env", "DMLC_PS_ROOT_URI=not a host", "--env",
                   "DMLC_NODE_HOST=", "true")
    assert job.end() == 1
    assert "no route to the scheduler, not a host: " in job.text and "Traceback" not in job.text


def test_launch_does_not_import_mxnet():
    subprocess.run([sys.executable, "-c", "import sys, launch; assert 'mxnet' not in sys.modules"],
                   check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "tools")})


def test_a_taken_port_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        job = Launched("-n", 1, "-p", port, "true")
        assert job.end() == 2
    assert f"port {port}" in job.text and len(job.text.splitlines()) == 1


def test_a_command_that_does_not_exist():
    job = Launched("-n", 1, "-s", 1, "no-such-command")
    assert job.end() == 1
    assert "no-such-command: No such file or directory" in job.text
    assert "Traceback" not in job.text


@pytest.fixture
def ssh(tmp_path):
    """The environment with an ssh that runs on this machine what it would have run on another."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ssh"
    # As sshd does: the words after the host, joined by blanks, go to the user's shell.
    program.write_text('#!/bin/sh\necho "$@" | head -n 1 >> "$SSH_LOG"\n'
                       'while [ "$1" != -- ]; do shift; done\nshift 2\ncd /\nexec sh -c "$*"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
            "SSH_LOG": str(tmp_path / "ssh.log")}


def test_over_ssh_words_folders_and_variables_arrive_as_they_are(ssh, tmp_path):
    folder = tmp_path / "a folder with 'quotes' & $(touch pwned)"
    folder.mkdir()
    hostfile = tmp_path / "hosts.txt"
    hostfile.write_text("# machines\n127.0.0.1\n\nme@127.0.0.1:2222  # the other\n")
    words = ["two words", "it's", 'a "b"', "$(touch pwned)", "`touch pwned`", "; touch pwned", "*",
             "", "new\nline", "--resume", "ü"]
    show = ("import json, os, sys; "
            "print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['PYTHONPATH'], "
            "os.environ['MXNET_X'], os.environ['Y']]))")
    ssh.update(PYTHONPATH="a b:c'd", MXNET_X="$HOME")
    job = Launched("-n", 2, "-s", 1, "-H", hostfile, "--launcher", "ssh", "--env", "Y=1 2=3",
                   sys.executable, "-c", show, *words, cwd=folder, env=ssh)
    assert job.end() == 0
    for name in ("scheduler", "server 0", "worker 0", "worker 1"):
        received = [x for x in job.text.splitlines() if x.startswith(f"[{name}] ")]
        assert json.loads(received[0][len(name) + 3:]) == [
            words, str(folder), "a b:c'd", "$HOME", "1 2=3"]
    assert not list(tmp_path.rglob("pwned"))
    calls = (tmp_path / "ssh.log").read_text()
    assert calls.count("BatchMode=yes -p 2222 -- me@127.0.0.1") == 1
    assert calls.count("BatchMode=yes -- 127.0.0.1") == 2
    assert calls.count("ServerAliveInterval=") == 3


def test_over_ssh_what_no_longer_hears_of_launch_ends(ssh, tmp_path):
    (tmp_path / "hosts.txt").write_text("127.0.0.1\n")
    job = Launched("-n", 1, "-H", tmp_path / "hosts.txt", "--launcher", "ssh",
                   "--network-timeout", 5, *shell("echo ready $$; exec sleep 1000", "sleep 1000"),
                   env=ssh)
    job.wait_for("ready ")
    worker = Path("/proc", re.search(r"ready (\d+)", job.text)[1])
    job.process.send_signal(signal.SIGSTOP)
    while worker.exists():
        time.sleep(0.1)
    job.process.send_signal(signal.SIGCONT)
    assert job.end() == 137


def test_a_closed_terminal_lets_the_workers_save(tmp_path):
    saved = tmp_path / "saved"
    master, terminal = os.openpty()
    job = Launched("-n", 1, sys.executable, "-c", """
import os, signal, sys, time
def save(*_):
    for _ in range(20):
        print("saving", flush=True)
        time.sleep(0.05)
    open(sys.argv[1], "w").close()
    sys.exit(129)
if os.environ["DMLC_ROLE"] == "worker":
    signal.signal(signal.SIGHUP, save)
    print("ready", flush=True)
time.sleep(1000)
""", saved, output=terminal)
    os.close(terminal)
    text = b""
    while b"ready" not in text:
        text += os.read(master, 1000)
    os.close(master)
    job.process.send_signal(signal.SIGHUP)
    assert job.process.wait(SECONDS) == 129
    assert saved.exists() and not job.left()


def test_over_ssh_another_folder_and_the_end_of_all(ssh, tmp_path):
    hostfile, folder = tmp_path / "hosts.txt", tmp_path / "there"
    folder.mkdir()
    hostfile.write_text("127.0.0.1\n")
    job = Launched("-n", 2, "-s", 1, "-H", hostfile, "--launcher", "ssh", "--remote-dir", folder,
                   *shell("pwd; [ $DMLC_RANK = 1 ] && sleep 5 && exit 9; sleep 1000",
                          "sleep 1000"), env=ssh)
    assert job.end() == 9
    assert f"[worker 0] {folder}" in job.text


@pytest.mark.parametrize("host", [
    "-oProxyCommand=touch x", "a b", "a;b", "$(a)", "a|b", "host:0", "host:99999", "host:x", "@a",
    "a@-b"])
def test_what_is_not_a_host_is_refused_with_its_line(host, tmp_path):
    hostfile = tmp_path / "hosts.txt"
    hostfile.write_text(f"node1\n{host}\n")
    with expect_error(file=hostfile, line=2):
        launcher.read_hosts(str(hostfile))


def test_without_ssh_it_is_said(monkeypatch):
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    with expect_error(flag="--launcher"):
        launch.main(["-n", "1", "-H", "hosts.txt", "--launcher", "ssh", "true"])


def test_hosts_may_have_underscores_and_the_file_a_byte_order_mark(tmp_path):
    (tmp_path / "hosts.txt").write_bytes("\ufeffgpu_1\nme@gpu-2:22\n".encode())
    assert launcher.read_hosts(str(tmp_path / "hosts.txt")) == ["gpu_1", "me@gpu-2:22"]


@pytest.mark.parametrize("arguments,fields", [
    (["-n", "0", "true"], {"flag": "--num-workers"}),
    (["-n", "1", "-s", "0", "true"], {"flag": "--num-servers"}),
    (["-n", "1"], {}), (["-n", "1", "-p", "99999", "true"], {"flag": "--port"}),
    (["-n", "1", "--launcher", "ssh", "true"], {"flag": "--launcher"}),
    (["-n", "1", "--host-ip", "x", "true"], {"flag": "--host-ip"}),
    (["-n", "1", "--env", "1=2", "true"], {"flag": "--env"}),
    (["-n", "1", "-H", "no/such/file", "--launcher", "ssh", "true"], {"file": "no/such/file"})])
def test_mistakes_are_told(arguments, fields, monkeypatch):
    monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
    with expect_error(**fields):
        launch.main(arguments)
