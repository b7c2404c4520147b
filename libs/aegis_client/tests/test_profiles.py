from __future__ import annotations

import stat
from pathlib import Path

import pytest

from aegis_client import Client, Profile, ProfileError, load_profile, write_profiles
from aegis_client.profiles import read_profiles


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    file = written(
        tmp_path / "p.toml",
        '[profiles.a]\naddress = "https://localhost:8443/"\nca = "ca.pem"\ntoken_file = "/run/token"\n',
    )

    profile = load_profile(file=file)

    assert profile == Profile(
        address="localhost:8443", ca=tmp_path / "ca.pem", token_file=Path("/run/token"), name="a", source=file
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    profiles = {
        "sdk": Profile(address="localhost:1", ca=tmp_path / "ca", cert=tmp_path / "c", key=tmp_path / "k"),
        'odd "name" ü': Profile(address="[::1]:2", token='a"b\\c', server_name="x.internal"),
    }
    file = tmp_path / "deep" / "profiles.toml"

    write_profiles(file, profiles, default="sdk")

    found, default = read_profiles(file)
    assert default == "sdk"
    assert {name: (item.address, item.ca, item.token) for name, item in found.items()} == {
        name: (item.address, item.ca, item.token) for name, item in profiles.items()
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_nearest_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = '[profiles.a]\naddress = "{}:1"\n'
    written(tmp_path / "home/.config/aegis/profiles.toml", text.format("home"))
    found = [load_profile().address]
    written(tmp_path / ".aegis/profiles.toml", text.format("here"))
    found.append(load_profile().address)
    monkeypatch.setenv("AEGIS_PROFILE_FILE", str(written(tmp_path / "env.toml", text.format("variable"))))
    found.append(load_profile().address)
    found.append(load_profile(file=written(tmp_path / "named.toml", text.format("named"))).address)

    assert found == ["home:1", "here:1", "variable:1", "named:1"]


def test_a_profile_is_chosen_by_name_variable_default_or_being_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(
        tmp_path / "p.toml",
        'default = "a"\n' + "".join(f'[profiles.{n}]\naddress = "{n}:1"\n' for n in "abc"),
    )
    found = [load_profile(file=file).name]
    monkeypatch.setenv("AEGIS_PROFILE", "b")
    found += [load_profile(file=file).name, load_profile("c", file=file).name]

    assert found == ["a", "b", "c"]
    with Client.from_profile("c", file=file) as client:
        assert client.profile.address == "c:1"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[profiles.a]\naddress = 'x:1'\ncolour = 'red'", "unknown key 'colour'"),
        ("tenant = 'x'", "unknown key 'tenant'"),
        ("schema_version = 9", "schema_version 9"),
        ("[profiles.a]\ncert = 'x'", "address is missing"),
        ("[profiles.a]\naddress = 'localhost'", "not host:port"),
        ("[profiles.a]\naddress = 'http://localhost:80'", "not host:port"),
        ("[profiles.a]\naddress = 8443", "address must be a string, not 8443"),
        ("[profiles.a]\naddress = 'x:1'\ncert = 'c'", "cert and key belong together"),
        ("[profiles.a]\naddress = 'x:1'\ntoken = 't'\ntoken_file = 'f'", "exclude each other"),
        ("[profiles.a]\naddress='x:1'\n[profiles.b]\naddress='y:1'", "name one of: a, b"),
        ("default = 'z'\n[profiles.a]\naddress='x:1'", "no profile 'z'.*it has: a"),
        ("profiles = 3", "must be a name and `profiles` a table"),
        ("[profiles", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_the_value(tmp_path: Path, text: str, fault: str) -> None:
    file = written(tmp_path / "p.toml", text)

    with pytest.raises(ProfileError, match=fault) as caught:
        load_profile(file=file)

    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(ProfileError, match=r"\.aegis/profiles\.toml and .*aegis up"):
        load_profile()
    with pytest.raises(ProfileError, match=r"none\.toml cannot be read: No such file"):
        load_profile(file="none.toml")


def test_a_profile_shows_no_secret() -> None:
    assert "hush" not in repr(Profile(address="localhost:1", token="hush"))
