# Copyright 2026 The pruned_controller authors
# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises on purpose, under one root.

A message has four parts: what was asked, what was found, what is allowed, what to do.
`explain` puts them together, so that no part is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

_PACKAGES = {'sklearn': 'scikit-learn'}  # where the name to install is not the one to import


class PruningError(Exception):
    """Root of all errors raised on purpose by `pruning_core` and `pruned_controller`."""


class ConfigError(PruningError):
    """A configuration file, option or parameter that cannot be used."""


class EnvError(PruningError):
    """An environment that is unknown, or that a TD-MPC agent cannot be trained on."""


class AgentError(PruningError):
    """A run folder or checkpoint that is missing, damaged or of another shape."""


class GroupError(PruningError):
    """A structural group, plan or cut that does not fit the model."""


class BundleError(PruningError):
    """A bundle that is missing, damaged, unsafe or made for something else."""


class ExportMismatch(PruningError):
    """An exported graph whose output differs from the torch model's."""


class GateError(PruningError):
    """A pruned agent that is not good enough to be published."""


class JobError(PruningError):
    """A training or pruning job that was refused, failed or was interrupted."""


class MissingExtra(PruningError):
    """An optional library that the requested feature needs."""


def explain(asked: str, found: str, allowed: str, do: str) -> str:
    """Compose a four-part message.

    Args:
        asked: what was asked for.
        found: what was found instead.
        allowed: what would have been accepted.
        do: the next step for the user.

    Returns:
        One line, parts separated by '; '.
    """
    return f'{asked}: {found}; allowed: {allowed}; {do}'


def missing(asked: str, library: str, extra: str, instead: str = '') -> MissingExtra:
    """Compose the error for a library that an installation lacks.

    Args:
        asked: what was asked for.
        library: the name that cannot be imported.
        extra: of this package, that brings the library.
        instead: what would do without it.
    """
    package = _PACKAGES.get(library, library)
    return MissingExtra(
        explain(asked, f"'{library}' is not installed",
                f'an installation with the extra [{extra}]{instead and ", or " + instead}',
                f'run: pip install {package}, with the Python that runs this'
                f'{instead and "; or give " + instead}'))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the known name closest to `name`, or `''`."""
    import difflib  # of use only where something is misspelled

    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ''
