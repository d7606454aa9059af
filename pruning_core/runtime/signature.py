# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Detached Ed25519 signatures of bundles, by the `cryptography` package where a key is configured.

What is signed is the manifest, byte for byte; it lists the SHA-256 of everything else. The
signature lies beside it as `manifest.sig`, 64 bytes. Keys are PEM files. Without a configured key
nothing of this is imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from pruning_core.errors import BundleError, ConfigError, explain, missing

_MAX_KEY = 1 << 14
_DOMAIN = b'pruned_controller bundle 1\n'  # so that no other signed text can pass for a manifest


class PrivateKey(Protocol):
    """Signs; cryptography's Ed25519PrivateKey."""

    def sign(self, data: bytes, /) -> bytes:
        """Return 64 bytes."""


class PublicKey(Protocol):
    """Verifies; cryptography's Ed25519PublicKey."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Raise InvalidSignature where it does not match."""


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise missing('a signature was asked for', 'cryptography', 'sign') from error
    return serialization, ed25519


def make_keys(private: Path, public: Path) -> None:
    """Write a new pair of keys; the private one is readable by its owner alone.

    Raises:
        ConfigError: one of the files exists already, or cannot be written.
        MissingExtra: cryptography is not installed.
    """
    serialization, ed25519 = _library()
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                               serialization.NoEncryption())
    known = key.public_key().public_bytes(serialization.Encoding.PEM,
                                          serialization.PublicFormat.SubjectPublicKeyInfo)
    for path, content, mode in ((private, secret, 0o600), (public, known, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise ConfigError(
                explain(f"a key was to be written to '{path}'", error.strerror or str(error),
                        'a new file in a folder that can be written', 'choose another name')
            ) from error
        with open(descriptor, 'wb') as file:
            file.write(content)


def load_private(path: Path) -> PrivateKey:
    """Read a private key.

    Raises:
        ConfigError: it cannot be read, or is none.
        MissingExtra: cryptography is not installed.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(_content(path), password=None)
    except (ValueError, TypeError) as error:
        raise _no_key(path, 'private') from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _no_key(path, 'private')
    return key  # type: ignore[no-any-return]


def load_public(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        ConfigError: it cannot be read, or is none.
        MissingExtra: cryptography is not installed.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_public_key(_content(path))
    except ValueError as error:
        raise _no_key(path, 'public') from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _no_key(path, 'public')
    return key  # type: ignore[no-any-return]


def sign(manifest: bytes, key: PrivateKey) -> bytes:
    """Return the signature of a manifest."""
    return bytes(key.sign(_DOMAIN + manifest))


def check(manifest: bytes, signature: bytes | None, key: PublicKey, what: str) -> None:
    """Hold a manifest against its signature.

    Args:
        manifest: its bytes; they need not have been parsed.
        signature: 64 bytes, None where there is none.
        key: that it must have been signed with.
        what: what the manifest belongs to, for the message.

    Raises:
        BundleError: unsigned, or signed by somebody else, or changed since.
    """
    asked = f'{what} was verified against the configured key'
    if signature is None:
        raise BundleError(
            explain(asked, 'it is not signed', 'bundles signed with the matching private key',
                    'sign it: python -m pruning_core sign BUNDLE --key KEY')
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _DOMAIN + manifest)
    except InvalidSignature:
        raise BundleError(
            explain(asked, 'its signature does not match',
                    'bundles signed with the matching private key, unchanged since',
                    'sign it again, or find out who made it')
        ) from None


def _content(path: Path) -> bytes:
    try:
        with path.open('rb') as file:
            return file.read(_MAX_KEY)
    except OSError as error:
        raise ConfigError(
            explain(f"key '{path}' was to be read", error.strerror or str(error),
                    'a PEM file', 'correct the path, or make keys: python -m pruning_core keys')
        ) from error


def _no_key(path: Path, kind: str) -> ConfigError:
    return ConfigError(
        explain(f"key '{path}' was to be read", f'it is no {kind} Ed25519 key in PEM form',
                f'a {kind} key without a password',
                'make a pair: python -m pruning_core keys')
    )
