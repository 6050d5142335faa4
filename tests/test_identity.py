"""What is kept on disk: for the user alone, the same after a restart, and never half written."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swarm import atomic, entrance
from swarm.errors import BadInput, NotInvited
from swarm.identity import MAX_SLOTS, Identity, Keyring
from swarm.secret import Secret
from swarm.types import Address

SECRET = Secret.new()
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "swarm")


def taken(keyring: Keyring, secret: Secret = SECRET, *, new: bool = False) -> Identity:
    identity = keyring.identity(secret, new=new)
    assert identity is not None
    return identity


# The secret


@posix
def test_the_secret_is_for_the_user_alone(keyring: Keyring) -> None:
    assert keyring.secret() is None
    made = keyring.make()
    assert keyring.make() == made == keyring.secret()
    assert keyring.secret_file.stat().st_mode & 0o777 == 0o600
    assert keyring.folder.stat().st_mode & 0o777 == 0o700
    other = Secret.new()
    keyring.keep(other)
    assert keyring.secret() == other
    assert keyring.secret_file.stat().st_mode & 0o777 == 0o600


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_secret_that_others_can_get_at_is_not_used(keyring: Keyring, mode: int) -> None:
    keyring.make()
    keyring.secret_file.chmod(mode)
    with pytest.raises(BadInput, match="chmod 600") as refused:
        keyring.secret()
    assert "swarm secret rotate" in str(refused.value)
    assert f"{mode:03o}" in str(refused.value)


def test_a_damaged_secret_is_not_replaced(keyring: Keyring) -> None:
    """It may be all that there is: a person has to look."""
    keyring.make()
    keyring.secret_file.write_text("swarm1-abc")
    for use in (keyring.secret, keyring.make):
        with pytest.raises(BadInput, match="not a whole swarm secret"):
            use()
    keyring.secret_file.write_bytes(b"\xff" * 10**6)
    with pytest.raises(BadInput):
        keyring.secret()


def test_of_several_first_peers_one_makes_the_secret(tmp_path: Path) -> None:
    code = "import sys; from swarm.identity import Keyring; print(Keyring().make().reveal())"
    env = os.environ | {"SWARM_HOME": str(tmp_path / "new")}
    running = [
        subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(4)
    ]
    assert len({process.communicate(timeout=30)[0] for process in running}) == 1


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    atomic.replace(file, b"old")

    def crash(_: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="power cut"):
        atomic.replace(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@posix
def test_what_was_replaced_stays_so_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is written out too, after the file took its place in it."""
    synced: list[tuple[bool, bool]] = []
    file, fsync = tmp_path / "secret", os.fsync

    def watched(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), file.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    atomic.replace(file, b"new")
    assert synced == [(False, False), (True, True)]


def test_whether_a_secret_could_be_kept_is_known_before_a_code_is_used_up(
    keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.check_room()
    assert keyring.secret() is None
    assert {file.name for file in keyring.folder.iterdir()} <= {"secret.lock"}
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="SWARM_HOME"):
        Keyring(tmp_path / "file").check_room()

    def full(_file: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "replace", full)
    with pytest.raises(BadInput, match="No space left"):
        keyring.check_room()


def test_a_folder_without_locks_is_told(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(BadInput, match=r"flock.*SWARM_HOME"):
        keyring.make()
    assert keyring.identity(SECRET) is None


def test_where_the_secret_comes_from(keyring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_file, in_variable, kept = Secret.new(), Secret.new(), keyring.make()
    file = tmp_path / "fleet"
    file.write_text(in_file.reveal() + "\n")
    file.chmod(0o600)
    monkeypatch.setenv("SWARM_SECRET", in_variable.reveal())
    found = entrance.held(keyring, file)
    assert found == entrance.Held(in_file, "file", None)
    assert entrance.held(keyring) == entrance.Held(in_variable, "variable")
    monkeypatch.delenv("SWARM_SECRET")
    assert entrance.held(keyring) == entrance.Held(kept, "kept")
    assert entrance.held(Keyring(tmp_path / "nothing")) is None
    with pytest.raises(BadInput, match="no secret file"):
        entrance.held(keyring, tmp_path / "missing")
    monkeypatch.setenv("SWARM_SECRET", "password")
    with pytest.raises(BadInput, match="SWARM_SECRET") as refused:
        entrance.held(keyring)
    assert "password" not in str(refused.value)


@posix
def test_a_file_that_a_container_mounts_for_all_is_used_and_told(keyring: Keyring, tmp_path: Path) -> None:
    file = tmp_path / "fleet"
    file.write_text(SECRET.reveal())
    file.chmod(0o444)
    found = entrance.held(keyring, file)
    assert found is not None
    assert found.secret == SECRET
    assert found.warning is not None
    assert str(file) in found.warning


# Who may begin a swarm


def test_a_device_that_sees_a_swarm_does_not_begin_another() -> None:
    here = Address("192.168.1.20", 4747)
    assert entrance.refusal(entrance.Surroundings(0, 0), []) is None
    assert entrance.refusal(entrance.Surroundings(0, 3), []) is None, "an open one is no reason"
    seen = entrance.refusal(entrance.Surroundings(2, 0), [])
    assert seen is not None
    assert "swarm invite" in seen
    assert "--new" in seen
    named = entrance.refusal(entrance.Surroundings(0, 0), [here])
    assert named is not None
    assert str(here) in named


async def test_without_multicast_the_first_device_begins_and_a_named_peer_stops_it(keyring: Keyring) -> None:
    with pytest.raises(NotInvited, match=r"192\.168\.1\.20"):
        await entrance.begin(keyring, interfaces=[], mdns=False, peers=[Address("192.168.1.20", 1)])
    made = await entrance.begin(keyring, interfaces=[], mdns=False, peers=[])
    assert await asyncio.to_thread(keyring.secret) == made


# Keys


def test_a_peer_that_comes_back_is_the_same_peer(keyring: Keyring) -> None:
    first = taken(keyring)
    first.release()
    again = taken(keyring)
    assert again.credentials.id == first.credentials.id
    again.release()


def test_peers_beside_one_another_take_slots(keyring: Keyring) -> None:
    first, second = taken(keyring), taken(keyring)
    assert first.credentials.id != second.credentials.id
    first.release()
    third = taken(keyring)
    assert third.credentials.id == first.credentials.id
    second.release()
    third.release()
    pems = sorted(path.name for path in (keyring.folder / "identity").glob("*.pem"))
    assert pems == ["0.pem", "1.pem"]


def test_a_killed_process_frees_its_slot(keyring: Keyring) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from swarm.identity import Keyring; from swarm.secret import Secret\n"
        "identity = Keyring(Path(sys.argv[1])).identity(Secret.parse(sys.argv[2]))\n"
        "print(identity.credentials.id, flush=True); time.sleep(20)"
    )
    argv = [sys.executable, "-P", "-c", code, str(keyring.folder), SECRET.reveal()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = process.stdout.readline().strip()
        beside = taken(keyring)
        assert beside.credentials.id != theirs
        process.kill()
        process.wait()
    mine = taken(keyring)
    assert mine.credentials.id == theirs
    mine.release()
    beside.release()


@posix
def test_keys_are_for_the_user_alone(keyring: Keyring) -> None:
    taken(keyring).release()
    file = keyring.folder / "identity" / "0.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        keyring.identity(SECRET)
    file.chmod(0o600)
    taken(keyring).release()


def test_another_secret_gives_another_leaf_for_the_same_key(keyring: Keyring) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    file = keyring.folder / "identity" / "0.pem"
    first = taken(keyring)
    first.release()
    key = load_pem_private_key(file.read_bytes(), None)
    second = taken(keyring, Secret.new())
    second.release()
    assert second.credentials.id != first.credentials.id
    assert second.credentials.tag != first.credentials.tag
    assert load_pem_private_key(file.read_bytes(), None).public_key() == key.public_key()


def test_a_new_identity_forgets_the_key(keyring: Keyring) -> None:
    first = taken(keyring)
    first.release()
    second = taken(keyring, new=True)
    second.release()
    third = taken(keyring)
    third.release()
    assert first.credentials.id != second.credentials.id == third.credentials.id


@pytest.mark.parametrize(
    "rubbish", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_is_replaced(keyring: Keyring, rubbish: bytes) -> None:
    first = taken(keyring)
    first.release()
    (keyring.folder / "identity" / "0.pem").write_bytes(rubbish)
    second = taken(keyring)
    second.release()
    assert second.credentials.id != first.credentials.id


def test_where_nothing_can_be_kept_there_is_no_slot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Keyring(tmp_path / "file").identity(SECRET) is None
    with pytest.raises(BadInput, match="SWARM_HOME"):
        Keyring(tmp_path / "file").make()
    with pytest.raises(BadInput, match="cannot be read"):
        Keyring(tmp_path / "file").secret()
    assert MAX_SLOTS >= 32


async def test_a_passing_peer_leaves_nothing(keyring: Keyring) -> None:
    mine, release = await entrance.identity(keyring, SECRET, passing=True, new=False)
    assert len(mine.id) == 32
    assert release is None
    assert not keyring.folder.exists()


def test_a_second_start_needs_no_cryptography(tmp_path: Path) -> None:
    """It takes 11 MB that a small device can use better."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from swarm.identity import Keyring\n"
        "from swarm.secret import Secret\n"
        "identity = Keyring(Path(sys.argv[1])).identity(Secret.parse(sys.argv[2]))\n"
        "print(identity.credentials.id, 'cryptography' in sys.modules)\n"
    )
    argv = [sys.executable, "-P", "-c", script, str(tmp_path), Secret.new().reveal()]
    first, second = (subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() for _ in range(2))
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("True", "False")


def test_a_file_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    secret, keyring = Secret.new(), Keyring(tmp_path)
    taken(keyring, secret).release()
    file = tmp_path / "identity" / "0.pem"
    lines = file.read_text().splitlines()
    other = Keyring(tmp_path / "other")
    taken(other, Secret.new()).release()
    theirs = (tmp_path / "other" / "identity" / "0.pem").read_text().splitlines()
    file.write_text("\n".join([lines[0], *theirs[1:]]) + "\n")
    taken(keyring, secret).release()
    assert file.read_text().splitlines()[1] == lines[1], "the tag of its own swarm again"


def test_a_secret_that_gives_way_to_another_is_set_aside(keyring: Keyring) -> None:
    assert keyring.set_aside(SECRET) is None, "nothing was there"
    keyring.keep(SECRET)
    assert keyring.set_aside(SECRET) is None, "it is the same"
    aside = keyring.set_aside(Secret.new())
    assert aside is not None
    assert aside.read_text().strip() == SECRET.reveal()
    assert os.name != "posix" or aside.stat().st_mode & 0o077 == 0
