"""One run at a time in a folder: whoever lives keeps it, whoever died loses it, and of many starters one gets it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from quatrain.errors import CheckpointError
from quatrain.runlog import RunFolder, lock, owner
from quatrain.runlog.owner import Owner, from_json, state_of, this_process, to_json

# Says "ready", waits for a line, tries to hold the folder, says how that went, and holds it until its input ends.
STARTER = """
import sys
from pathlib import Path
from quatrain.errors import CheckpointError
from quatrain.runlog import RunFolder
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunFolder(Path(sys.argv[1])).lock() as dead:
        print("takes over" if dead else "holds", flush=True)
        sys.stdin.read()
except CheckpointError as error:
    print(f"refused: {error}", flush=True)
"""


class Starter:
    """Another process that wants the folder."""

    def __init__(self, folder: Path):
        command = [sys.executable, "-c", STARTER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def goes(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ends(self, number: int | None = None) -> None:
        """By itself, or by a signal."""
        if number is not None:
            self.process.send_signal(number)
        self.process.communicate()


def started(folder: Path) -> Starter:
    """A starter that holds the folder."""
    starter = Starter(folder)
    assert starter.says() == "ready"
    starter.goes()
    assert starter.says() == "holds"
    return starter


def test_the_second_is_refused_with_host_process_and_start_of_the_first(tmp_path):
    first = started(tmp_path)
    holder = from_json((tmp_path / "run.lock").read_bytes())
    with pytest.raises(CheckpointError) as refused, RunFolder(tmp_path).lock():
        pass
    for part in (holder.host, str(first.process.pid), holder.since, "Wait for it, stop it, or choose another"):
        assert part in str(refused.value)
    assert from_json((tmp_path / "run.lock").read_bytes()) == holder
    first.ends()
    with RunFolder(tmp_path).lock() as dead:
        assert dead is None


def test_it_is_released_on_every_way_out_and_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "first")
    for way_out in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(way_out), folder.lock():
            assert [p.name for p in folder.path.iterdir()] == ["run.lock"]
            raise way_out
        assert list(tmp_path.iterdir()) == []
    with folder.lock():
        folder.events.touch()
    assert list(folder.path.iterdir()) == [folder.events]


def test_ctrl_c_of_a_process_releases_it(tmp_path):
    first = started(tmp_path)
    first.ends(signal.SIGINT)
    assert list(tmp_path.iterdir()) == []


def test_one_process_holds_it_once(tmp_path):
    refused = []

    def second() -> None:
        try:
            with RunFolder(tmp_path).lock():
                pass
        except CheckpointError as error:
            refused.append(error)

    with RunFolder(tmp_path).lock():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert len(refused) == 1
        assert (tmp_path / "run.lock").exists()


def test_a_killed_owner_is_recognised_also_before_anybody_waited_for_it(tmp_path):
    first = started(tmp_path)
    first.process.kill()
    os.waitid(os.P_PID, first.process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.birth_of(first.process.pid) is None
    with RunFolder(tmp_path).lock() as dead:
        assert dead and dead.pid == first.process.pid
    first.ends()
    assert list(tmp_path.iterdir()) == []


def test_a_pid_that_was_given_out_again_is_another_process(tmp_path):
    gone = replace(this_process(), birth="1")
    (tmp_path / "run.lock").write_bytes(to_json(gone))
    with RunFolder(tmp_path).lock() as dead:
        assert dead == gone


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"namespace": "pid:[1]"}])
def test_an_owner_that_cannot_be_seen_from_here_is_left_to_a_person(tmp_path, elsewhere):
    (tmp_path / "run.lock").write_bytes(to_json(replace(this_process(), pid=2**31 - 1, **elsewhere)))
    with (
        pytest.raises(CheckpointError, match=r"can't be seen from here.* delete .*run\.lock"),
        RunFolder(tmp_path).lock(),
    ):
        pass
    assert (tmp_path / "run.lock").exists()


@pytest.mark.parametrize(("filesystem", "state"), [("ext4", "dead"), ("nfs4", "unknown"), ("", "unknown")])
def test_after_a_restart_only_a_local_disk_proves_the_owner_dead(tmp_path, monkeypatch, filesystem, state):
    monkeypatch.setattr(owner, "_filesystem", lambda folder: filesystem)
    assert state_of(replace(this_process(), boot="another"), tmp_path) == state


def test_the_file_system_of_a_folder_is_that_of_its_deepest_and_last_mount(monkeypatch):
    class Mount:
        def __init__(self, mountpoint: str, fstype: str):
            self.mountpoint, self.fstype = mountpoint, fstype

    mounts = [Mount("/", "ext4"), Mount("/data", "xfs"), Mount("/data", "nfs4"), Mount("/data2", "zfs")]
    monkeypatch.setattr(owner.psutil, "disk_partitions", lambda all: mounts)
    assert owner._filesystem(Path("/data/runs")) == "nfs4"
    assert owner._filesystem(Path("/database")) == "ext4"


@pytest.mark.parametrize(("signalled", "born"), [(PermissionError, ""), (ProcessLookupError, None)])
def test_a_process_that_the_system_hides_is_not_taken_for_dead(monkeypatch, signalled, born):
    def kill(pid: int, number: int) -> None:
        raise signalled

    monkeypatch.setattr(owner.os, "kill", kill)
    assert owner.birth_of(2**31 - 1) == born


def test_births_by_either_way_tell_processes_apart():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for birth in (owner.birth_of, owner._birth_by_psutil):
        assert birth(os.getpid()) == birth(os.getpid()) != birth(child.pid)
    child.communicate(b"\n")
    assert owner.birth_of(child.pid) is None and owner._birth_by_psutil(child.pid) is None


def torn_locks():
    whole = to_json(this_process())
    yield from (b"", b"\n", whole[:40], b"\xff" * 10, b"[" * 4096, b"[]", b"{}", b'"host"')
    for name, value in {"pid": 0, "token": "../..", "host": "a\x1b[2J", "birth": 3, "boot": None}.items():
        yield json.dumps(json.loads(whole) | {name: value}).encode()


@pytest.mark.parametrize("text", [*torn_locks()])
def test_a_torn_lock_is_refused_by_name_and_left_alone(tmp_path, monkeypatch, text):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    (tmp_path / "run.lock").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"run\.lock should say .* delete it"), RunFolder(tmp_path).lock():
        pass
    assert (tmp_path / "run.lock").read_bytes() == text and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_file_at_all_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    for name in ("folder", "pipe", "link"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "run.lock").mkdir()
    os.mkfifo(tmp_path / "pipe" / "run.lock")
    (tmp_path / "link" / "run.lock").symlink_to("nowhere")
    for name in ("folder", "pipe", "link"):
        with pytest.raises(CheckpointError, match="delete it"), RunFolder(tmp_path / name).lock():
            pass


def test_a_record_that_is_still_being_written_is_waited_for(tmp_path):
    path = tmp_path / "run.lock"
    path.touch()
    writer = threading.Timer(0.1, lambda: path.write_bytes(to_json(this_process())))
    writer.start()
    with pytest.raises(CheckpointError, match="Wait for it"), RunFolder(tmp_path).lock():
        pass
    writer.join()


def test_without_hard_links_it_holds_as_well(tmp_path, monkeypatch):
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", no_links)
    with RunFolder(tmp_path).lock():
        assert [p.name for p in tmp_path.iterdir()] == ["run.lock"]
        with pytest.raises(CheckpointError, match="Wait for it"), RunFolder(tmp_path).lock():
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_network_disk_that_repeats_a_request_does_not_refuse_its_own_link(tmp_path, monkeypatch):
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(lock.os, "link", twice)
    with RunFolder(tmp_path).lock() as dead:
        assert dead is None


def test_a_full_disk_is_said_and_leaves_no_lock(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.* choose another"), RunFolder(tmp_path).lock():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_takes_its_lock_along(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        (folder.path / "run.lock").unlink()
        folder.path.rmdir()
    assert not folder.path.exists()


def test_a_lock_that_a_person_gave_to_another_is_not_removed(tmp_path):
    path = tmp_path / "run.lock"
    another = this_process()
    with RunFolder(tmp_path).lock():
        path.write_bytes(to_json(another))
    assert from_json(path.read_bytes()) == another


def dead_owner() -> Owner:
    return replace(this_process(), birth="1")


@pytest.mark.parametrize("left", ["nothing", "a dead lock", "a dead lock and its dead claim"])
def test_of_several_that_start_at_once_exactly_one_wins(tmp_path, left):
    if left != "nothing":
        dead = dead_owner()
        (tmp_path / "run.lock").write_bytes(to_json(dead))
        if left.endswith("claim"):
            (tmp_path / f"run.lock.{dead.token}").write_bytes(to_json(dead_owner()))
    starters = [Starter(tmp_path) for _ in range(6)]
    assert {s.says() for s in starters} == {"ready"}
    for starter in starters:
        starter.goes()
    said = [s.says() for s in starters]
    assert said.count("holds" if left == "nothing" else "takes over") == 1
    assert sum(s.startswith("refused: one run at a time") for s in said) == 5
    for starter in starters:
        starter.ends()
    assert list(tmp_path.iterdir()) == []


def test_a_slow_starter_does_not_replace_the_one_that_was_faster(tmp_path, monkeypatch):
    """It judges the dead owner, and before it acts another has taken the folder over."""
    path, faster = tmp_path / "run.lock", this_process()
    path.write_bytes(to_json(dead_owner()))
    judge = lock.state_of

    def slow(found: Owner, folder: Path):
        state = judge(found, folder)
        if state == "dead":
            path.write_bytes(to_json(faster))
        return state

    monkeypatch.setattr(lock, "state_of", slow)
    with pytest.raises(CheckpointError, match="Wait for it"), RunFolder(tmp_path).lock():
        pass
    assert from_json(path.read_bytes()) == faster and list(tmp_path.iterdir()) == [path]
