"""Decisions: deterministic machines without clock, I/O, logging or randomness of their own.

machine.py says what a machine is. Whatever is here runs the same under net/ (real time) and
sim/ (virtual time).
"""
