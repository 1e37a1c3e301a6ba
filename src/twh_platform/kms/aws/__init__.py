"""
Keys in AWS KMS and secrets in AWS Secrets Manager.  Needs the extra ``aws``.
"""

from __future__ import annotations

from ..._extras import missing_extra

try:
    import boto3 as _boto3
except ImportError as error:
    raise missing_extra("aws", error) from error

from ._secrets import AwsSecretStore
from ._service import AwsKeyService

__all__ = ["AwsKeyService", "AwsSecretStore"]

del _boto3
