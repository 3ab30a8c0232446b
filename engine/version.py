"""The engine's version, for who must not wait for the package metadata: looking there takes a twentieth of a start."""

__version__ = "0.1.0"
