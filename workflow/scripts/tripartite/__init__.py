"""A transformer built from neurons and astrocytes (Kozachkov, Kastanenka & Krotov, PNAS 2023)."""

__version__ = "0.7.0"
