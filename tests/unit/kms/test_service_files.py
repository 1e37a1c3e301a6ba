"""
The files for `--service` that the reference shows: each describes a key service.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("hvac")
pytest.importorskip("boto3")

from twh_platform.cli._keys import key_service
from twh_platform.errors import ConfigurationError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "kms-lifecycle.md"
SHOWN = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def service_of(folder: Path, text: str) -> str:
    """The name of the key service that a file describes."""
    file = folder / "service.toml"
    file.write_text(text)
    with key_service(argparse.Namespace(service=file)) as service:
        return service.name


def test_each_file_that_is_shown_describes_a_service(tmp_path, monkeypatch):
    """Vault and AWS, and nobody is asked anything while it is read."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    assert [service_of(tmp_path, text) for text in SHOWN] == ["vault", "aws"]


def test_a_mac_key_that_could_be_a_tenants_is_refused(tmp_path):
    """Control: the same file with a name that a tenant's id could give."""
    with pytest.raises(ConfigurationError):
        service_of(tmp_path, SHOWN[1].replace("twh/mac", "twh-mac"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'provider = "aws"\nkey = 5\nallowed = []',
        b'provider = "local"\nkeyset = "\\u0000"',
    ],
)
def test_a_file_that_describes_nothing_is_told(content, tmp_path):
    """Bytes that are no text, and values of another type, are no crash."""
    file = tmp_path / "service.toml"
    file.write_bytes(content)
    told = argparse.Namespace(service=file)

    with pytest.raises(ConfigurationError) as caught, key_service(told):
        pass
    assert caught.value.code == "key_service_invalid"
